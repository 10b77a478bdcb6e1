"""The world: things, styles, places, a caption grammar, and a renderer that draws batches and knows their truth.

A caption names style, things, motion and place. It leaves unsaid which drawing of a thing is meant, its colour (but for
one caption in four), which way it faces, what it wears, how the place is laid out and how it is lit: what a prompt
leaves open is what makes frames that are edited one by one disagree.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from miniature.places import PLACES, backdrop

SPRITES = Path("data/sprites")
SIZE = 64  # pixels of a picture's side
CANVAS = 128  # pictures are composed at this size and reduced, so that outlines are smooth
SPRITE = 80  # pixels of a sprite in the atlas
MARGIN = 112 / 108  # a sprite's square beside what is drawn in it
MOST = 3  # things in a picture
TRAINING = range(0, 64)  # layouts of every place that the models are trained on; clips and judge use later ones

STYLES = {"cartoon": "a cartoon", "3d": "a 3d render", "pencil": "a pencil drawing", "neon": "a neon sign"}
COLOURS = {
    "brown": (0.55, 0.35, 0.20),
    "golden": (0.90, 0.66, 0.28),
    "grey": (0.58, 0.59, 0.61),
    "white": (0.94, 0.94, 0.93),
    "black": (0.20, 0.19, 0.21),
    "pink": (0.95, 0.60, 0.68),
    "orange": (0.95, 0.50, 0.14),
    "green": (0.36, 0.67, 0.28),
    "red": (0.85, 0.18, 0.18),
    "blue": (0.22, 0.44, 0.85),
    "yellow": (0.97, 0.83, 0.22),
}
GREY_COLOURS = ("grey", "white", "black")  # which have no hue
WEARS = {"hat": "wearing a hat", "balloon": "with a balloon"}
BARE = -1  # the number of what is not worn, not said or not there
MOTIONS = ["running", "driving", "walking", "jumping", "bouncing", "weaving", "circling", "turning", "coming closer",
           "moving away", "entering", "leaving", "crossing", "hopping", "swaying", "stretching", "hiding",
           "standing"]  # fmt: skip
GAIT = {"animal": "running", "vehicle": "driving", "person": "walking"}  # what going straight is called


@dataclass(frozen=True)
class Object:
    """What a caption can name. seen: pictures of it train the models; of others only scoring CLIP and judge know."""

    kind: str  # animal | vehicle | person
    seen: bool
    colours: tuple[str, ...]
    drawings: tuple[str, ...]


@dataclass(frozen=True)
class Thing:
    """What a caption says of one thing."""

    object: str
    colour: str | None = None
    wears: str | None = None


@cache
def _sheet() -> dict:
    return json.loads((SPRITES / "sprites.json").read_text())["objects"]


@cache
def objects() -> dict[str, Object]:
    """All objects by name, in the order of data/sprites/sprites.json."""
    return {
        name: Object(entry["kind"], entry["seen"], tuple(entry["colours"]), tuple(entry["drawings"]))
        for name, entry in _sheet().items()
    }


@cache
def drawings() -> list[tuple[str, str]]:
    """Every drawing of every object; a Scenes' `drawing` is a place in this list."""
    return [(name, drawing) for name, thing in objects().items() for drawing in thing.drawings]


@cache
def names(seen: bool) -> list[str]:
    """The objects that are seen in training, or those that are not."""
    return [name for name, thing in objects().items() if thing.seen == seen]


def describe(style: str, things: Sequence[Thing], place: str, motion: str | None = None) -> str:
    """The caption, e.g. "a cartoon of a brown dog wearing a hat and a bus crossing in the snow"."""
    phrases = []
    for thing in things:
        words = " ".join(filter(None, [thing.colour, thing.object]))
        phrases.append(" ".join(filter(None, [_article(words), words, WEARS.get(thing.wears)])))
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    return " ".join(filter(None, [STYLES[style], "of", listed, motion, PLACES[place]]))


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


