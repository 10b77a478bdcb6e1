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
OFF = [
    f"off:{what}" for what in ("x", "y", "size", "angle", "squash", "shear")
]  # labels of the reader that are numbers
LOOKS = ("object", "colour")  # the questions that tell several things apart
LOOKED = 3  # times that the reader looks at what was found, each time where the last has put it
SURE = 0.7  # how likely the likeliest object has to be for it to be named; set on frames that were labelled by eye
AT_ONCE = 64  # pictures through the networks


@dataclass(frozen=True)
class Told:
    """What the reader says of k given places of f frames, each the likeliest answer: f lists of k names.

    object: "nothing" where none is likely enough, see `SURE`.
    """

    object: list[list[str]]
    colour: list[list[str]]


@dataclass(frozen=True)
class Reading:
    """What the judge reads off f frames.

    answers: as `Judge.answers`. probabilities: per question f n, over its answers; they are about the thing that shows
    most. names: per question the f likeliest answers; the object is "nothing" where none is likely enough, see `SURE`.
    mask: f h w in [0, 1], of the frames' size: how likely a pixel belongs to a thing. maps: f c 64 64, what each pixel
    votes for, in the order of `VOTES`, `thing` as a logit. things: f k 6 as `locate` has them, where the things are
    found; nan where one is not. looks: f k n, probabilities of what each of them is, over the answers of `LOOKS`.
    told: of the places that it was asked about, if it was.
    """

    answers: dict[str, list[str]]
    probabilities: dict[str, Tensor]
    names: dict[str, list[str]]
    mask: Tensor
    maps: Tensor
    things: Tensor
    looks: Tensor
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


