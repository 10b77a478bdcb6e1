"""The judge: reads object, style, place, count, position and mask off pictures, so that edits are scored as facts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import repeat
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import ResNetForImageClassification, UperNetForSemanticSegmentation

from tav.errors import InputError

SIDE = 64  # pixels at which every picture is judged
AT_ONCE = 64  # pictures through the networks


@dataclass(frozen=True)
class Reading:
    """What the judge reads off f frames.

    probabilities: per question ("object", "style", "place", "count") f n, over `Judge.answers` of that question.
    names: per question the f likeliest answers; a count is a number in words of digits, such as "2".
    numbers: f values each of "x" and "y", the mean centre of the things, and "size", the longer side of a thing, as
        fractions of the frame's side; of "spread", the mean distance of the things from their mean centre, likewise;
        and of "angle", degrees clockwise, which means something only where the count is 1.
    mask: f h w in [0, 1], how sure it is that a pixel belongs to a thing.
    """

    probabilities: dict[str, Tensor]
    names: dict[str, list[str]]
    numbers: dict[str, Tensor]
    mask: Tensor


class Judge:
    """Two stock transformers models over pictures of `SIDE` pixels.

    `reader`, a ResNet classifier, answers in labels such as "object:fox", a choice per question, and "x", a number.
    `finder`, an UperNet, says per pixel whether a thing is there.
    """

    def __init__(self, reader: ResNetForImageClassification, finder: UperNetForSemanticSegmentation):
        self.reader, self.finder = reader.eval(), finder.eval()
        self.answers, self.columns = parse_labels(reader.config.id2label)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "auto") -> "Judge":
        """Load `folder`/reader and `folder`/finder in float32; `device` is auto (a GPU if there is one), cpu or cuda.

        Raises InputError with one line if the folder is missing, incomplete or broken.
        """
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        kinds = {"reader": ResNetForImageClassification, "finder": UperNetForSemanticSegmentation}
        return cls(**{part: _load(kind, Path(folder, part)).to(device) for part, kind in kinds.items()})

    @torch.no_grad()
    def read(self, frames: Tensor) -> Reading:
        """Read frames f 3 h w in [0, 1], of any size; everything comes back on the CPU."""
        if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
            raise InputError(f"the judge reads frames of shape f 3 h w, not {tuple(frames.shape)}: give it a clip")
        logits, masks = [], []
        for part in frames.split(AT_ONCE):
            pictures = prepare(part.to(self.reader.device, torch.float32))
            logits.append(self.reader(pictures).logits.cpu())
            found = self.finder(pictures).logits[:, :1].sigmoid()
            masks.append(interpolate(found, frames.shape[-2:], mode="bilinear", antialias=True)[:, 0].cpu())
        logits = torch.cat(logits)
        probabilities = {question: logits[:, self.columns[question]].softmax(1) for question in self.answers}
        names = {q: [self.answers[q][best] for best in p.argmax(1)] for q, p in probabilities.items()}
        numbers = {name: logits[:, place] for name, place in self.columns.items() if name not in self.answers}
        numbers["angle"] = torch.atan2(numbers.pop("sin"), numbers.pop("cos")).rad2deg()
        return Reading(probabilities, names, numbers, torch.cat(masks))


def prepare(frames: Tensor) -> Tensor:
    """Frames f 3 h w in [0, 1] -> what both networks take, f 5 h w: red, green, blue, and where a pixel is, x and y."""
    if frames.shape[-2:] != (SIDE, SIDE):
        frames = interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    place = (torch.arange(SIDE, device=frames.device) + 0.5) / SIDE * 2 - 1
    y, x = repeat(place, "h -> f 1 h w", f=len(frames), w=SIDE), repeat(place, "w -> f 1 h w", f=len(frames), h=SIDE)
    return torch.cat([frames * 2 - 1, x, y], 1)
