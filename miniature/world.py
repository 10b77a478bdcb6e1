"""The world: objects, styles, places, counts, a caption grammar, and the renderer that knows a picture's truth."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SPRITES = Path("data/sprites")
SPRITE = 112  # pixels of a sprite's square
CANVAS = 128  # pictures are composed at this size and reduced, so that edges are smooth


@dataclass(frozen=True)
class Object:
    code: str  # Unicode code point: all three emoji sets are looked up by it
    kind: str  # animal | vehicle | person
    plural: str
    held_out: bool = False  # never seen in training: such objects appear in source clips only


OBJECTS = {
    "fox": Object("1f98a", "animal", "foxes"),
    "panda": Object("1f43c", "animal", "pandas"),
    "rabbit": Object("1f407", "animal", "rabbits"),
    "penguin": Object("1f427", "animal", "penguins"),
    "pig": Object("1f416", "animal", "pigs"),
    "elephant": Object("1f418", "animal", "elephants"),
    "duck": Object("1f986", "animal", "ducks"),
    "turtle": Object("1f422", "animal", "turtles"),
    "lion": Object("1f981", "animal", "lions"),
    "flamingo": Object("1f9a9", "animal", "flamingos", held_out=True),
    "kangaroo": Object("1f998", "animal", "kangaroos", held_out=True),
    "car": Object("1f697", "vehicle", "cars"),
    "bus": Object("1f68c", "vehicle", "buses"),
    "tractor": Object("1f69c", "vehicle", "tractors"),
    "helicopter": Object("1f681", "vehicle", "helicopters"),
    "plane": Object("2708", "vehicle", "planes"),
    "rocket": Object("1f680", "vehicle", "rockets"),
    "train": Object("1f682", "vehicle", "trains", held_out=True),
    "scooter": Object("1f6f5", "vehicle", "scooters", held_out=True),
    "skier": Object("26f7", "person", "skiers"),
    "surfer": Object("1f3c4", "person", "surfers"),
    "dancer": Object("1f483", "person", "dancers"),
    "astronaut": Object("1f9d1-200d-1f680", "person", "astronauts"),
    "wizard": Object("1f9d9", "person", "wizards"),
    "cyclist": Object("1f6b4", "person", "cyclists", held_out=True),
    "runner": Object("1f3c3", "person", "runners", held_out=True),
}
TRAINED = [name for name, thing in OBJECTS.items() if not thing.held_out]
STYLES = {"3d": "a 3d render", "cartoon": "a cartoon", "line": "a line drawing"}
PLACES = {
    "grass": "on the grass",
    "snow": "in the snow",
    "beach": "on the beach",
    "desert": "in the desert",
    "sea": "in the sea",
    "road": "on the road",
    "sunset": "at sunset",
    "space": "in space",
}
COUNTS = {1: "a", 2: "two", 3: "three"}
MOTIONS = ["running", "driving", "sliding", "flying", "jumping", "bouncing", "weaving", "circling", "turning",
           "coming closer", "moving away", "entering", "leaving", "crossing"]  # fmt: skip
TRAINING_VARIANTS = 96  # of a place; the clips use later ones
PENCIL, PAPER = (132, 128, 134), (252, 249, 240)  # places are drawn in pencil, objects in ink


@dataclass(frozen=True)
class Scene:
    """One picture; `things` are (centre x, centre y, longer side, angle): fractions of the side, degrees clockwise."""

    object: str
    style: str
    place: str
    things: tuple[tuple[float, float, float, float], ...]
    motion: str | None = None
    variant: int = 0  # of the place

    @property
    def count(self) -> int:
        return len(self.things)

    @property
    def caption(self) -> str:
        return describe(self.object, self.style, self.place, self.count, self.motion)


def describe(name: str, style: str, place: str, count: int = 1, motion: str | None = None) -> str:
    """The caption of a picture, e.g. "a cartoon of two foxes running in the snow"."""
    noun = name if count == 1 else OBJECTS[name].plural
    article = "an" if count == 1 and noun[0] in "aeiou" else COUNTS[count]
    return " ".join(filter(None, [STYLES[style], "of", article, noun, motion, PLACES[place]]))


@cache
def _grammar() -> re.Pattern:
    nouns = [noun for name, thing in OBJECTS.items() for noun in (name, thing.plural)]
    parts = [STYLES.values(), ["an", *COUNTS.values()], nouns, MOTIONS, PLACES.values()]
    style, article, noun, motion, place = ("|".join(sorted(map(re.escape, part), key=len)[::-1]) for part in parts)
    return re.compile(f"({style}) of ({article}) ({noun})(?: ({motion}))? ({place})")


def parse(caption: str) -> dict:
    """The truth that a caption states: object, style, place, count, motion. ValueError if it is not in the grammar."""
    match = _grammar().fullmatch(caption)
    if not match:
        raise ValueError(f"not a caption of the miniature world: {caption!r}")
    style, article, noun, motion, place = match.groups()
    return {
        "object": next(name for name, thing in OBJECTS.items() if noun in (name, thing.plural)),
        "style": next(key for key, phrase in STYLES.items() if phrase == style),
        "place": next(key for key, phrase in PLACES.items() if phrase == place),
        "count": next((count for count, word in COUNTS.items() if word == article), 1),
        "motion": motion,
    }


def random_scene(rng: np.random.Generator, styles=tuple(STYLES), places=tuple(PLACES)) -> Scene:
    """A scene of the training distribution: three quarters of them hold one object, the rest two or three."""
    count = int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1]))
    low, high = {1: (0.5, 0.82), 2: (0.4, 0.5), 3: (0.34, 0.42)}[count]
    slots = {1: [(0.5, 0.53)], 2: [(0.27, 0.55), (0.73, 0.55)], 3: [(0.24, 0.68), (0.5, 0.3), (0.76, 0.68)]}[count]
    jitter = {1: 0.14, 2: 0.06, 3: 0.04}[count]
    things = tuple(
        (x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter) * 0.8, size * rng.uniform(0.94, 1), angle)
        for (x, y), size, angle in zip(slots, [rng.uniform(low, high)] * count, _angles(rng, count), strict=True)
    )
    motion = None if rng.random() < 0.25 else str(rng.choice(MOTIONS))
    name, style, place = (str(rng.choice(choices)) for choices in (TRAINED, styles, places))
    return Scene(name, style, place, things, motion, int(rng.integers(TRAINING_VARIANTS)))


def _angles(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(-45, 45, count) if rng.random() < 0.25 else rng.normal(0, 7, count)


def draw(scene: Scene, size: int = 64) -> np.ndarray:
    """Render a scene: (size, size, 3) uint8; later things cover earlier ones."""
    return _reduce(compose(scene)[0], size)


def compose(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The picture at CANVAS size, (h, w, 3) uint8, and the visible part of each thing, (count, h, w) in [0, 1]."""
    picture = background(scene.place, scene.style, scene.variant).astype(np.float32)
    masks = []
    for thing in scene.things:
        sprite = _placed(scene.object, scene.style, thing)
        alpha = sprite[..., 3:] / 255
        if scene.style == "3d":  # a soft shadow down and to the right belongs to this style
            shadow = cv2.GaussianBlur(np.roll(alpha[..., 0], (5, 3), (0, 1)), (0, 0), 4)
            picture *= 1 - 0.35 * shadow[..., None]
        picture = picture * (1 - alpha) + sprite[..., :3]
        masks = [mask * (1 - alpha[..., 0]) for mask in masks] + [alpha[..., 0]]
    return picture.round().astype(np.uint8), np.stack(masks)


