"""The judge: reads what and where off pictures, so that edits are scored as facts."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from transformers import PreTrainedModel, ResNetForImageClassification, UperNetForSemanticSegmentation

from tav.errors import InputError, loading

SIDE = 64  # pixels at which every picture is judged
FINE = 128  # the finder sees the same picture doubled, since its first maps have a quarter of what it sees
SEEN = 96  # pixels at which the reader sees a picture and a crop of it
CROP = 1.4  # sides of a thing that its crop shows
NOTHING = "nothing"  # the object of a picture in which none can be recognised
VOTES = ["thing", "x", "y", "size", "sin", "cos", "squash", "shear", "red", "green", "blue", "step sin", "step cos"]
POSE, PAINT, STEP = slice(1, 8), slice(8, 11), slice(11, 13)  # which of the votes they are
MAPPED = ("object", "colour")  # the questions that the finder answers at every pixel
AT_ONCE = 64  # pictures through the networks


@dataclass(frozen=True)
class Told:
    """What the reader says of k given places of f frames, each the likeliest answer: f lists of k names.

    object: "nothing" where none is there that can be recognised.
    """

    object: list[list[str]]
    colour: list[list[str]]


@dataclass(frozen=True)
class Reading:
    """What the judge reads off f frames.

    answers: as `Judge.answers`. probabilities: per question f n, over its answers; they are about the thing that shows
    most. names: per question the f likeliest answers. mask: f h w in [0, 1], of the frames' size: how likely a pixel
    belongs to a thing. maps: f c 64 64, what each pixel votes for, in the order of `VOTES`, `thing` as a logit.
    classes: per question of `MAPPED` f n 64 64, each pixel's probabilities. told: of the places that it was asked
    about, if it was.
    """

    answers: dict[str, list[str]]
    probabilities: dict[str, Tensor]
    names: dict[str, list[str]]
    mask: Tensor
    maps: Tensor
    classes: dict[str, Tensor]
    told: Told | None = None

    @property
    def recognisable(self) -> Tensor:
        """Which frames show anything that can be recognised: f, bool."""
        return torch.tensor([name != NOTHING for name in self.names["object"]])

    @cached_property
    def colour(self) -> Tensor:
        """Red, green and blue of the things' paint, f 3 in [0, 1]; nan where no pixel shows a thing."""
        return torch.stack([_middle(maps[PAINT], maps[0] > 0) for maps in self.maps])

    @cached_property
    def phase(self) -> Tensor:
        """Where a walk cycle is, f in [0, 1): of worth for things that have one; nan where no pixel shows a thing."""
        sin, cos = torch.stack([_middle(maps[STEP], maps[0] > 0) for maps in self.maps]).T
        return torch.atan2(sin, cos) / (2 * torch.pi) % 1

    def things(self, count: int) -> Tensor:
        """The `count` things of each frame that its pixels vote for, as `locate` has them: f count 6."""
        return torch.stack([locate(maps, count) for maps in self.maps])