class Judge:
    """Two stock transformers models: `finder` says what is where, and then `reader` what it is and where exactly.

    The finder, an UperNet, gives the maps `VOTES`: whether a pixel shows a thing, and what it votes for if it does:
    from itself to the thing's centre, the thing's longer side, sine and cosine of its angle, how it is bent, its paint,
    sine and cosine of its walk cycle. As votes come from what is seen, a thing that is partly hidden or outside the
    frame still has its own centre. The reader, a ResNet classifier, sees the whole picture and a crop, see `cropped`,
    of what was found or of a place that it is asked about; it has labels such as "object:dog": a question and one of
    its answers. Its labels `OFF` are numbers: how far the crop is off, see `moved`.
    """

    def __init__(self, reader: ResNetForImageClassification, finder: UperNetForSemanticSegmentation):
        self.reader, self.finder = reader.eval(), finder.eval()
        labels = [reader.config.id2label[number] for number in range(reader.config.num_labels)]
        questions = dict.fromkeys(label.partition(":")[0] for label in labels if label not in OFF)
        self.columns = {q: [n for n, label in enumerate(labels) if label.partition(":")[0] == q] for q in questions}
        self.answers = {q: [labels[n].partition(":")[2] for n in columns] for q, columns in self.columns.items()}
        self.off = [labels.index(label) for label in OFF if label in labels]

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "auto") -> "Judge":
        """Load `folder`/reader and `folder`/finder in float32; `device` is auto (a GPU if there is one), cpu or cuda.

        Raises InputError with one line if the folder is missing, incomplete or broken.
        """
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        parts = {"reader": ResNetForImageClassification, "finder": UperNetForSemanticSegmentation}
        judge = cls(**{name: _load(kind, Path(folder, name)).to(device) for name, kind in parts.items()})
        votes = [judge.finder.config.id2label[number] for number in range(judge.finder.config.num_labels)]
        if not set(LOOKS) <= set(judge.answers) or votes != VOTES or len(judge.off) != len(OFF):
            raise InputError(f"{folder} is no judge: its reader needs labels such as object:dog, its finder {VOTES}")
        return judge

    @torch.no_grad()
    def read(self, frames: Tensor, poses: Tensor | None = None) -> Reading:
        """Read frames f 3 h w in [0, 1], of any size; everything comes back on the CPU.

        poses: f k 6 as `locate` has them, places to be read beside what is found; nan where there is none. In each
        frame as many things are found as places are given, without any one.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
            raise InputError(f"the judge reads frames f 3 h w, and these are {tuple(frames.shape)}: give it one clip")
        frames = frames.to(self.reader.device, torch.float32)
        maps = torch.cat([resize(find(self.finder, prepare(part)), SIDE).cpu() for part in frames.split(AT_ONCE)])
        logits, things = self._look(frames, torch.stack([locate(of, 1) for of in maps]))
        most, told = logits[:, 0], None
        if poses is not None:
            told = self._told(self._name(frames, poses))
            if poses.shape[1] > 1:
                there = torch.full(poses.shape, torch.nan)
                for frame, count in enumerate((~poses.isnan().any(2)).sum(1).tolist()):
                    if count:
                        there[frame, :count] = locate(maps[frame], count)
                logits, things = self._look(frames, there)
        probabilities = {question: most[:, columns].softmax(1) for question, columns in self.columns.items()}
        names = {question: self._best(question, most) for question in self.columns}
        looks = torch.cat([logits[..., self.columns[question]].softmax(-1) for question in LOOKS], -1)
        mask = resize(maps[:, :1], frames.shape[-2:]).sigmoid()[:, 0]
        return Reading(self.answers, probabilities, names, mask, maps, things, looks, told)

    def _look(self, frames: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """The reader's logits f k n of what is at about f k 6, and where exactly that is: f k 6."""
        for _ in range(LOOKED - 1):
            poses = moved(poses, self._name(frames, poses)[..., self.off])
        return self._name(frames, poses), poses

    def _name(self, frames: Tensor, poses: Tensor) -> Tensor:
        """The reader's logits for k places of each frame: f 3 h w and f k 6 -> f k n."""
        every, k = poses.flatten(0, 1).to(frames.device), poses.shape[1]
        parts = zip(torch.arange(len(every)).to(frames.device).split(AT_ONCE), every.split(AT_ONCE), strict=True)
        parts = ((frames[number // k], at) for number, at in parts)
        logits = torch.cat([self.reader(beside(part, cropped(part, at))).logits.cpu() for part, at in parts])
        return rearrange(logits, "(f k) n -> f k n", k=k)

    def _told(self, logits: Tensor) -> Told:
        return Told(*([self._best(what, frame) for frame in logits] for what in LOOKS))

    def _best(self, question: str, logits: Tensor) -> list[str]:
        """The likeliest answers n to a question, by logits n labels; an object that is not likely enough is none."""
        likely, best = logits[:, self.columns[question]].softmax(1).max(1)
        names = [self.answers[question][answer] for answer in best.tolist()]
        if question != "object":
            return names
        return [name if sure else NOTHING for name, sure in zip(names, (likely >= SURE).tolist(), strict=True)]


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
    poses = poses.nan_to_num(0)
    theta = torch.cat([2 * _half(poses), 2 * poses[:, :2, None] - 1], 2)
    grid = affine_grid(theta, [len(pictures), 3, SEEN, SEEN], align_corners=False)
    crops = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return torch.where(found[:, None, None, None], crops, 0.5)


def turned(angle: Tensor, squash: Tensor, shear: Tensor) -> Tensor:
    """What a thing's own directions, right and down, become when it is bent and then turned: n each -> n 2 2."""
    turn = angle.deg2rad()
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).unflatten(-1, (2, 2))
    shape = torch.stack([(squash / 2).exp(), shear, torch.zeros_like(shear), (-squash / 2).exp()], -1)
    return rotation @ shape.unflatten(-1, (2, 2))


def beside(pictures: Tensor, crops: Tensor) -> Tensor:
    """What the reader takes, f 6 96 96 in [-1, 1]: pictures f 3 h w in [0, 1] and crops of theirs."""
    return torch.cat([resize(resize(pictures, SIDE), SEEN), crops], 1) * 2 - 1


def find(finder: UperNetForSemanticSegmentation, prepared: Tensor) -> Tensor:
    """The finder's maps f c 32 32, before its own forward pass would enlarge them fourfold."""
    return finder.decode_head(finder.backbone(prepared).feature_maps)


def locate(maps: Tensor, count: int) -> Tensor:
    """The `count` things that the pixels of one picture vote for: maps c h w (see `VOTES`) -> (count, 6), by x.

    The six: centre x, centre y and longer side as fractions of the frame's side, angle in degrees clockwise, -180 to
    180, squash (log of width to height) and shear; the centre may lie outside the frame. nan where no pixel shows a
    thing.
    """
    sure = maps[0] > 0
    if not sure.any():
        return torch.full((count, 6), torch.nan)
    votes = rearrange(maps[POSE, sure], "c n -> n c").clone()
    votes[:, :2] += places(maps.shape[-1])[:, sure].T
    group = _cluster(votes[:, :2], count)
    things = [votes[group == number] for number in range(count)]
    # A median, because votes at a thing's edge go astray. Where votes do not part, several things are in one place.
    things = torch.stack([(thing if len(thing) else votes).median(0).values for thing in things])
    return pose_of(things)[things[:, 0].argsort()]


def moved(poses: Tensor, off: Tensor) -> Tensor:
    """Poses (..., 6) as `locate` has them, moved by what a crop of each is off (..., 6): across and down in halves of
    the crop and along its own sides, the log of the size, radians clockwise, squash and shear."""
    x, y, size, angle, squash, shear = poses.unbind(-1)
    across = (_half(poses) @ off[..., :2, None])[..., 0]
    angle = wrapped(angle + off[..., 3].rad2deg())
    centre = torch.stack([x, y], -1) + across
    rest = torch.stack([size * off[..., 2].exp(), angle, squash + off[..., 4], shear + off[..., 5]], -1)
    return torch.cat([centre, rest], -1)


def apart(poses: Tensor, others: Tensor) -> Tensor:
    """What crops at `poses` are off from `others`, (..., 6) each: what `moved` needs to make these of those."""
    off = others - poses
    across = torch.linalg.solve(_half(poses), off[..., :2])
    turn = wrapped(off[..., 3]).deg2rad()
    rest = torch.stack([(others[..., 2] / poses[..., 2]).log(), turn], -1)
    return torch.cat([across, rest, off[..., 4:]], -1)


def _half(poses: Tensor) -> Tensor:
    """What half a crop's side, across and down, is in sides of the frame: (..., 6) -> (..., 2, 2)."""
    return turned(*poses[..., 3:].unbind(-1)) * (CROP / 2 * poses[..., 2])[..., None, None]


def pose_of(votes: Tensor) -> Tensor:
    """Rows of x, y, size, sine and cosine of the angle, squash and shear, the first of `votes`, as `locate` has them:
    (n, 6)."""
    angle = torch.atan2(votes[:, 3], votes[:, 4]).rad2deg()
    return torch.cat([votes[:, :3], angle[:, None], votes[:, 5:7]], 1)


def wrapped(degrees: Tensor) -> Tensor:
    """Angles, or differences of angles, in -180 to 180."""
    return (degrees + 180) % 360 - 180


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


def _load(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    if not folder.is_dir():
        raise InputError(f"there is no {folder}: give a folder that holds the judge's reader and finder")
    with loading(folder, "fetch the judge again"):
        options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
        model, info = kind.from_pretrained(folder, **options)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} weights are missing")
    return model
