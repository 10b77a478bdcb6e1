"""The clips: scenes that move, with truth, captions and edits; `python -m miniature clips` writes them to data/."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from ruamel.yaml import YAML

from miniature.world import (
    CANVAS,
    COUNTS,
    OBJECTS,
    PLACES,
    STYLES,
    TRAINED,
    TRAINING_VARIANTS,
    Scene,
    compose,
    describe,
    parse,
)

DATA = Path("data")
FRAMES, FPS, SEED = 16, 8, 2118
KINDS = ("animal", "vehicle", "person")
WORDS = {  # how a caption says what a motion looks like, by kind where it matters
    "straight": {"animal": "running", "vehicle": "driving", "person": "sliding"},
    "arc": "jumping",
    "bounce": "bouncing",
    "zigzag": "weaving",
    "loop": "circling",
    "closer": "coming closer",
    "away": "moving away",
    "turn": "turning",
    "enter": "entering",
    "leave": "leaving",
    "cross": "crossing",
}
DEFAULT = [("animal", "straight"), ("animal", "arc"), ("animal", "turn"), ("vehicle", "straight"),
           ("vehicle", "closer"), ("vehicle", "zigzag"), ("person", "straight"), ("person", "loop")]  # fmt: skip
GROUPS = [  # clips of one, two and three things: object, style, place, how many, and how their ways lie
    ("elephant", "3d", "desert", 1, "apart"),
    ("wizard", "cartoon", "sunset", 1, "apart"),
    ("bus", "3d", "grass", 2, "apart"),
    ("penguin", "line", "snow", 2, "apart"),
    ("rabbit", "3d", "road", 2, "crossing"),
    ("tractor", "line", "desert", 2, "crossing"),
    ("surfer", "cartoon", "beach", 3, "apart"),
    ("astronaut", "cartoon", "space", 3, "crossing"),
    ("pig", "line", "grass", 1, "apart"),
    ("helicopter", "3d", "sea", 1, "apart"),
    ("fox", "3d", "snow", 2, "apart"),
    ("car", "cartoon", "road", 2, "apart"),
    ("skier", "line", "sunset", 2, "apart"),
    ("duck", "cartoon", "sea", 2, "crossing"),
    ("panda", "3d", "space", 2, "crossing"),
    ("wizard", "line", "grass", 2, "crossing"),
    ("panda", "line", "grass", 3, "apart"),
    ("turtle", "3d", "beach", 3, "apart"),
    ("rocket", "cartoon", "space", 3, "apart"),
    ("dancer", "3d", "road", 3, "apart"),
    ("lion", "3d", "desert", 3, "crossing"),
    ("elephant", "line", "road", 3, "crossing"),
    ("penguin", "3d", "snow", 3, "crossing"),
    ("wizard", "cartoon", "beach", 3, "crossing"),
]
FIRST = 8  # of them, which cross number with overlap as well, are edited by default


def main() -> None:
    """Write clips and lists: evaluation.yaml (42 clips, 140 edits), default.yaml (8 of them), development.yaml,
    several.yaml (24 clips of one, two and three things), objects.yaml (8 of them)."""
    evaluation = [clip for kind in KINDS for clip in _series(kind, first=0, count=14)]
    development = [clip for kind, count in zip(KINDS, (3, 3, 2), strict=True) for clip in _series(kind, 30, count)]
    for number, clip in enumerate(evaluation):  # every third clip also gets an edit of several things at once
        if number % 3 == 2:
            clip["edits"]["several"] = _several(clip)
    groups = [_group(*group, number) for number, group in enumerate(GROUPS)]
    clips = evaluation + development + groups
    assert len({clip["name"] for clip in clips}) == 74
    for clip in clips:
        write(clip)
    default = [next(clip for clip in evaluation if (clip["kind"], clip["motion"]) == cell) for cell in DEFAULT]
    for name, listed in (("evaluation", evaluation), ("development", development)):
        _write_list(DATA / f"{name}.yaml", listed, about=("object", "kind", "motion"))
    for name, listed in (("objects", groups[:FIRST]), ("several", groups)):
        _write_list(DATA / f"{name}.yaml", listed, about=("object", "kind", "motion", "count", "overlap"))
    short = [{**clip, "edits": {k: v for k, v in clip["edits"].items() if k != "several"}} for clip in default]
    _write_list(DATA / "default.yaml", short)


def _series(kind: str, first: int, count: int) -> list[dict]:
    """Clips that walk through the kind's objects and through the motions at different strides."""
    names = [name for name, thing in OBJECTS.items() if thing.kind == kind]
    motions = list(WORDS)
    turns = [(3 * i + 2 * (i // len(names))) % len(motions) for i in range(first + count)]
    return [_plan(names[i % len(names)], motions[turns[i]], i) for i in range(first, first + count)]


def _plan(name: str, motion: str, number: int) -> dict:
    """One clip: its truth frame by frame, its caption, and an edit each of object, place and style."""
    kind = OBJECTS[name].kind
    rng = np.random.default_rng([SEED, KINDS.index(kind), number])
    style, place = ["3d", "cartoon", "3d", "cartoon", "line"][number % 5], str(rng.choice(list(PLACES)))
    paths = move(motion, rng)
    other = {
        "object": str(rng.choice([o for o in TRAINED if o != name])),
        "place": str(rng.choice([p for p in PLACES if p != place])),
        "style": str(rng.choice([s for s in STYLES if s != style])),
    }
    return _told({"object": name, "style": style, "place": place}, motion, paths, other, number)


def _group(name: str, style: str, place: str, count: int, overlap: str, number: int) -> dict:
    """A clip of `GROUPS`, with an edit each of object and place."""
    rng = np.random.default_rng([SEED, len(KINDS), number])
    paths = together(count, overlap, rng)
    other = {
        "object": str(rng.choice([o for o in TRAINED if o != name])),
        "place": str(rng.choice([p for p in PLACES if p != place])),
    }
    motion, truth = "cross" if overlap == "crossing" else "straight", {"object": name, "style": style, "place": place}
    clip = _told(truth, motion, paths, other, 40 + number)
    several = clip["name"].replace(name, f"{COUNTS[count]}-{OBJECTS[name].plural}")
    return {**clip, "name": several if count > 1 else clip["name"], "overlap": overlap}


def _told(truth: dict, motion: str, paths: list, other: dict[str, str], number: int) -> dict:
    """A clip by what it shows, with its caption, and an edit prompt for each of `other`, which replaces one of them."""
    kind, count = OBJECTS[truth["object"]].kind, len(paths[0])
    word = WORDS[motion] if isinstance(WORDS[motion], str) else WORDS[motion][kind]
    edits = {what: describe(**key({**truth, what: new}), count=count, motion=word) for what, new in other.items()}
    return {
        "name": f"{truth['object']}-{word.replace(' ', '-')}",
        "caption": describe(**key(truth), count=count, motion=word),
        **truth,
        "kind": kind,
        "count": count,
        "motion": motion,
        "fps": FPS,
        "variant": TRAINING_VARIANTS + number,
        "frames": paths,
        "edits": edits,
    }


def key(truth: dict) -> dict:
    """The same facts under the argument names of `describe`."""
    return {"name" if what == "object" else what: value for what, value in truth.items()}


def _several(clip: dict) -> str:
    """An edit of object, place and style at once: the three single edits together."""
    new = {what: parse(prompt)[what] for what, prompt in clip["edits"].items()}
    return describe(**key(new), count=clip["count"], motion=parse(clip["caption"])["motion"])


def move(motion: str, rng: np.random.Generator) -> list[list[tuple[float, float, float, float]]]:
    """Per frame, the things of a Scene: (centre x, centre y, longer side, angle), fractions of the side and degrees."""
    p = np.linspace(0, 1, FRAMES)
    way = 1 if rng.random() < 0.5 else -1  # left to right, or back
    size, low = np.full(FRAMES, rng.uniform(0.5, 0.58)), rng.uniform(0.52, 0.58)
    x, y, angle = 0.5 + way * 0.42 * (p - 0.5), np.full(FRAMES, low), np.zeros(FRAMES)
    if motion == "straight":
        y = low + rng.uniform(-0.12, 0.12) * (p - 0.5)
    elif motion == "arc":
        y, angle = low + 0.12 - 0.3 * 4 * p * (1 - p), way * 40 * (p - 0.5)
    elif motion == "bounce":
        y = low + 0.12 - 0.26 * np.abs(np.sin(2 * np.pi * p))
    elif motion == "zigzag":
        y = low + 0.14 * (2 * np.abs((2 * p) % 1 * 2 - 1) - 1)
    elif motion == "loop":
        turn = 2 * np.pi * p * way + rng.uniform(0, 2 * np.pi)
        x, y = 0.5 + 0.17 * np.cos(turn), 0.52 + 0.17 * np.sin(turn)
    elif motion in ("closer", "away"):
        x, y, size = np.full(FRAMES, 0.5), np.full(FRAMES, 0.53), 0.36 + 0.44 * (p if motion == "closer" else 1 - p)
    elif motion == "turn":
        x, angle = np.full(FRAMES, 0.5), way * 80 * (p - 0.5)
        size = size + 0.08
    elif motion in ("enter", "leave"):
        x = 0.5 + way * 0.5 * (p - 1 if motion == "enter" else p)
    elif motion == "cross":
        y, size = low - 0.06 + 0 * p, size - 0.12
        pair = [(0.5 + side * 0.5 * (p - 0.5), y + 0.1 * (side == way)) for side in (1, -1)]
        return [[_rounded(xs[f], ys[f], size[f], 0.0) for xs, ys in pair] for f in range(FRAMES)]
    return [[_rounded(*thing)] for thing in zip(x, y, size, angle, strict=True)]


def together(count: int, overlap: str, rng: np.random.Generator) -> list[list[tuple[float, float, float, float]]]:
    """As `move`, for several things: "apart" they keep their places beside each other, "crossing" they pass over."""
    p = np.linspace(0, 1, FRAMES) - 0.5
    way = 1 if rng.random() < 0.5 else -1
    size, low = {1: 0.54, 2: 0.42, 3: 0.36}[count] * rng.uniform(0.96, 1), rng.uniform(0.52, 0.56)
    if overlap == "apart":
        places = {1: [(0, 0)], 2: [(-0.22, 0), (0.22, 0)], 3: [(-0.24, 0.15), (0, -0.19), (0.24, 0.15)]}[count]
        ways = [(0.5 + x + way * 0.16 * p, low + y) for x, y in places]
    else:  # two pass each other; a third stands behind them and looks over
        passing = [(0.5 + side * 0.54 * p, low + 0.1 * (count == 3) + 0.04 * side * way) for side in (way, -way)]
        ways = [(0.5 + 0 * p, low - 0.16)][: count - 2] + passing
    return [[_rounded(x[f], y, size, 0.0) for x, y in ways] for f in range(FRAMES)]


def _rounded(*thing: float) -> tuple[float, float, float, float]:
    x, y, size, angle = (float(value) for value in thing)
    return round(x, 4), round(y, 4), round(size, 4), round(angle, 2)


def scenes(clip: dict) -> list[Scene]:
    """The Scene of every frame of a clip's truth."""
    return [
        Scene(clip["object"], clip["style"], clip["place"], tuple(map(tuple, things)), None, clip["variant"])
        for things in clip["frames"]
    ]


def write(clip: dict) -> None:
    """Write NAME.mp4, its truth NAME.json, and NAME.masks.png: a row per thing, a column per frame, visible white."""
    folder = DATA / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    pictures, masks = zip(*map(compose, scenes(clip)), strict=True)
    encode(folder / f"{clip['name']}.mp4", pictures)
    sheet = np.concatenate(np.concatenate(masks, axis=2), axis=0)
    cv2.imwrite(str(folder / f"{clip['name']}.masks.png"), (sheet > 0.5) * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])
    truth = {**clip, "edits": {name: {"prompt": prompt, **parse(prompt)} for name, prompt in clip["edits"].items()}}
    text = json.dumps({**truth, "frames": None}, indent=1)
    frames = ",\n  ".join(json.dumps(things) for things in clip["frames"])
    (folder / f"{clip['name']}.json").write_text(text.replace("null", f"[\n  {frames}\n ]") + "\n")


def encode(path: Path, pictures: tuple[np.ndarray, ...]) -> None:
    """Write H.264 that ordinary players show; at half size, which is what the models see, it is all but lossless."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(FPS), options={"crf": "1", "preset": "slow", "threads": "1"})
        stream.width = stream.height = CANVAS
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def _write_list(path: Path, clips: list[dict], about: tuple[str, ...] = ()) -> None:
    """Captions and edits under `clips`, as in the repository's params.yaml; under `about` those facts of each."""
    listed = {
        clip["name"]: {
            "source": {"path": f"data/clips/{clip['name']}.mp4", "start": 0, "stride": 2},
            "caption": clip["caption"],
            "edits": clip["edits"],
        }
        for clip in clips
    }
    facts = {clip["name"]: {what: clip[what] for what in about} for clip in clips}
    yaml = YAML()
    yaml.width = 120
    yaml.dump({"clips": listed, **({"about": facts} if about else {})}, path)