@cache
def _grammar() -> tuple[re.Pattern, re.Pattern]:
    def choice(words) -> str:
        return "|".join(sorted(map(re.escape, words), key=len, reverse=True))

    thing = f"an? (?:({choice(COLOURS)}) )?({choice(objects())})(?: ({choice(WEARS.values())}))?"
    flat = thing.replace("(?:", "\0").replace("(", "(?:").replace("\0", "(?:")
    listed = f"{flat}(?:(?:, | and ){flat})*"
    whole = f"({choice(STYLES.values())}) of ({listed})(?: ({choice(MOTIONS)}))? ({choice(PLACES.values())})"
    return re.compile(whole), re.compile(thing)


def parse(caption: str) -> dict:
    """What a caption states: style, things, motion, place. ValueError if it is not in the grammar."""
    whole, thing = _grammar()
    match = whole.fullmatch(caption)
    if not match:
        raise ValueError(f"not a caption of the miniature world: {caption!r}")
    style, listed, motion, place = match.groups()
    return {
        "style": _key(STYLES, style),
        "things": [Thing(o, c or None, _key(WEARS, w)) for c, o, w in thing.findall(listed)],
        "motion": motion,
        "place": _key(PLACES, place),
    }


def _key(table: dict[str, str], phrase: str) -> str | None:
    return next((key for key, value in table.items() if value == phrase), None)


@dataclass(frozen=True)
class Scenes:
    """n pictures as arrays; numbers are places in STYLES, PLACES, objects(), drawings(), COLOURS, WEARS and MOTIONS.

    pose: of every thing x and y of its centre, its longer side (fractions of the side), angle (degrees clockwise),
    squash (log of width to height) and shear. view: which part of the backdrop is seen: its centre's offset and a zoom.
    Of things after the `count`-th nothing is drawn; later ones stand before earlier ones.
    """

    style: np.ndarray  # n
    place: np.ndarray  # n
    layout: np.ndarray  # n: of the place
    view: np.ndarray  # n 3
    light: np.ndarray  # n 3: what red, green and blue are multiplied with
    count: np.ndarray  # n
    drawing: np.ndarray  # n MOST
    colour: np.ndarray  # n MOST
    paint: np.ndarray  # n MOST 3: the colour as it is drawn, in [0, 1]
    facing: np.ndarray  # n MOST: 1 right, -1 left
    wears: np.ndarray  # n MOST
    phase: np.ndarray  # n MOST: of the walk cycle, in [0, 1)
    pose: np.ndarray  # n MOST 6
    front: np.ndarray  # n: what stands in front, or BARE
    front_pose: np.ndarray  # n 3: x, y, longer side
    motion: np.ndarray  # n: what the caption says, or BARE
    says: np.ndarray  # n MOST 2: whether the caption names colour and what is worn

    def __len__(self) -> int:
        return len(self.style)

    def __getitem__(self, which) -> "Scenes":
        return Scenes(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def with_(self, **arrays) -> "Scenes":
        """The same with other arrays."""
        return replace(self, **arrays)

    def things(self, number: int) -> list[Thing]:
        """All that is true of the things of one picture."""
        return [
            Thing(
                drawings()[self.drawing[number, k]][0],
                list(COLOURS)[self.colour[number, k]],
                None if self.wears[number, k] == BARE else list(WEARS)[self.wears[number, k]],
            )
            for k in range(self.count[number])
        ]

    def captions(self) -> list[str]:
        """What is said of every picture."""
        written = []
        for number in range(len(self)):
            said = [
                replace(thing, colour=thing.colour if colour else None, wears=thing.wears if wears else None)
                for thing, (colour, wears) in zip(self.things(number), self.says[number], strict=False)
            ]
            motion = None if self.motion[number] == BARE else MOTIONS[self.motion[number]]
            style, place = list(STYLES)[self.style[number]], list(PLACES)[self.place[number]]
            written.append(describe(style, said, place, motion))
        return written


def join(parts: Sequence[Scenes]) -> Scenes:
    """Several batches as one."""
    return Scenes(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Scenes)})