class Judge:
    """Two stock transformers models: `finder` says what is where, and then `reader` what a picture shows.

    The finder, an UperNet, gives the maps `VOTES`: whether a pixel shows a thing, and what it votes for if it does:
    from itself to the thing's centre, the thing's longer side, sine and cosine of its angle, how it is bent, its paint,
    sine and cosine of its walk cycle. As votes come from what is seen, a thing that is partly hidden or outside the
    frame still has its own centre. More maps, labelled as the reader's, are each pixel's object and colour. The reader,
    a ResNet classifier, sees the whole picture and a crop, see `cropped`, of what was found or of a place that it is
    asked about; it has labels such as "object:dog": a question and one of its answers.
    """

    def __init__(self, reader: ResNetForImageClassification, finder: UperNetForSemanticSegmentation):
        self.reader, self.finder = reader.eval(), finder.eval()
        self.columns, self.answers = _questions(reader, 0)
        self.mapped, _ = _questions(finder, len(VOTES))

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "auto") -> "Judge":
        """Load `folder`/reader and `folder`/finder in float32; `device` is auto (a GPU if there is one), cpu or cuda.

        Raises InputError with one line if the folder is missing, incomplete or broken.
        """
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        parts = {"reader": ResNetForImageClassification, "finder": UperNetForSemanticSegmentation}
        judge = cls(**{name: _load(kind, Path(folder, name)).to(device) for name, kind in parts.items()})
        votes = [judge.finder.config.id2label[number] for number in range(judge.finder.config.num_labels)]
        if not set(MAPPED) <= set(judge.answers) or votes[: len(VOTES)] != VOTES or set(judge.mapped) != set(MAPPED):
            raise InputError(f"{folder} is no judge: its reader needs labels such as object:dog, its finder {VOTES}")
        return judge

    @torch.no_grad()
    def read(self, frames: Tensor, poses: Tensor | None = None) -> Reading:
        """Read frames f 3 h w in [0, 1], of any size; everything comes back on the CPU.

        poses: f k 6 as `locate` has them, places to be read beside what is found.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
            raise InputError(f"the judge reads frames f 3 h w, and these are {tuple(frames.shape)}: give it one clip")
        logits, maps = [], []
        for part in frames.split(AT_ONCE):
            part = part.to(self.reader.device, torch.float32)
            maps.append(resize(find(self.finder, prepare(part)), SIDE).cpu())
            logits.append(self._read_crops(part, torch.cat([locate(of, 1) for of in maps[-1]])))
        logits, maps, told = torch.cat(logits), torch.cat(maps), None
        if poses is not None:
            each = self._read_crops(frames.repeat_interleave(poses.shape[1], 0), poses.flatten(0, 1))
            best = {
                what: rearrange(each[:, self.columns[what]].argmax(1), "(f k) -> f k", f=len(frames)) for what in MAPPED
            }
            told = Told(*([[self.answers[what][n] for n in row] for row in best[what].tolist()] for what in MAPPED))
        probabilities = {question: logits[:, columns].softmax(1) for question, columns in self.columns.items()}
        names = {q: [self.answers[q][best] for best in p.argmax(1)] for q, p in probabilities.items()}
        classes = {question: maps[:, columns].softmax(1) for question, columns in self.mapped.items()}
        mask = resize(maps[:, :1], frames.shape[-2:]).sigmoid()[:, 0]
        return Reading(self.answers, probabilities, names, mask, maps[:, : len(VOTES)], classes, told)

    def _read_crops(self, frames: Tensor, poses: Tensor) -> Tensor:
        """The reader's logits for one place of each frame: n 3 h w and n 6 -> n labels."""
        parts = zip(frames.split(AT_ONCE), poses.split(AT_ONCE), strict=True)
        parts = ((part.to(self.reader.device, torch.float32), at.to(self.reader.device)) for part, at in parts)
        return torch.cat([self.reader(beside(part, cropped(part, at))).logits.cpu() for part, at in parts])


def resize(pictures: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Pictures f c h w at another size, without aliasing."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if pictures.shape[-2:] == size:
        return pictures
    smaller = size[0] < pictures.shape[-2] or size[1] < pictures.shape[-1]
    return interpolate(pictures, size, mode="bilinear", antialias=smaller)


def places(side: int) -> Tensor:
    """x and y of every pixel's centre as fractions of the side: 2 h w."""
    line = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def prepare(pictures: Tensor) -> Tensor:
    """Pictures f 3 h w in [0, 1] -> what the finder takes, f 5 128 128 in [-1, 1]: colours, and each pixel's x, y.

    Pooling forgets where something was seen; with these two planes a network can tell.
    """
    pictures = resize(resize(pictures, SIDE), FINE)
    planes = repeat(places(FINE).to(pictures), "c h w -> f c h w", f=len(pictures))
    return torch.cat([pictures, planes], 1) * 2 - 1


def cropped(pictures: Tensor, poses: Tensor) -> Tensor:
    """A thing of each picture f 3 h w in [0, 1] turned upright, unbent and brought to size: f 3 96 96 in [0, 1].

    poses: f 6, as `locate` has them; where one is nan the crop is grey. Which way the thing faces stays as it is.
    """
    found = ~poses.isnan().any(1)
    x, y, size, angle, squash, shear = poses.nan_to_num(0).unbind(1)
    centre = 2 * torch.stack([x, y], 1)[..., None] - 1
    theta = torch.cat([turned(angle, squash, shear) * (CROP * size)[:, None, None], centre], 2)
    grid = affine_grid(theta, [len(pictures), 3, SEEN, SEEN], align_corners=False)
    crops = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return torch.where(found[:, None, None, None], crops, 0.5)


def turned(angle: Tensor, squash: Tensor, shear: Tensor) -> Tensor:
    """What a thing's own directions, right and down, become when it is bent and then turned: n each -> n 2 2."""
    turn = angle.deg2rad()
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).reshape(-1, 2, 2)
    shape = torch.stack([(squash / 2).exp(), shear, torch.zeros_like(shear), (-squash / 2).exp()], 1).reshape(-1, 2, 2)
    return rotation @ shape


