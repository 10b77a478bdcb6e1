"""The captioner: from a clip's pixels to a caption of the grammar, as BLIP-2 captions the paper's clips."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from torch import Tensor

from measures.judge import Judge
from miniature.clips import DATA, FRAMES, WORDS, move
from miniature.world import OBJECTS, describe, parse
from tav.clip import read_clip

EXAMPLES = 48  # paths of every motion, drawn with a seed that no clip has
LISTS = "evaluation", "development", "objects"  # of data/, that it is measured on
STILL = 0.04  # what nowhere departs further from its mean than this, in frame sides and radians, stands still


def caption(frames: Tensor, judge: Judge) -> str:
    """The caption of a whole clip, f 3 h w in [0, 1], at any frame rate.

    Object, style, place and count are what the frames' probabilities say together; the motion is that whose paths come
    nearest to the one read, and is left out where nothing moves.
    """
    reading = judge.read(frames)
    answers = {}
    for question, probabilities in reading.probabilities.items():
        together = probabilities.clamp(min=1e-4).log().sum(0)  # no single frame may rule an answer out
        answers[question] = judge.answers[question][int(together.argmax())]
    columns = [reading.numbers[name].numpy() for name in ("x", "y", "size", "spread", "angle")]
    motion = name_motion(np.stack(columns, 1), OBJECTS[answers["object"]].kind)
    return describe(answers["object"], answers["style"], answers["place"], int(answers["count"]), motion)


def name_motion(path: np.ndarray, kind: str) -> str | None:
    """The word for the motion of a path f 5: x, y, size, spread, angle of every frame, nan where nothing is seen."""
    seen = ~np.isnan(path).any(1)
    if not seen.any():
        return None
    times = (np.arange(len(path)) * FRAMES / len(path)).clip(max=FRAMES - 1)[seen]  # of frames at equal strides
    path = path[seen] * [1, 1, 1, 1, np.pi / 180]
    if np.abs(path - path.mean(0)).max() < STILL:
        return None
    before = np.minimum(times.astype(int), FRAMES - 2)
    part = (times - before)[:, None]
    distances = {}
    for motion, examples in _examples().items():
        examples = examples[:, before] * (1 - part) + examples[:, before + 1] * part
        distances[motion] = np.square(_comparable(examples) - _comparable(path)).sum((1, 2)).min()
    word = WORDS[min(distances, key=distances.get)]
    return word if isinstance(word, str) else word[kind]


def _comparable(path: np.ndarray) -> np.ndarray:
    """Paths (..., f, 5) told from their means, but for x: it says whether a thing comes or goes."""
    return path - path.mean(-2, keepdims=True) * [0, 1, 1, 1, 1]


@cache
def _examples() -> dict[str, np.ndarray]:
    """Paths (EXAMPLES, FRAMES, 5) of every motion; angles in radians."""
    rng = np.random.default_rng(77)
    return {motion: np.stack([_path(move(motion, rng)) for _ in range(EXAMPLES)]) for motion in WORDS}


def _path(frames: list) -> np.ndarray:
    things = np.array(frames)  # f count 4
    x, y, size, angle = things.mean(1).T
    spread = np.linalg.norm(things[..., :2] - things[..., :2].mean(1, keepdims=True), axis=2).mean(1)
    return np.stack([x, y, size, spread, np.radians(angle)], 1)


def truths() -> list[Path]:
    """The truth of every clip of `LISTS`, by name."""
    yaml = YAML(typ="safe")
    listed = {name for each in LISTS for name in yaml.load(DATA / f"{each}.yaml")["clips"]}
    return [DATA / "clips" / f"{name}.json" for name in sorted(listed)]


def measure(models: Path, device) -> dict[str, float]:
    """Per cent of the clips of `LISTS` whose captions have each part right, and all of them; read as they are edited:
    every second frame, at 64 pixels."""
    judge = Judge.load(models / "judge", device)
    right = []
    for path in truths():
        frames = (read_clip(path.with_suffix(".mp4"), num_frames=FRAMES // 2, size=64, stride=2) + 1) / 2
        found, truth = parse(caption(frames, judge)), parse(json.loads(path.read_text())["caption"])
        right.append({part: found[part] == truth[part] for part in truth} | {"all": found == truth})
    return {part: round(100 * float(np.mean([clip[part] for clip in right])), 1) for part in right[0]}
