"""Measures against known truth: what a judge reads off an edited clip, beside what its prompt asks and its source does.

Two methods that edit nothing show what each measure is worth: the source clip itself has no motion error, no background
change, no flicker and neither edit success nor, in another place or style, identity kept; one edited frame repeated has
full identity stability, is calmer than any source and has a motion correlation of 0. Only "edited in motion" is 0 for
both. A measure that cannot be taken of a clip is nan. A thing counts in the frames in which at least a fourth of it can
be seen.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from einops import EinopsError, rearrange
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from measures.camera import camera_error
from measures.judge import LOOKS, NOTHING, SIDE, Judge, Reading, resize, turned, wrapped
from tav.errors import InputError, one_line

SEEN = 0.25  # of a thing, for it to count
UNLIKE = 0.5  # sides that a thing seems farther away where it looks like another one altogether
WALK = 8  # drawn steps of a walk cycle
FOUND = 0.5  # share of its frames in which a thing has to be found for its motion to be known
MARGIN = 16  # a mask grows by this part of the frame's side: soft edges and a thing's shadow are no background
SOFT, PATCH, REACH = 7, 5, 6  # pixels, of 64 a side: what is seen as one, what is moved as one, and how far
STILL = 1e-6  # sides: what moves less does not move
BARE = "bare"  # what a judge says is worn by what wears nothing


@dataclass(frozen=True)
class Wanted:
    """What a prompt says of one thing; None where it says nothing."""

    object: str
    colour: str | None = None
    wears: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for; its things are in the order of the source's."""

    style: str
    place: str
    things: tuple[Wanted, ...]


@dataclass(frozen=True)
class Shown:
    """What a thing of a clip looks like, in a judge's words; paint: red, green and blue in [0, 1]."""

    object: str
    drawing: str
    colour: str
    wears: str
    paint: tuple[float, float, float]


@dataclass(frozen=True)
class Truth:
    """What a clip shows, at the f frames that were read of it; k things, front to back as the clip's file has them.

    group: the kind of its motion. seen: whether the image model was trained on all of its objects. things: f k 4, each
    thing's centre x, y and longer side as fractions of the frame's side, and its angle in degrees clockwise. bend:
    f k 2, its squash (log of width to height) and shear. phase: f k in [0, 1), of its walk cycle, all 0 if it has none.
    facing: f k, 1 right, -1 left. share: f k in [0, 1], how much of it can be seen. masks: f k h w, true where. view:
    f 3, the camera's offset x and y in sides and its zoom.
    """

    style: str
    place: str
    group: str
    seen: bool
    shown: tuple[Shown, ...]
    things: Tensor
    bend: Tensor
    phase: Tensor
    facing: Tensor
    share: Tensor
    masks: Tensor
    view: Tensor

    @property
    def mask(self) -> Tensor:
        """Where any thing is: f h w."""
        return self.masks.any(1)

    @property
    def visible(self) -> Tensor:
        """In which frames each thing counts: f k."""
        return self.share >= SEEN


