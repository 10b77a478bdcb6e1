"""The judge: reads object, style, place, count, positions and mask off pictures, so that edits are scored as facts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedModel, ResNetForImageClassification, UperNetForSemanticSegmentation

from tav.errors import InputError, loading

SIDE = 64  # pixels at which every picture is judged
FINE = 128  # the finder sees the same picture doubled, since its maps have a quarter of what it sees
VOTES = ["thing", "x", "y", "size", "angle"]  # the finder's maps
AT_ONCE = 64  # pictures through the networks


@dataclass(frozen=True)
class Reading:
    """What the judge reads off f frames.

    probabilities: per question ("object", "style", "place", "count") f n, over `Judge.answers` of that question.
    names: per question the f likeliest answers; a count is written in digits, such as "2".
    things: per frame (count, 4), from left to right: centre x, centre y and longer side as fractions of the frame's
        side, angle in degrees clockwise; the centre may lie outside the frame. nan where no pixel shows a thing.
    numbers: f values each: "x", "y", "size" and "angle" are means over the frame's things, "spread" is the things'
        mean distance from (x, y), 0 for a single one.
    mask: f h w in [0, 1], how likely a pixel belongs to a thing.
    """

    probabilities: dict[str, Tensor]
    names: dict[str, list[str]]
    things: list[Tensor]
    numbers: dict[str, Tensor]
    mask: Tensor


class Judge:
    """Two stock transformers models: `reader` says what a picture shows, `finder` where.

    The reader, a ResNet classifier, has labels such as "object:fox": a question and one of its answers. The finder, an
    UperNet, gives the maps `VOTES`: whether a pixel shows a thing, and what it votes for if it does: from itself to the
    thing's centre, and the thing's size and angle. As votes come from what is seen, a thing that is partly hidden or
    outside the frame still has its own centre.
    """

    def __init__(self, reader: ResNetForImageClassification, finder: UperNetForSemanticSegmentation):
        self.reader, self.finder = reader.eval(), finder.eval()
        labels = [reader.config.id2label[number].partition(":") for number in range(reader.config.num_labels)]
        questions = dict.fromkeys(question for question, _, _ in labels)
        self.columns = {q: [number for number, label in enumerate(labels) if label[0] == q] for q in questions}
        self.answers = {q: [labels[number][2] for number in numbers] for q, numbers in self.columns.items()}

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "auto") -> "Judge":
        """Load `folder`/reader and `folder`/finder in float32; `device` is cpu, cuda, mps or auto, which is
        cuda where it can be used, else cpu.

        Raises InputError with one line if the folder is missing, incomplete or broken.
        """
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        parts = {"reader": ResNetForImageClassification, "finder": UperNetForSemanticSegmentation}
        judge = cls(**{name: _load(kind, Path(folder, name)).to(device) for name, kind in parts.items()})
        if "count" not in judge.answers or judge.finder.config.num_labels != len(VOTES):
            raise InputError(f"{folder} is no judge: its reader needs labels such as count:1, its finder {len(VOTES)}")
        return judge

    @torch.no_grad()
    def read(self, frames: Tensor) -> Reading:
        """Read frames f 3 h w in [0, 1], of any size; everything comes back on the CPU."""
        if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
            raise InputError(f"the judge reads frames f 3 h w, and these are {tuple(frames.shape)}: give it one clip")
        logits, maps = [], []
        for part in frames.split(AT_ONCE):
            part = resize(part.to(self.reader.device, torch.float32), SIDE)
            logits.append(self.reader(with_places(part)).logits.cpu())
            maps.append(self.finder(with_places(resize(part, FINE))).logits.cpu())
        logits, maps = torch.cat(logits), torch.cat(maps)
        probabilities = {question: logits[:, columns].softmax(1) for question, columns in self.columns.items()}
        names = {q: [self.answers[q][best] for best in p.argmax(1)] for q, p in probabilities.items()}
        things = [locate(votes, int(count)) for votes, count in zip(maps, names["count"], strict=True)]
        mask = resize(maps[:, :1], frames.shape[-2:]).sigmoid()[:, 0]
        return Reading(probabilities, names, things, _numbers(things), mask)


def resize(pictures: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Pictures f c h w at another size, without aliasing."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    return pictures if pictures.shape[-2:] == size else interpolate(pictures, size, mode="bilinear", antialias=True)


def places(side: int) -> Tensor:
    """x and y of every pixel's centre as fractions of the side: 2 h w."""
    line = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def with_places(pictures: Tensor) -> Tensor:
    """Square pictures f 3 h w in [0, 1] -> what both networks take, f 5 h w in [-1, 1]: colours, and each pixel's x, y.

    Pooling forgets where something was seen; with these two planes a network can tell.
    """
    planes = repeat(places(pictures.shape[-1]).to(pictures), "c h w -> f c h w", f=len(pictures))
    return torch.cat([pictures, planes], 1) * 2 - 1


def locate(maps: Tensor, count: int) -> Tensor:
    """The `count` things that the pixels of one picture vote for: maps 5 h w (see `VOTES`) -> (count, 4), by x."""
    sure = maps[0] > 0
    if not sure.any():
        return torch.full((count, 4), torch.nan)
    votes = rearrange(maps[1:, sure], "c n -> n c").clone()
    votes[:, :2] += places(maps.shape[-1])[:, sure].T
    votes[:, 3] = votes[:, 3].rad2deg()
    group = _cluster(votes[:, :2], count)
    things = [votes[group == number] for number in range(count)]
    # A median, because votes at a thing's edge go astray. Where votes do not part, several things are in one place.
    things = torch.stack([(thing if len(thing) else votes).median(0).values for thing in things])
    return things[things[:, 0].argsort()]


def _cluster(points: Tensor, count: int) -> Tensor:
    """k-means of points n 2, from seeds far apart but no outliers: -> n numbers below `count`."""
    seeds = points.median(0).values[None]
    for _ in range(count):
        far = torch.cdist(points, seeds).min(1).values.argsort()[int(0.95 * (len(points) - 1))]
        seeds = torch.cat([seeds, points[far : far + 1]])
    seeds = seeds[1:]
    for _ in range(10 if count > 1 else 1):
        group = torch.cdist(points, seeds).argmin(1)
        members = [points[group == number] for number in range(count)]
        seeds = torch.stack([m.mean(0) if len(m) else seed for m, seed in zip(members, seeds, strict=True)])
    return group


def _numbers(things: list[Tensor]) -> dict[str, Tensor]:
    means = torch.stack([frame.mean(0) for frame in things])
    spread = [(frame[:, :2] - mean[:2]).norm(dim=1).mean() for frame, mean in zip(things, means, strict=True)]
    return dict(zip(("x", "y", "size", "angle"), means.T, strict=True), spread=torch.stack(spread))


def _load(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    if not folder.is_dir():
        raise InputError(f"there is no {folder}: give a folder that holds the judge's reader and finder")
    with loading(folder, "fetch the judge again"):
        options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
        model, info = kind.from_pretrained(folder, **options)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} weights are missing")
    return model