def random_scenes(
    rng: np.random.Generator, n: int, among: Sequence[str] | None = None, layouts: range = TRAINING
) -> Scenes:
    """Pictures of the training distribution: three quarters hold one thing, the rest two or three of different kinds
    or colours. among: the objects, by default those that are seen in training."""
    among = list(among or names(seen=True))
    tables = _tables()
    count = rng.choice([1, 2, 3], n, p=[0.75, 0.15, 0.1])
    known = np.array([list(objects()).index(name) for name in among])
    thing = known[rng.integers(len(known), size=(n, MOST))]
    drawing = tables["first"][thing] + rng.integers(1 << 30, size=(n, MOST)) % tables["many"][thing]
    colour = tables["colours"][thing, rng.integers(1 << 30, size=(n, MOST)) % tables["palette"][thing]]
    for k in range(1, MOST):  # two alike could not be told apart: the later one changes its colour
        for before in range(k):
            alike = (thing[:, k] == thing[:, before]) & (colour[:, k] == colour[:, before])
            palette = tables["palette"][thing[:, k]]
            place = (tables["colours"][thing[:, k]] == colour[:, k, None]).argmax(1)
            colour[:, k] = np.where(alike, tables["colours"][thing[:, k], (place + 1) % palette], colour[:, k])
    several, wide = count > 1, rng.random(n) < 0.25  # wide: as far over the canvas as clips go
    low, high = np.array([[0.38, 0.86], [0.36, 0.5], [0.3, 0.42]])[count - 1].T
    slots = [[[0.5, 0.55]] * 3, [[0.27, 0.57], [0.73, 0.57], [0, 0]], [[0.22, 0.66], [0.5, 0.4], [0.78, 0.66]]]
    middle = np.where(wide[:, None, None], [0.5, 0.55], np.array(slots)[count - 1])
    spread = np.array([[[0.2, 0.14], [0.08, 0.056]], [[0.5, 0.3], [0.34, 0.3]]])[wide.astype(int), several.astype(int)]
    centre = middle + rng.uniform(-1, 1, (n, MOST, 2)) * spread[:, None]
    side = rng.uniform(low[:, None], high[:, None], (n, MOST))
    angle = np.where(rng.random((n, MOST)) < 0.2, rng.uniform(-45, 45, (n, MOST)), rng.normal(0, 6, (n, MOST)))
    bent = rng.random((n, MOST)) < 0.3
    squash, shear = (np.where(bent, rng.uniform(-most, most, (n, MOST)), 0) for most in (0.4, 0.35))
    said_colour = (rng.random((n, MOST)) < 0.16) | (_same_object(thing, count) & several[:, None])
    wears = np.where(rng.random((n, MOST)) < 0.24, rng.integers(len(WEARS), size=(n, MOST)), BARE)
    return Scenes(
        style=rng.integers(len(STYLES), size=n),
        place=rng.integers(len(PLACES), size=n),
        layout=rng.integers(layouts.start, layouts.stop, size=n),
        view=np.stack([rng.uniform(-0.35, 0.35, n), rng.uniform(-0.1, 0.1, n), rng.uniform(1, 1.4, n)], 1),
        light=random_light(rng, n),
        count=count,
        drawing=drawing,
        colour=colour,
        paint=random_paint(rng, colour),
        facing=rng.choice([-1, 1], (n, MOST)),
        wears=wears,
        phase=rng.random((n, MOST)),
        pose=np.stack([centre[..., 0], centre[..., 1], side, angle, squash, shear], -1),
        front=np.where(rng.random(n) < 0.12, rng.integers(len(fronts()), size=n), BARE),
        front_pose=np.stack([rng.uniform(0, 1, n), rng.uniform(0.55, 0.85, n), rng.uniform(0.35, 0.8, n)], 1),
        motion=np.where(rng.random(n) < 0.25, BARE, random_motion(rng, thing[:, 0])),
        says=np.stack([said_colour, (wears != BARE) & (rng.random((n, MOST)) < 0.5)], -1),
    )


def plain(rng: np.random.Generator, n: int, layouts: range = TRAINING, among: Sequence[str] | None = None) -> Scenes:
    """Random pictures of one thing that stands whole, upright and of middling size, wears nothing and does nothing."""
    drawn = random_scenes(rng, n, among, layouts)
    pose = np.zeros_like(drawn.pose)
    x, y, side = rng.uniform(0.35, 0.65, n), rng.uniform(0.45, 0.65, n), rng.uniform(0.5, 0.85, n)
    pose[:, 0, :4] = np.stack([x, y, side, rng.normal(0, 6, n)], 1)
    one, none, bare = np.ones(n, int), np.full(n, BARE), np.full_like(drawn.wears, BARE)
    return drawn.with_(pose=pose, count=one, front=none, motion=none, wears=bare)