def read_truth(path: str | Path, num_frames=8, size=64, start=0, stride=1) -> Truth:
    """The truth of the clip at `path`, NAME.json and NAME.masks.png beside it, at the frames that `read_clip` reads.

    Clip and `size` must be square, so that every fit shows the same. Raises InputError where truth is missing or ends.
    """
    file, sheet = Path(path).with_suffix(".json"), Path(path).with_suffix(".masks.png")
    for needed in (file, sheet):
        if not needed.exists():
            raise InputError(f"{needed} does not exist: only clips with their truth beside them, as in data, have one")
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise InputError(f"truth is known in square frames only, not {height}x{width}: set clip.size to one number")
    try:
        clip = json.loads(file.read_text())
        masks = torch.from_numpy(np.array(Image.open(sheet).convert("L")) > 127)
        k, f = len(clip["things"]), len(clip["frames"])
        masks = rearrange(masks, "(k h) (f w) -> f k h w", k=k, f=f)
        if masks.shape[2] != masks.shape[3]:
            raise ValueError("needed is a square mask per frame and thing")

        def values(*names: str) -> Tensor:
            rows = [[[thing[name] for name in names] for thing in frame["things"]] for frame in clip["frames"]]
            return torch.tensor(rows, dtype=torch.float32).reshape(f, k, len(names))

        shown = tuple(_shown(**thing) for thing in clip["things"])
        told = {what: str(clip[what]) for what in ("style", "place", "group")} | {"seen": bool(clip["seen"])}
        frames = {
            "things": values("x", "y", "size", "angle"),
            "bend": values("squash", "shear"),
            "phase": values("phase")[..., 0],
            "facing": values("facing")[..., 0],
            "share": values("share")[..., 0],
            "masks": interpolate(masks.float(), (height, width), mode="area") >= 0.5,
            "view": torch.tensor([frame["view"] for frame in clip["frames"]], dtype=torch.float32).reshape(f, 3),
        }
    except (OSError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, EinopsError) as error:
        raise InputError(f"{file} and its masks are no clip's truth ({one_line(error)}): fetch them again") from error
    wanted = list(range(start, start + num_frames * stride, stride))
    if wanted[-1] >= f:
        raise InputError(f"{file} ends after {f} frames: lower clip.num_frames, or the clip's start or stride")
    return Truth(**told, shown=shown, **{what: every[wanted] for what, every in frames.items()})


def _shown(object: str, drawing: str, colour: str, wears: str | None, paint: Sequence[float]) -> Shown:
    return Shown(object, f"{object}/{drawing}", colour, wears or BARE, tuple(paint))


def poses(truth: Truth) -> Tensor:
    """Where the things are, as `locate` has it: f k 6."""
    return torch.cat([truth.things, truth.bend], -1)


def read(judge: Judge, frames: Tensor, truth: Truth) -> Reading:
    """What a judge reads off an edit, f 3 h w in [0, 1]: what it finds, and what is at the true places of things
    that can be seen."""
    return judge.read(frames, poses(truth).masked_fill(~truth.visible[..., None], math.nan))


def truth_beside(source, num_frames: int, size: int | tuple[int, int]) -> Truth | None:
    """The truth of a clip's `source` in params.yaml; None where there is none beside it: a clip of one's own."""
    if not Path(source.path).with_suffix(".json").exists():
        return None
    return read_truth(source.path, num_frames, size, source.start, source.stride)


def facts(truth: Truth) -> dict[str, str | bool | float]:
    """What tables say of a clip: `group` and `seen` as its truth has them, how many "things" it shows, and "hidden",
    the mean over them and over the frames of the part that cannot be seen, 0 to 1."""
    hidden = round(1 - float(truth.share.mean()), 4)
    return {"group": truth.group, "seen": truth.seen, "things": len(truth.shown), "hidden": hidden}


def asks(prompt: str, answers: Mapping[str, Sequence[str]]) -> Asked | None:
    """What a prompt asks for, of the answers that a judge can give (`Judge.answers`), or None.

    None where it does not name one style, one place and at least one object that the judge knows: then nothing can be
    counted. A colour belongs to the object after it, what is worn to the object before it: "a brown dog wearing a hat
    and a cat in the snow". Other words, of motion for instance, are passed over.
    """
    things, colour, named = [], None, {"style": [], "place": []}
    for word in prompt.lower().replace(",", " ").split():
        if word in answers["object"] and word != NOTHING:
            things.append(Wanted(word, colour))
            colour = None
        elif word in answers["colour"]:
            colour = word
        elif word in answers["wears"] and word != BARE and things:
            things[-1] = Wanted(things[-1].object, things[-1].colour, word)
        for question, found in named.items():
            found += [word] * (word in answers[question])
    if not things or any(len(found) != 1 for found in named.values()):
        return None
    return Asked(named["style"][0], named["place"][0], tuple(things))