def beside(pictures: Tensor, crops: Tensor) -> Tensor:
    """What the reader takes, f 6 96 96 in [-1, 1]: pictures f 3 h w in [0, 1] and crops of theirs."""
    return torch.cat([resize(resize(pictures, SIDE), SEEN), crops], 1) * 2 - 1


def find(finder: UperNetForSemanticSegmentation, prepared: Tensor) -> Tensor:
    """The finder's maps f c 32 32, before its own forward pass would enlarge them fourfold."""
    return finder.decode_head(finder.backbone(prepared).feature_maps)


def locate(maps: Tensor, count: int, classes: Tensor | None = None) -> Tensor:
    """The `count` things that the pixels of one picture vote for: maps c h w (see `VOTES`) -> (count, 6), by x.

    classes: n h w, whose means over each thing's pixels stand after its six numbers: (count, 6 + n).

    The six: centre x, centre y and longer side as fractions of the frame's side, angle in degrees clockwise, -180 to
    180, squash (log of width to height) and shear; the centre may lie outside the frame. nan where no pixel shows a
    thing.
    """
    sure, classes = maps[0] > 0, maps[:0] if classes is None else classes
    if not sure.any():
        return torch.full((count, 6 + len(classes)), torch.nan)
    votes = rearrange(maps[POSE, sure], "c n -> n c").clone()
    votes[:, :2] += places(maps.shape[-1])[:, sure].T
    group = _cluster(votes[:, :2], count)
    things = [votes[group == number] for number in range(count)]
    # A median, because votes at a thing's edge go astray. Where votes do not part, several things are in one place.
    things = torch.stack([(thing if len(thing) else votes).median(0).values for thing in things])
    looks = rearrange(classes[:, sure], "c n -> n c")
    looks = torch.stack([(looks[own] if (own := group == number).any() else looks).mean(0) for number in range(count)])
    return torch.cat([pose_of(things), looks], 1)[things[:, 0].argsort()]


def pose_of(votes: Tensor) -> Tensor:
    """Rows of x, y, size, sine and cosine of the angle, squash and shear, the first of `votes`, as `locate` has them:
    (n, 6)."""
    angle = torch.atan2(votes[:, 3], votes[:, 4]).rad2deg()
    return torch.cat([votes[:, :3], angle[:, None], votes[:, 5:7]], 1)


def hue(rgb: Tensor) -> Tensor:
    """Hue in degrees, 0 to 360, of colours (..., 3); of a grey it means nothing."""
    red, green, blue = rgb.unbind(-1)
    return torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue).rad2deg() % 360


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


def _middle(maps: Tensor, sure: Tensor) -> Tensor:
    """The median of maps c h w where `sure`: c."""
    return maps[:, sure].median(1).values if sure.any() else torch.full((len(maps),), torch.nan)


def _questions(model: PreTrainedModel, first: int) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """Per question of a network's labels, from the `first` on, their columns and the answers."""
    labels = {n: model.config.id2label[n].partition(":") for n in range(first, model.config.num_labels)}
    questions = dict.fromkeys(question for question, _, _ in labels.values())
    columns = {q: [number for number, label in labels.items() if label[0] == q] for q in questions}
    return columns, {q: [labels[number][2] for number in numbers] for q, numbers in columns.items()}


def _load(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    if not folder.is_dir():
        raise InputError(f"there is no {folder}: give a folder that holds the judge's reader and finder")
    with loading(folder, "fetch the judge again"):
        options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
        model, info = kind.from_pretrained(folder, **options)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} weights are missing")
    return model