def random_light(rng: np.random.Generator, n: int) -> np.ndarray:
    """Bright or dim, warm or cold: n 3."""
    warm = rng.normal(0, 0.05, (n, 1)) * [1, 0, -1]
    return rng.uniform(0.82, 1.08, (n, 1)) * (1 + warm)


def random_paint(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A shade of each colour: (..., 3) in [0, 1]."""
    paint = np.array(list(COLOURS.values()))[colour]
    return np.clip(paint * rng.uniform(0.92, 1.08, (*colour.shape, 1)) + rng.normal(0, 0.012, paint.shape), 0, 1)


def random_motion(rng: np.random.Generator, thing: np.ndarray) -> np.ndarray:
    """A motion's word for each object: going straight has another one for each kind."""
    gaits = [MOTIONS.index(word) for word in GAIT.values()]
    others = [number for number in range(len(MOTIONS)) if number not in gaits]
    own = np.array([MOTIONS.index(GAIT[each.kind]) for each in objects().values()])[thing]
    return np.where(rng.random(len(thing)) < 0.25, own, rng.choice(others, len(thing)))


def _same_object(thing: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Whether another thing of the picture is of the same object: n MOST."""
    there = np.arange(MOST) < count[:, None]
    alike = (thing[:, :, None] == thing[:, None]) & there[:, None] & there[:, :, None] & ~np.eye(MOST, dtype=bool)
    return alike.any(2)


@cache
def _tables() -> dict[str, np.ndarray]:
    """Of every object: its first drawing, how many it has, its colours and how many those are."""
    all_, owner = list(objects().values()), [name for name, _ in drawings()]
    most = max(len(thing.colours) for thing in all_)
    numbers = [[list(COLOURS).index(colour) for colour in thing.colours] for thing in all_]
    return {
        "first": np.array([owner.index(name) for name in objects()]),
        "many": np.array([len(thing.drawings) for thing in all_]),
        "palette": np.array([len(own) for own in numbers]),
        "colours": np.array([own + own[:1] * (most - len(own)) for own in numbers]),
        "object": np.array([list(objects()).index(name) for name in owner]),
    }


def objects_of(drawing: np.ndarray) -> np.ndarray:
    """The objects' numbers of drawings."""
    return _tables()["object"][drawing]


@cache
def fronts() -> list[str]:
    """What can stand in front."""
    return sorted(path.stem for path in (SPRITES / "front").glob("*.png"))


def _load(path: Path) -> np.ndarray:
    """A picture with alpha in [0, 1], premultiplied, h w 4."""
    rgba = np.asarray(Image.open(path).convert("RGBA")).astype(np.float32) / 255
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def _small(layer: np.ndarray) -> np.ndarray:
    """At the atlas's size; channel by channel, as OpenCV takes no more than four together."""
    channels = np.dsplit(layer, layer.shape[2])
    return np.dstack([cv2.resize(channel, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA) for channel in channels])


def _sprite(path: Path) -> np.ndarray:
    """5 h w: what keeps its colour (premultiplied), the shading of what is painted, alpha."""
    rgba = _load(path)
    alpha = rgba[..., 3]
    body = np.asarray(Image.open(path.with_suffix(".body.png")).convert("L")).astype(np.float32) / 255
    light = rgba[..., :3] @ np.float32([0.299, 0.587, 0.114]) / np.maximum(alpha, 1e-3)
    painted = (body > 0.5) & (alpha > 0.5)
    shade = np.clip(light / max(float(np.median(light[painted])), 0.05), 0, 1.5) if painted.any() else light
    layers = np.dstack([rgba[..., :3] * (1 - body[..., None]), shade * alpha * body, alpha])
    return _small(layers).transpose(2, 0, 1)


@dataclass(frozen=True)
class Atlas:
    """All sprites on a device. first, frames: of every drawing its place in `sprites` and its number of walk frames."""

    sprites: Tensor  # s 5 h w
    first: np.ndarray
    frames: np.ndarray
    head: np.ndarray  # of every drawing, x and y from the middle, in fractions of the square
    front: Tensor  # o 4 h w, premultiplied
    wears: Tensor  # w 4 h w
    bottom: np.ndarray  # of every accessory, where it ends below, in fractions of the square from the middle
    area: Tensor  # of every sprite, the share of its square that is covered


@cache
def atlas(device: str) -> Atlas:
    """The sprites of data/sprites."""
    sprites, first, frames, head = [], [], [], []
    for name, drawing in drawings():
        entry = _sheet()[name]["drawings"][drawing]
        count = entry["frames"]
        files = [f"{drawing}.{number}.png" for number in range(count)] if count > 1 else [f"{drawing}.png"]
        first.append(len(sprites))
        frames.append(count)
        head.append(np.array(entry["head"]) - 0.5)
        sprites += [_sprite(SPRITES / name / file) for file in files]
    front = [_small(_load(SPRITES / "front" / f"{name}.png")).transpose(2, 0, 1) for name in fronts()]
    wears = [_small(_load(SPRITES / "wear" / f"{name}.png")).transpose(2, 0, 1) for name in WEARS]
    bottom = [(np.nonzero(layer[3].max(1) > 0.3)[0].max() + 1) / SPRITE - 0.5 for layer in wears]
    sprites = torch.from_numpy(np.stack(sprites)).to(device)
    return Atlas(
        sprites, np.array(first), np.array(frames), np.stack(head), torch.from_numpy(np.stack(front)).to(device),
        torch.from_numpy(np.stack(wears)).to(device), np.array(bottom), sprites[:, 4].mean((1, 2)),
    )  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """What a renderer gives: pictures n 3 64 64 in [0, 1]; canvas, the same at CANVAS without grain; visible, the part
    of each thing that is seen, n MOST 64 64 in [0, 1]; share, how much of the whole thing that is, n MOST."""

    pictures: Tensor
    canvas: Tensor
    visible: Tensor
    share: Tensor


class Renderer:
    """Draws scenes on a device. layouts: those of every place that its scenes use."""

    def __init__(self, device: str | torch.device = "cpu", layouts: range = TRAINING) -> None:
        self.device, self.layouts, self.atlas = torch.device(device), layouts, atlas(str(device))
        bank = np.stack([backdrop(place, layout) for place in PLACES for layout in layouts])
        self.backdrops = torch.from_numpy(bank).permute(0, 3, 1, 2).contiguous().to(self.device)

    @torch.no_grad()
    def __call__(self, scenes: Scenes, generator: torch.Generator | None = None) -> Drawn:
        """Draw every scene. generator: of the grain, on any device; without one there is none."""
        few = 32 if self.device.type == "cpu" else len(scenes)  # what fits a CPU's cache is drawn faster
        parts = [self._draw(scenes[start : start + few]) for start in range(0, len(scenes), few)]
        canvas, visible, share = (torch.cat(part) for part in zip(*parts, strict=True))
        pictures, visible = halved(canvas), halved(visible)
        if generator:
            pictures = (pictures + grain(len(scenes), generator).to(self.device)).clamp(0, 1)
        return Drawn(pictures, canvas, visible, share)

    def _draw(self, scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
        """Canvas, visible parts at its size, and their shares."""
        n, style = len(scenes), self._tensor(scenes.style)
        solid = style == list(STYLES).index("3d")
        canvas = self._backdrop(scenes)
        visible = torch.zeros(n, MOST, CANVAS, CANVAS, device=self.device)
        share = torch.zeros(n, MOST, device=self.device)
        for k in range(MOST):
            here = np.nonzero(scenes.count > k)[0]
            if not len(here):
                break
            at = self._tensor(here)
            forward = _forward(scenes.pose[here, k], scenes.facing[here, k])
            drawing = scenes.drawing[here, k]
            step = np.floor(scenes.phase[here, k] * self.atlas.frames[drawing]).astype(int) % self.atlas.frames[drawing]
            number = self._tensor(self.atlas.first[drawing] + step)
            layer = self._placed(self.atlas.sprites[number], forward, scenes.pose[here, k, :2])
            alpha = layer[:, 4:]
            paint = self._tensor(scenes.paint[here, k]).float()[:, :, None, None]
            colour = torch.minimum(layer[:, :3] + layer[:, 3:4] * paint, alpha)
            colour, shadow = self._lit(colour, alpha, solid[at])
            canvas[at] = canvas[at] * (1 - shadow) * (1 - alpha) + colour
            visible[at] *= 1 - alpha
            visible[at, k] = alpha[:, 0]
            whole = self.atlas.area[number] * self._tensor(np.abs(np.linalg.det(forward))).float()
            share[at, k] = 1 / whole.clamp(min=1e-6)
            self._dress(canvas, visible, scenes, here, k, forward)
        self._screen(canvas, visible, scenes)
        share = (share * visible.mean((2, 3))).clamp(max=1)
        canvas = self._styled(canvas * self._tensor(scenes.light).float()[:, :, None, None], style).clamp(0, 1)
        return canvas, visible, share

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _backdrop(self, scenes: Scenes) -> Tensor:
        """A backdrop shows x from -0.5 to 1.5 and y from -0.25 to 1.25 in sides of a frame."""
        number = self._tensor(scenes.place * len(self.layouts) + scenes.layout - self.layouts.start)
        x, y, zoom = scenes.view.T
        theta = np.zeros((len(scenes), 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 0, 2] = 0.5 / zoom, x
        theta[:, 1, 1], theta[:, 1, 2] = 1 / 1.5 / zoom, y / 0.75
        parts = self.backdrops[number].float() / 255
        return grid_sample(parts, grid(self._tensor(theta)), padding_mode="border", align_corners=False)

    def _placed(self, layers: Tensor, forward: np.ndarray, centre: np.ndarray) -> Tensor:
        """Layers n c h w moved by `forward` (n 2 2, from a square's middle, its side 1, to sides of a frame)."""
        inverse = np.linalg.inv(forward)
        shift = -inverse @ (2 * centre - 1)[..., None]
        theta = self._tensor(np.concatenate([inverse, shift], 2).astype(np.float32))
        return grid_sample(layers, grid(theta), align_corners=False)

    def _lit(self, colour: Tensor, alpha: Tensor, solid: Tensor) -> tuple[Tensor, Tensor]:
        """Where `solid`: round, lit from the upper left, with a soft shadow on what is behind; elsewhere flat."""
        shadow = torch.zeros_like(alpha)
        if solid.any():
            height = blur(alpha[solid], 5)
            slope = height - torch.roll(height, (4, 4), (2, 3))
            shading = (1 + 0.9 * slope).clamp(0.5, 1.5)
            colour = colour.clone()
            colour[solid] = torch.minimum(colour[solid] * shading, alpha[solid])
            shadow[solid] = 0.45 * torch.roll(blur(alpha[solid], 4), (6, 5), (2, 3))
        return colour, shadow

    def _dress(self, canvas, visible, scenes: Scenes, here: np.ndarray, k: int, forward: np.ndarray) -> None:
        """Draw what the k-th things wear: a hat turns with its thing, a balloon stays upright."""
        for number, name in enumerate(WEARS):
            chosen = scenes.wears[here, k] == number
            if not chosen.any():
                continue
            at, pose, own = here[chosen], scenes.pose[here[chosen], k], forward[chosen]
            head = (own @ self.atlas.head[scenes.drawing[at, k]][..., None])[..., 0]
            turn = pose[:, 3] if name == "hat" else 0 * pose[:, 3]
            side = pose[:, 2] * (0.4 if name == "hat" else 0.6)
            worn = _forward(np.stack([0 * side, 0 * side, side, turn, 0 * side, 0 * side], 1), scenes.facing[at, k])
            up = (worn @ np.array([0, self.atlas.bottom[number]])[:, None])[..., 0]
            layer = self._placed(self.atlas.wears[number].expand(len(at), -1, -1, -1), worn, pose[:, :2] + head - up)
            self._cover(canvas, visible, self._tensor(at), layer)

    def _screen(self, canvas: Tensor, visible: Tensor, scenes: Scenes) -> None:
        """Draw what stands in front."""
        at = np.nonzero(scenes.front != BARE)[0]
        if len(at):
            x, y, side = scenes.front_pose[at].T
            still = np.stack([x, y, side, 0 * x, 0 * x, 0 * x], 1)
            layers = self.atlas.front[self._tensor(scenes.front[at])]
            layer = self._placed(layers, _forward(still, np.ones(len(at))), scenes.front_pose[at, :2])
            self._cover(canvas, visible, self._tensor(at), layer)

    def _cover(self, canvas: Tensor, visible: Tensor, at: Tensor, layer: Tensor) -> None:
        canvas[at] = canvas[at] * (1 - layer[:, 3:]) + layer[:, :3]
        visible[at] *= 1 - layer[:, 3:]

    def _styled(self, canvas: Tensor, style: Tensor) -> Tensor:
        """Treat whole pictures: a 3d render is darker below; pencil and neon draw the outlines."""
        fall = torch.linspace(1.08, 0.84, CANVAS, device=self.device)[:, None]
        solid, pencil, neon = ((style == list(STYLES).index(name)) for name in ("3d", "pencil", "neon"))
        canvas[solid] *= fall
        if pencil.any():
            part = canvas[pencil].clamp(0, 1)
            line = outlines(part)
            paper = torch.tensor([0.97, 0.95, 0.90], device=self.device)[:, None, None]
            canvas[pencil] = (0.4 * part + 0.6 * paper) * (1 - 0.85 * line)
        if neon.any():
            part = canvas[neon].clamp(0, 1)
            line = outlines(part)
            bright = part / part.amax(1, keepdim=True).clamp(min=0.2)
            glow = 0.9 * line * bright
            canvas[neon] = 0.3 * part * part + glow + 0.9 * blur(glow, 3)
        return canvas


def _forward(pose: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """From a sprite's square (its middle 0, its side 1) to sides of a frame: n 2 2."""
    _, _, side, angle, squash, shear = pose.T
    turn = np.radians(angle)
    rotation = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], 1).reshape(-1, 2, 2)
    shape = np.stack([facing * np.exp(squash / 2), shear, 0 * shear, np.exp(-squash / 2)], 1).reshape(-1, 2, 2)
    return rotation @ shape * (side * MARGIN)[:, None, None]


def grain(n: int, generator: torch.Generator) -> Tensor:
    """Film grain of three sizes, n 3 64 64: without it flat pictures leave most directions of the latents empty, and
    noise that is inverted from them is none."""

    def random(channels: int, side: int) -> Tensor:
        return torch.randn(n, channels, side, side, generator=generator, device=generator.device)

    coarse = interpolate(random(3, SIZE // 4), (SIZE, SIZE), mode="bicubic", align_corners=False)
    middle = interpolate(random(3, SIZE // 2), (SIZE, SIZE), mode="bilinear", align_corners=False)
    return 0.026 * coarse + 0.019 * middle + 0.01 * random(1, SIZE)


def grid(theta: Tensor) -> Tensor:
    """Where a canvas's pixels are under n 2 3 affine maps, for grid_sample: affine_grid, several times as fast."""
    line = (torch.arange(CANVAS, device=theta.device) * 2 + 1) / CANVAS - 1
    across, down, shift = (theta[:, None, :, column] for column in range(3))
    return (line[:, None] * across)[:, None] + (line[:, None] * down + shift)[:, :, None]


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of n c h w, a canvas or anything else as high as wide."""
    reach = int(2.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = _filter(tuple((taps / taps.sum()).tolist()), pictures.shape[-1], str(pictures.device))
    return matrix @ pictures @ matrix.T


def halved(pictures: Tensor) -> Tensor:
    """Every two by two pixels as one."""
    rows = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def outlines(pictures: Tensor) -> Tensor:
    """Where colours change, n 1 h w in [0, 1]."""
    kernels = (1 / 3, 1 / 3, 1 / 3), (-1.0, 0.0, 1.0)
    smooth, slope = (_filter(taps, pictures.shape[-1], str(pictures.device)) for taps in kernels)
    flat, steep = pictures @ smooth.T, pictures @ (slope @ smooth).T
    change = (smooth @ steep).square() + (slope @ smooth @ flat).square()
    return (2.6 * change.sum(1, keepdim=True).sqrt() - 0.12).clamp(0, 1)


@cache
def _filter(taps: tuple[float, ...], side: int, device: str) -> Tensor:
    """A filter with repeated edges as a matrix, side side: products of matrices are faster than convolutions."""
    matrix, reach = torch.zeros(side, side), len(taps) // 2
    for tap, weight in enumerate(taps):
        matrix[torch.arange(side), (torch.arange(side) + tap - reach).clamp(0, side - 1)] += weight
    return matrix.to(device)