def edit_success(reading: Reading, truth: Truth, asked: Asked) -> dict[str, float]:
    """Share of frames that show what is asked, 0 to 1, more is better: "edit success" is all of it together.

    "right object", "right style", "right place", and "right colour" and "right wears" where the prompt names them (else
    nan). A frame in which nothing can be recognised is wrong in everything. Of several things object and colour are
    read at each thing's true place and all have to be right; what they wear cannot be read. Frames in which no thing
    can be seen well do not count.
    """
    counts = truth.visible.any(1)
    if len(asked.things) != len(truth.shown) or not counts.any():
        return dict.fromkeys(("edit success", *(f"right {question}" for question in RIGHT)), math.nan)
    recognised = reading.recognisable
    wanted = {"style": asked.style, "place": asked.place}
    if len(asked.things) == 1:
        wanted |= asdict(asked.things[0])
    right = {what: _said(reading, what, answer) for what, answer in wanted.items() if answer is not None}
    if len(asked.things) > 1:
        objects, colours = _at_places(reading, truth, asked)
        right["object"] = (objects | ~truth.visible).all(1)
        if any(thing.colour for thing in asked.things):
            right["colour"] = (colours | ~truth.visible).all(1)
    right = {what: (frames & recognised)[counts].float() for what, frames in right.items()}
    shares = {f"right {what}": float(right[what].mean()) if what in right else math.nan for what in RIGHT}
    return {"edit success": float(torch.stack(list(right.values())).amin(0).mean()), **shares}


RIGHT = ("object", "style", "place", "colour", "wears")


def _said(reading: Reading, question: str, wanted: str) -> Tensor:
    return torch.tensor([name == wanted for name in reading.names[question]])


def _at_places(reading: Reading, truth: Truth, asked: Asked) -> tuple[Tensor, Tensor]:
    """Whether object, and colour if one is asked for, are read as asked at each thing's true place: f k, twice."""
    there, objects, colours = _read_at(reading, truth)
    wanted = np.array([thing.object for thing in asked.things])
    named = np.array([thing.colour or "" for thing in asked.things])
    right = there & (objects == wanted), there & ((colours == named) | (named == ""))
    return torch.from_numpy(right[0]), torch.from_numpy(right[1])