def masks(scene: Scene, size: int = 64) -> np.ndarray:
    """The visible part of each thing: (count, size, size) in [0, 1]."""
    return np.stack([_reduce(mask, size) for mask in compose(scene)[1]])


def _reduce(picture: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) if size != CANVAS else picture


@cache
def _sprite(name: str, style: str) -> np.ndarray:
    rgba = np.asarray(Image.open(SPRITES / style / f"{name}.webp").convert("RGBA")).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255  # premultiplied, so that interpolation does not fringe
    return rgba


def _placed(name: str, style: str, thing: tuple[float, float, float, float]) -> np.ndarray:
    x, y, size, angle = thing
    matrix = cv2.getRotationMatrix2D((SPRITE / 2, SPRITE / 2), -angle, size * CANVAS / (SPRITE - 4))
    matrix[:, 2] += np.array([x, y]) * CANVAS - SPRITE / 2
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV counts from pixel centres
    return cv2.warpAffine(_sprite(name, style), matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)


@cache
def background(place: str, style: str, variant: int) -> np.ndarray:
    """An empty place in a style: (h, w, 3) uint8 at CANVAS size. Cached: treat it as read-only."""
    rng = np.random.default_rng([list(PLACES).index(place), list(STYLES).index(style), variant])
    sky, shapes = _shapes(place, rng)
    if style == "line":
        picture = np.full((CANVAS, CANVAS, 3), PAPER, np.uint8)
        for points, _ in shapes:
            pixels = np.round(points * CANVAS * 16).astype(np.int32)
            cv2.fillPoly(picture, [pixels], PAPER, cv2.LINE_AA, 4)
            cv2.polylines(picture, [pixels], True, PENCIL, 2, cv2.LINE_AA, 4)
        return picture
    shade = 0.22 if style == "3d" else 0.0  # a cartoon is flat; a 3d render is lit from above
    picture = np.full((CANVAS, CANVAS, 3), sky, np.float32) * np.linspace(1 - shade, 1 + shade, CANVAS)[:, None, None]
    for points, colour in shapes:
        mask = np.zeros((CANVAS, CANVAS), np.uint8)
        cv2.fillPoly(mask, [np.round(points * CANVAS * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        top, bottom = points[:, 1].min(), min(points[:, 1].max(), 1)
        ramp = np.clip((np.linspace(0, 1, CANVAS) - top) / max(bottom - top, 1e-3), 0, 1)
        lit = np.array(colour, np.float32) * (1 + shade * (1 - 2 * ramp))[:, None, None]
        alpha = mask[..., None] / np.float32(255)
        picture = picture * (1 - alpha) + lit * alpha
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def _shapes(place: str, rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """The sky's colour and closed outlines, far to near: (points (n, 2) as fractions of the side, colour)."""

    def tint(*colour):
        return np.clip(np.array(colour) * rng.uniform(0.94, 1.06) + rng.uniform(-6, 6, 3), 0, 255)

    def disc(x, y, r, squash=1.0):
        turn = np.linspace(0, 2 * np.pi, 25)[:-1]
        return np.stack([x + r * np.cos(turn), y + r * squash * np.sin(turn)], 1)

    def ground(y, swell, waves=1.0):
        x = np.linspace(-0.05, 1.05, 45)
        line = y + swell * np.sin(2 * np.pi * (waves * x + rng.random()))
        return np.concatenate([np.stack([x, line], 1), [[1.05, 1.05], [-0.05, 1.05]]])

    def scatter(n, low, high, r):
        return [disc(*rng.uniform([0.03, low], [0.97, high]), r * rng.uniform(0.7, 1.3)) for _ in range(n)]

    horizon = rng.uniform(0.5, 0.6)
    corner = rng.choice([0.16, 0.84]) + rng.uniform(-0.05, 0.05)
    if place == "grass":
        sky, shapes = tint(140, 208, 245), [(disc(corner, 0.14, 0.09), (255, 255, 255)),
                                            (disc(corner + 0.1, 0.16, 0.07), (255, 255, 255))]  # fmt: skip
        shapes += [
            (ground(horizon - 0.08, 0.05), tint(130, 200, 90)),
            (ground(horizon + 0.08, 0.04), tint(90, 175, 65)),
        ]
        for x in rng.uniform(0.05, 0.95, 5):
            y = rng.uniform(0.75, 0.95)
            blade = np.array(
                [[x - 0.03, y], [x - 0.035, y - 0.09], [x, y - 0.02], [x + 0.035, y - 0.09], [x + 0.03, y]]
            )
            shapes.append((blade, tint(55, 135, 45)))
    elif place == "snow":
        sky = tint(172, 190, 214)
        peak = np.array([[corner - 0.3, horizon + 0.1], [corner, 0.14], [corner + 0.3, horizon + 0.1]])
        shapes = [(peak, tint(140, 158, 190)), (ground(horizon + 0.04, 0.03), tint(244, 248, 254))]
        shapes += [(flake, (255, 255, 255)) for flake in scatter(12, 0.03, 0.97, 0.018)]
    elif place == "beach":
        sky, shapes = tint(120, 205, 252), [(disc(corner, 0.15, 0.1), tint(255, 225, 90))]
        shapes += [(ground(horizon - 0.08, 0), tint(25, 140, 205)),
                   (ground(horizon + 0.12, 0.03, 1.5), (250, 250, 245)),
                   (ground(horizon + 0.16, 0.03, 1.5), tint(243, 216, 150))]  # fmt: skip
    elif place == "desert":
        sky = tint(252, 222, 165)
        shapes = [(ground(horizon - 0.06, 0.08), tint(235, 170, 90)), (ground(horizon + 0.1, 0.06), tint(215, 140, 65))]
        for x, y in ((corner, horizon + 0.2), (1 - corner, horizon + 0.1)):
            cactus = [[-1, 0], [-1, -3], [-3, -3], [-3, -6], [-2, -6], [-2, -4], [-1, -4], [-1, -8], [1, -8], [1, -5],
                      [2, -5], [2, -7], [3, -7], [3, -4], [1, -4], [1, 0]]  # fmt: skip
            shapes.append((np.array(cactus) * 0.035 + [x, y], tint(70, 140, 70)))
    elif place == "sea":
        sky, shapes = tint(40, 135, 205), []
        for i, y in enumerate(np.linspace(0.06, 0.82, 4) + rng.uniform(-0.03, 0.03)):
            shapes.append((ground(y, 0.025, 3), tint(32 - 7 * i, 122 - 18 * i, 195 - 18 * i)))
        shapes += [(bubble, tint(150, 215, 240)) for bubble in scatter(6, 0.1, 0.95, 0.025)]
    elif place == "road":
        sky, shapes = tint(190, 205, 215), []
        for x in np.arange(0, 1, 0.2) + rng.uniform(-0.05, 0.05):
            top = rng.uniform(0.08, 0.35)
            shapes.append((np.array([[x, 0.7], [x, top], [x + 0.17, top], [x + 0.17, 0.7]]), tint(165, 120, 115)))
        shapes.append((ground(horizon + 0.05, 0), tint(92, 94, 104)))
        y = horizon + rng.uniform(0.24, 0.28)
        for x in np.arange(-0.1, 1, 0.3) + rng.uniform(0, 0.2):
            dash = np.array([[x, y], [x + 0.17, y], [x + 0.17, y + 0.05], [x, y + 0.05]])
            shapes.append((dash, tint(245, 225, 120)))
    elif place == "sunset":
        sky = tint(120, 60, 130)
        x, y = 0.5 + rng.uniform(-0.2, 0.2), horizon + 0.1
        shapes = [(disc(x, y, r), colour) for r, colour in
                  ((0.62, tint(195, 80, 115)), (0.48, tint(235, 115, 80)), (0.34, tint(255, 190, 80)))]  # fmt: skip
        shapes.append((ground(y, 0.01, 2), tint(75, 40, 85)))
    else:
        sky, shapes = tint(20, 18, 48), []
        shapes += [(star, tint(240, 240, 225)) for star in scatter(14, 0.03, 0.97, 0.012)]
        shapes += [
            (disc(corner, 0.17, 0.19, 0.35), tint(225, 190, 130)),
            (disc(corner, 0.17, 0.12), tint(165, 95, 170)),
        ]
    return sky, shapes
