"""Measures against known truth: what a judge reads off an edited clip, beside what its prompt asks and its source does.

Two methods that edit nothing show what each measure is worth: the source clip itself has no motion error, no background
change and no edit success; one edited frame repeated has full identity stability and a motion correlation of 0.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from measures.clips import Source
from measures.judge import SIDE, Judge, Reading
from tav.errors import InputError

QUESTIONS = ("object", "style", "place", "count")
COUNTS = {"two": "2", "three": "3"}
MARGIN = 16  # a mask grows by this part of the frame's side: soft edges and a thing's shadow are no background


@dataclass(frozen=True)
class Truth:
    """What a clip shows, at the f frames that were read of it, in the units of a judge's `Reading`.

    names: the clip's "object", "style", "place" and "count". numbers: f values each of "x", "y", "size", "spread" and
    "angle". mask: f h w, true where a thing is. things: f k 4, each thing's centre x, y, longer side and angle.
    """

    names: dict[str, str]
    numbers: dict[str, Tensor]
    mask: Tensor
    things: Tensor


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
        things = torch.tensor(clip["frames"], dtype=torch.float32)  # all frames, things, (x, y, size, angle)
        names = {question: str(clip[question]) for question in QUESTIONS}
        masks = np.array(Image.open(sheet).convert("L")) > 127
        f, k, values = things.shape
        tiles = rearrange(masks.reshape(k, len(masks) // k, f, -1).any(0), "h f w -> f h w")
        if values != 4 or tiles.shape[1] != tiles.shape[2]:
            raise ValueError("needed are four numbers and a square mask per frame and thing")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{file} and its masks are not a clip's truth ({error}): fetch them again") from error
    wanted = list(range(start, start + num_frames * stride, stride))
    if wanted[-1] >= f:
        raise InputError(f"{file} ends after {f} frames: lower clip.num_frames, or the clip's start or stride")
    shown = interpolate(torch.from_numpy(tiles[wanted])[None].float(), (height, width), mode="area")[0]
    return Truth(names, _numbers(things[wanted]), shown >= 0.5, things[wanted])


def truth_beside(source, num_frames: int, size: int | tuple[int, int]) -> Truth | None:
    """The truth of a clip's `source` in params.yaml; None where there is none beside it: a clip of one's own."""
    if not Path(source.path).with_suffix(".json").exists():
        return None
    return read_truth(source.path, num_frames, size, source.start, source.stride)


def _numbers(things: Tensor) -> dict[str, Tensor]:
    """f k 4 -> what a judge reads: the mean centre, the mean distance from it, the mean longer side and angle."""
    x, y, size, angle = things.mean(1).unbind(-1)
    spread = (things[..., :2] - things[..., :2].mean(1, keepdim=True)).norm(dim=-1).mean(1)
    return {"x": x, "y": y, "size": size, "spread": spread, "angle": angle}


def asks(prompt: str, answers: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    """What a prompt asks for, of the answers that a judge can give (`Judge.answers`), or None.

    None where it does not name one object, one style and one place that the judge knows: then nothing can be counted.
    A count is one unless the prompt says two or three. Other words, of motion for instance, are passed over.
    """
    words = set(prompt.lower().split())
    found = {"count": next((count for word, count in COUNTS.items() if word in words), "1")}
    for question in ("object", "style", "place"):
        named = [answer for answer in answers[question] if words & {answer, f"{answer}s", f"{answer}es"}]
        if len(named) != 1:
            return None
        found[question] = named[0]
    return found


def edit_success(names: Mapping[str, Sequence[str]], asked: Mapping[str, str]) -> dict[str, float]:
    """Share of frames, 0 to 1, whose object, style, place and count are read as asked; "edit success" is all of them.

    names: per question the f answers that were read. With the clip's own names it is how well the judge reads it.
    """
    right = {question: np.array([name == asked[question] for name in names[question]]) for question in QUESTIONS}
    shares = {f"right {question}": float(frames.mean()) for question, frames in right.items()}
    return {"edit success": float(np.all(list(right.values()), axis=0).mean()), **shares}


def identity_stability(objects: Sequence[str]) -> float:
    """Share of all pairs of different frames whose object is read as the same, 0 to 1, whichever it is.

    All pairs, as in the paper's frame consistency (5.2): an object that turns slowly into another is not stable.
    """
    n = len(objects)
    return sum(count * (count - 1) for count in Counter(objects).values()) / (n * (n - 1)) if n > 1 else math.nan


def motion_error(numbers: Mapping[str, Tensor], truth: Truth) -> dict[str, float]:
    """How far a clip's motion, as it is read, is from the known motion of its source.

    "centre error": mean distance of the centres, in pixels of a frame of 64. "size error": mean, in per cent of the
    true size. "angle error": mean, in degrees; nan unless there is one thing. "motion correlation": of displacements
    from the mean pose, as Lin's concordance (1989): twice the covariance over the sum of the variances, -1 to 1. The
    same motion has 1 wherever it takes place, one of half the extent 0.8, none 0, the reverse -1. A pose is the centre,
    half the size and, for one thing, how far its angle takes an edge; for several the spread. A frame in which no thing
    is seen (nan) has no errors and counts as one at the mean pose: a thing that is never seen has a correlation of 0.
    """
    if len(numbers["x"]) != len(truth.numbers["x"]):
        raise InputError(f"{len(numbers['x'])} frames were read, the truth has {len(truth.numbers['x'])}: edit again")
    off = {name: numbers[name].double() - true for name, true in truth.numbers.items()}
    turn = (off["angle"] + 180) % 360 - 180
    read, true = _displacement(numbers, truth), _displacement(truth.numbers, truth)
    extent = float((read**2 + true**2).sum())
    return {
        "centre error": SIDE * float(torch.hypot(off["x"], off["y"]).nanmean()),
        "size error": 100 * float((off["size"] / truth.numbers["size"]).abs().nanmean()),
        "angle error": float(turn.abs().nanmean()) if truth.names["count"] == "1" else math.nan,
        "motion correlation": 2 * float((read * true).sum()) / extent if true.abs().max() > 1e-6 else math.nan,
    }


def _displacement(numbers: Mapping[str, Tensor], truth: Truth) -> Tensor:
    """How far the centre and, by size and by angle or spread, an edge is from its mean place: 4 f, in sides."""
    pose = torch.stack([numbers["x"], numbers["y"], numbers["size"] / 2, numbers["spread"]]).double()
    seen = ~pose.isnan().any(0)
    if truth.names["count"] == "1":
        angle = np.unwrap(numbers["angle"][seen].numpy(), period=360)
        pose[3, seen] = torch.from_numpy(angle).double().deg2rad() * truth.numbers["size"].mean() / 2
    return torch.where(seen, pose - pose[:, seen].mean(1, keepdim=True), 0)


def followed(reading: Reading, truth: Truth) -> dict[str, float]:
    """How closely a clip keeps to the places that `truth`, its own source's or another clip's, has things in.

    `motion_error` and "mask overlap": the intersection over union of the judge's mask and the true one, the mean over
    the frames in which either shows a thing, 0 to 1.
    """
    found = reading.mask >= 0.5
    union = (found | truth.mask).sum((1, 2))
    overlap = ((found & truth.mask).sum((1, 2)) / union)[union > 0]
    return motion_error(reading.numbers, truth) | {"mask overlap": float(overlap.mean())}


def background_change(frames: Tensor, source: Tensor, mask: Tensor, truth: Truth) -> float:
    """Mean difference, in grey levels, between edit and source, f 3 h w in [0, 1], where neither shows a thing.

    mask: f h w in [0, 1], where a judge finds the edit's things. Both masks grow by a 16th of the side first. Of worth
    for edits of the object alone: one of place or style is to change what is measured here. nan if nothing is left.
    """
    thing = (truth.mask | (mask >= 0.5)).float()[:, None]
    margin = -(-frames.shape[-1] // MARGIN)
    behind = max_pool2d(thing, 2 * margin + 1, stride=1, padding=margin)[:, 0] == 0
    change = (frames - source).abs().mean(1)[behind]
    return 255 * float(change.mean()) if len(change) else math.nan


def truth_scores(
    reading: Reading, truth: Truth, asked: Mapping[str, str] | None, frames: Tensor, source: Tensor
) -> dict[str, float]:
    """All measures of one edited clip, f 3 h w in [0, 1]: `reading` is of its frames, `asked` what its prompt `asks`.

    nan: edit success where nothing known is asked, background change unless the object alone is to change.
    """
    wanted = asked or dict.fromkeys(QUESTIONS)
    success = edit_success(reading.names, wanted)
    if asked is None:
        success = dict.fromkeys(success, math.nan)
    object_only = {q for q in QUESTIONS if wanted[q] != truth.names[q]} == {"object"}
    return {
        **success,
        "identity stability": identity_stability(reading.names["object"]),
        **motion_error(reading.numbers, truth),
        "background change": background_change(frames, source, reading.mask, truth) if object_only else math.nan,
    }


def crowd(source: Source) -> dict[str, float]:
    """How many "things" a clip shows, and the share of them that is "hidden", 0 to 1; nothing if no truth is known.

    A thing's visible area, for its size, is compared with the most that it has in any frame of the clip.
    """
    truth, sheet = (Path(source.path).with_suffix(end) for end in (".json", ".masks.png"))
    if not truth.exists():
        return {}
    sizes = np.array(json.loads(truth.read_text())["frames"])[..., 2]  # f k
    visible = np.asarray(Image.open(sheet).convert("L")) / 255
    seen = reduce(visible, "(k h) (f w) -> f k", "sum", f=len(sizes), k=sizes.shape[1]) / sizes**2
    return {"things": sizes.shape[1], "hidden": float(1 - (seen / seen.max(0)).mean())}


def count_error(judge: Judge | None, frames: Tensor, prompt: str) -> float:
    """How many things too many or too few frames f 3 h w in [0, 1] show on average; nan where that cannot be read."""
    asked = asks(prompt, judge.answers) if judge else None
    read = judge.read(frames).names["count"] if asked else []
    return sum(abs(int(count) - int(asked["count"])) for count in read) / len(read) if read else math.nan