def _read_at(reading: Reading, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each thing's true place, whether a thing is there, and the likeliest object and colour: f k each."""
    if reading.told is None:
        raise InputError("a judge is asked at the things' places: read edits by `measures.truth.read`")
    objects, colours = np.array(reading.told.object), np.array(reading.told.colour)
    return objects != NOTHING, objects, colours


def recall(reading: Reading, truth: Truth, asked: Asked) -> float:
    """Share of things, over all frames in which they can be seen, that are read at their true places: 0 to 1, best.

    A thing is read where the reader, shown its true place, names the object and, if one is asked for, the colour asked.
    """
    if len(asked.things) != len(truth.shown) or not truth.visible.any():
        return math.nan
    objects, colours = _at_places(reading, truth, asked)
    return float((objects & colours)[truth.visible].float().mean())


def swaps(reading: Reading, truth: Truth, asked: Asked) -> float:
    """Share of things, over all frames in which they can be seen, whose place is read as another that is asked for: 0,
    best, to 1.

    Things of the same object are told apart by the colours asked. nan for one thing.
    """
    if len(asked.things) != len(truth.shown) or len(asked.things) < 2 or not truth.visible.any():
        return math.nan
    there, objects, colours = _read_at(reading, truth)
    wanted = np.array([thing.object for thing in asked.things])
    named = np.array([thing.colour or "" for thing in asked.things])
    fits = (objects[..., None] == wanted) & ((colours[..., None] == named) | (named == ""))  # f k, and as which
    own = np.eye(len(wanted), dtype=bool)
    swapped = there & ~(fits & own).any(-1) & (fits & ~own).any(-1)
    return float(swapped[truth.visible.numpy()].mean())


def _identities(reading: Reading, truth: Truth) -> Iterator[list[tuple[str, str] | None]]:
    """Per thing, in its frames, what it looks like, or None where it cannot be recognised: drawing and colour of a
    single thing, object and colour at its true place of several."""
    if len(truth.shown) == 1:
        looks = zip(reading.names["drawing"], reading.names["colour"], strict=True)
        looks = [[look if known else None for look, known in zip(looks, reading.recognisable.tolist(), strict=True)]]
    else:
        there, objects, colours = (part.T.tolist() for part in _read_at(reading, truth))
        looks = [
            [(what, colour) if is_there else None for is_there, what, colour in zip(*own, strict=True)]
            for own in zip(there, objects, colours, strict=True)
        ]
    for own, visible in zip(looks, truth.visible.T.tolist(), strict=True):
        yield [look for look, counts in zip(own, visible, strict=True) if counts]


def identity_stability(reading: Reading, truth: Truth) -> float:
    """Share of all pairs of frames in which drawing and colour are read as the same, whichever they are: 0 to 1, best.

    All pairs, as in the paper's frame consistency (5.2): a thing that turns slowly into another is not stable. What
    cannot be recognised is like nothing else. Of several things, object and colour at each one's true place; their
    mean. nan where no thing can be seen in two frames.
    """
    shares = []
    for looks in _identities(reading, truth):
        n, alike = len(looks), Counter(look for look in looks if look)
        if n > 1:
            shares.append(sum(count * (count - 1) for count in alike.values()) / (n * (n - 1)))
    return float(np.mean(shares)) if shares else math.nan


def identity_kept(reading: Reading, truth: Truth, asked: Asked) -> float:
    """Share of frames that show style and place as asked, and drawing and colour as the truth has the source's: 0 to 1,
    best.

    A source that is left alone keeps nothing in another place or style. Of things whose object the edit keeps; their
    mean. Colour does not count where the edit asks for another one. Of several things, object and colour at each one's
    true place. nan where the edit keeps none.
    """
    if len(asked.things) != len(truth.shown):
        return math.nan
    as_asked, shares = _said(reading, "style", asked.style) & _said(reading, "place", asked.place), []
    edited = [as_asked[visible] for visible in truth.visible.T]
    for looks, shown, wanted, done in zip(_identities(reading, truth), truth.shown, asked.things, edited, strict=True):
        if wanted.object == shown.object and looks:
            what = shown.drawing if len(truth.shown) == 1 else shown.object
            recoloured = wanted.colour not in (None, shown.colour)
            kept = [look and look[0] == what and (recoloured or look[1] == shown.colour) for look in looks]
            shares.append(np.mean([bool(frame) for frame in kept] & done.numpy()))
    return float(np.mean(shares)) if shares else math.nan


def located(reading: Reading, truth: Truth) -> Tensor:
    """Where the things are read to be: f k 6 as `locate` has them; nan where one cannot be seen or no pixel shows any.

    The true places tell which of several things is which where each can first be seen. From there it is followed by
    where it was read last and by its object and colour so far: things that were told apart by the nearest true one in
    every frame anew would pass each other in a still clip, too.
    """
    if len(reading.maps) != len(truth.things):
        raise InputError(f"{len(reading.maps)} frames were read, the truth has {len(truth.things)}: edit again")
    if reading.things.shape[1] != len(truth.shown):
        raise InputError("a judge is told how many things there are: read edits by `measures.truth.read`")
    read, frames = torch.full((*truth.share.shape, 6), torch.nan), torch.zeros(len(truth.shown))
    places, looks = torch.zeros(len(frames), 2), torch.zeros(len(frames), reading.looks.shape[2])
    for frame, visible in enumerate(truth.visible):
        there = visible.nonzero()[:, 0]
        pose, like = reading.things[frame, : len(there)], reading.looks[frame, : len(there)]
        if not len(there) or pose.isnan().any():
            continue
        known = frames[there, None] > 0
        apart = torch.cdist(torch.where(known, places[there], truth.things[frame, there, :2]), pose[:, :2])
        so_far = looks[there] / frames[there, None].clamp(min=1)
        apart = apart + UNLIKE * known * torch.cdist(so_far, like, p=1) / (2 * len(LOOKS))
        _, found = linear_sum_assignment(apart.numpy())
        read[frame, there], places[there] = pose[found], pose[found, :2]
        looks[there] += like[found]
        frames[there] += 1
    return read


def motion_error(read: Tensor, truth: Truth) -> dict[str, float]:
    """How far the things' motion, as it is read (f k 6, see `located`), is from the known motion of the source.

    "centre error": mean distance of the centres, in pixels of a frame of 64. "size error": mean, in per cent of the
    true size. "angle error": mean, in degrees. 0 is best; a thing that is not found has no errors.
    "motion correlation": -1 to 1, best. Of displacements from a thing's mean pose over its frames, as Lin's concordance
    (1989): twice the covariance over the sum of the variances, over all things. The same motion has 1 wherever it takes
    place, one of half the extent 0.8, none 0, the reverse -1. A pose is the centre and where, from there, half the
    longer side to the right and down comes to lie when the thing is turned, squashed and sheared: a full turn breaks
    nothing. A frame in which a thing is not found counts as one at the mean pose; one that is found in less than half
    of its frames has no motion that is known. nan where none is known or the source's things do not move.
    """
    found = ~read[..., 0].isnan()
    errors = dict.fromkeys(("centre error", "size error", "angle error"), math.nan)
    if found.any():
        off, true = (read[..., :4] - truth.things)[found].double(), truth.things[found]
        turn = wrapped(off[:, 3])
        errors["centre error"] = SIDE * float(off[:, :2].norm(dim=1).mean())
        errors["size error"] = 100 * float((off[:, 2] / true[:, 2]).abs().mean())
        errors["angle error"] = float(turn.abs().mean())
    whole = poses(truth)
    shared, extent, furthest = 0.0, 0.0, 0.0
    for k in range(len(truth.shown)):
        visible, seen = truth.visible[:, k], found[:, k]
        if not visible.any() or seen.sum() < FOUND * visible.sum():
            continue
        one, other = _displacement(read[:, k], seen), _displacement(whole[:, k], visible)
        shared += 2 * float((one * other).sum())
        extent += float((one**2 + other**2).sum())
        furthest = max(furthest, float(other.abs().max()))
    return errors | {"motion correlation": shared / extent if furthest > STILL else math.nan}


def moves(truth: Truth) -> bool:
    """Whether any thing moves, turns or changes its shape in the frames in which it can be seen."""
    whole = poses(truth)
    ways = [_displacement(whole[:, k], seen) for k, seen in enumerate(truth.visible.T) if seen.any()]
    return any(float(way.abs().max()) > STILL for way in ways)


def _displacement(pose: Tensor, known: Tensor) -> Tensor:
    """Of one thing's poses f 6, how far centre and edges are from their means, in sides: f 6; 0 where not `known`."""
    x, y, size, angle, squash, shear = pose.double().unbind(-1)
    edges = (turned(angle, squash, shear) * (size / 2)[:, None, None]).flatten(1)
    points = torch.cat([torch.stack([x, y], -1), edges], -1)
    return torch.where(known[:, None], points - points[known].mean(0), 0)


def phase_error(reading: Reading, truth: Truth, asked: Asked | None) -> float:
    """How far a walk cycle, as it is read, is from the source's: mean, in per cent of a cycle, 0 (best) to 50.

    Where one thing walks and the edit keeps its object; else nan. The source's phase is the middle of the drawn step
    that shows it. Frames in which no thing is found do not count.
    """
    if len(truth.shown) != 1 or not truth.phase.any() or not asked or asked.things[0].object != truth.shown[0].object:
        return math.nan
    drawn = ((WALK * truth.phase[:, 0]).floor() + 0.5) / WALK
    off = (reading.phase - drawn + 0.5) % 1 - 0.5
    off = off[truth.visible[:, 0] & ~off.isnan()]
    return 100 * float(off.abs().mean()) if len(off) else math.nan


def followed(reading: Reading, truth: Truth) -> dict[str, float]:
    """How closely a clip keeps to the places that `truth`, its own source's or another clip's, has things in.

    `motion_error` and "mask overlap": the intersection over union of the judge's mask and the true one, the mean over
    the frames in which either shows a thing, 0 to 1, best.
    """
    mask = reading.mask >= 0.5
    union = (mask | truth.mask).sum((1, 2))
    overlap = ((mask & truth.mask).sum((1, 2)) / union)[union > 0]
    return motion_error(located(reading, truth), truth) | {"mask overlap": float(overlap.mean())}


def behind(reading: Reading, truth: Truth) -> Tensor:
    """Where neither edit nor source shows a thing, f h w; both masks grow by a 16th of the side first."""
    thing = (truth.mask | (reading.mask >= 0.5)).float()[:, None]
    margin = -(-thing.shape[-1] // MARGIN)
    return max_pool2d(thing, 2 * margin + 1, stride=1, padding=margin)[:, 0] == 0


def background_change(frames: Tensor, source: Tensor, where: Tensor) -> float:
    """Mean difference, in grey levels, between edit and source, f 3 h w in [0, 1], where it is `behind` their things.

    0 is best. Of worth for edits of things alone: one of place or style is to change what is measured here. nan if
    nothing is left.
    """
    change = (frames - source).abs().mean(1)[where]
    return 255 * float(change.mean()) if len(change) else math.nan


def flicker(frames: Tensor, source: Tensor) -> float:
    """How much more a clip changes from frame to frame than its source, in grey levels, beyond what moves: 0 is best.

    frames, source: f 3 h w in [0, 1]; compared at 64 pixels a side. The change of a frame is its mean difference to the
    next one, each neighbourhood of 5 x 5 pixels moved to where it fits best, up to 6 pixels far: what moves otherwise
    than in the source, or not at all, does not flicker for that. Both are softened first, as grain is new in every
    frame: a clip that has lost it is calmer by about half a grey level. Below 0 a clip is calmer than its source, whose
    outlines come and go. nan of a single frame.
    """
    return _change(frames) - _change(source)


def _change(frames: Tensor) -> float:
    if len(frames) < 2:
        return math.nan
    frames = avg_pool2d(resize(frames.float().cpu(), SIDE), SOFT, 1, SOFT // 2, count_include_pad=False)
    around = pad(frames[1:], (REACH,) * 4, mode="replicate")
    least = torch.full_like(frames[1:, :1], torch.inf)
    for y, x in product(range(2 * REACH + 1), repeat=2):
        off = (around[..., y : y + SIDE, x : x + SIDE] - frames[:-1]).abs().mean(1, keepdim=True)
        least = torch.minimum(least, avg_pool2d(off, PATCH, 1, PATCH // 2, count_include_pad=False))
    return 255 * float(least.mean())


def truth_scores(
    reading: Reading, truth: Truth, asked: Asked | None, frames: Tensor, source: Tensor
) -> dict[str, float]:
    """All measures of one edited clip, f 3 h w in [0, 1]: `reading` is of its frames, `asked` what its prompt `asks`.

    "edited in motion" is edit success times the motion correlation, if that is positive: 0 to 1, best; 0, too, where
    the thing is not found often enough for its motion to be known. nan: what rests on the prompt where nothing known is
    asked, or on motion where the source has none, background change unless things alone are to change.
    """
    where, known = behind(reading, truth), asked is not None
    motion = motion_error(located(reading, truth), truth)
    things_only = known and (asked.style, asked.place) == (truth.style, truth.place)
    nothing = dict.fromkeys(("edit success", *(f"right {question}" for question in RIGHT)), math.nan)
    edit = edit_success(reading, truth, asked) if known else nothing
    kept = max(0.0, float(np.nan_to_num(motion["motion correlation"])))
    return {
        **edit,
        "edited in motion": edit["edit success"] * kept if moves(truth) else math.nan,
        "identity stability": identity_stability(reading, truth),
        "identity kept": identity_kept(reading, truth, asked) if known else math.nan,
        "recall": recall(reading, truth, asked) if known else math.nan,
        "swaps": swaps(reading, truth, asked) if known else math.nan,
        **motion,
        "phase error": phase_error(reading, truth, asked),
        "flicker": flicker(frames, source),
        "camera error": camera_error(frames, where, truth.view),
        "background change": background_change(frames, source, where) if things_only else math.nan,
    }
