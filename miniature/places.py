"""The places: backdrops wider than a frame, so that a camera can move over them, in as many layouts as one asks."""

from functools import cache

import cv2
import numpy as np

PLACES = {
    "grass": "on the grass",
    "snow": "in the snow",
    "beach": "on the beach",
    "desert": "in the desert",
    "sea": "in the sea",
    "road": "on the road",
    "forest": "in the forest",
    "sunset": "at sunset",
    "space": "in space",
}
WIDTH, HEIGHT = 256, 192  # pixels: x from -0.5 to 1.5 and y from -0.25 to 1.25 in sides of a frame of 128


@cache
def backdrop(place: str, layout: int) -> np.ndarray:
    """An empty place: (192, 256, 3) uint8. Cached: treat it as read-only."""
    rng = np.random.default_rng([list(PLACES).index(place), layout])
    sky, shapes = _DRAW[place](rng)
    picture = np.empty((HEIGHT, WIDTH, 3), np.float32)
    picture[:] = sky if np.ndim(sky) > 1 else np.float32(sky)
    for points, colour in shapes:
        pixels = (np.asarray(points) + [0.5, 0.25]) * 128
        left, top = np.clip(pixels.min(0).astype(int) - 2, 0, [WIDTH, HEIGHT])
        right, bottom = np.clip(pixels.max(0).astype(int) + 3, 0, [WIDTH, HEIGHT])
        if right <= left or bottom <= top:
            continue
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [np.round((pixels - [left, top]) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        alpha = mask[..., None] / np.float32(255)
        part = picture[top:bottom, left:right]
        part += (np.float32(colour) - part) * alpha
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def _tint(rng, *colour) -> np.ndarray:
    return np.clip(np.array(colour) * rng.uniform(0.9, 1.1) + rng.uniform(-10, 10, 3), 0, 255)


def _disc(x: float, y: float, r: float, squash: float = 1.0) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    return np.stack([x + r * np.cos(turn), y + r * squash * np.sin(turn)], 1)


def _ground(rng, y: float, swell: float, waves: float = 1.0) -> np.ndarray:
    x = np.linspace(-0.55, 1.55, 90)
    line = (
        y
        + swell * np.sin(2 * np.pi * (waves * x + rng.random()))
        + 0.4 * swell * np.sin(2 * np.pi * (2.3 * waves * x + rng.random()))
    )
    return np.concatenate([np.stack([x, line], 1), [[1.55, 1.3], [-0.55, 1.3]]])


def _spread(rng, n: int, low: float = -0.45, high: float = 1.45) -> np.ndarray:
    """n places from left to right, about evenly."""
    step = (high - low) / max(n, 1)
    return low + step * (np.arange(n) + rng.uniform(0.1, 0.9, n))


def _clouds(rng, n: int, colour=(255, 255, 255)) -> list:
    shapes = []
    for x in _spread(rng, n):
        y, r = rng.uniform(-0.1, 0.2), rng.uniform(0.05, 0.1)
        shapes += [(_disc(x + d * r, y + abs(d) * 0.3 * r, r * (1 - 0.25 * abs(d)), 0.8), colour) for d in (-1, 0, 1)]
    return shapes


def _grass(rng):
    horizon = rng.uniform(0.42, 0.62)
    shapes = _clouds(rng, int(rng.integers(1, 4)))
    shapes += [(_ground(rng, horizon - 0.1, rng.uniform(0.03, 0.07)), _tint(rng, 130, 200, 90)),
               (_ground(rng, horizon + 0.08, 0.03), _tint(rng, 90, 175, 65))]  # fmt: skip
    for x in _spread(rng, int(rng.integers(5, 12))):
        y, s = rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.4)
        blade = np.array([[-0.03, 0], [-0.035, -0.09], [0, -0.02], [0.035, -0.09], [0.03, 0]]) * s + [x, y]
        shapes.append((blade, _tint(rng, 55, 135, 45)))
    for x in _spread(rng, int(rng.integers(0, 6))):
        shapes.append(
            (_disc(x, rng.uniform(0.68, 1), 0.018), _tint(rng, 245, 210, 90) if rng.random() < 0.5 else (250, 250, 250))
        )
    return _tint(rng, 140, 208, 245), shapes


def _snow(rng):
    horizon, shapes = rng.uniform(0.42, 0.6), []
    for x in _spread(rng, int(rng.integers(2, 5))):
        top, half = rng.uniform(0.05, 0.28), rng.uniform(0.2, 0.4)
        shapes.append(
            (np.array([[x - half, horizon + 0.15], [x, top], [x + half, horizon + 0.15]]), _tint(rng, 140, 158, 190))
        )
        cap = 0.3
        shapes.append(
            (
                np.array(
                    [
                        [x - half * cap, top + cap * (horizon + 0.15 - top)],
                        [x, top],
                        [x + half * cap, top + cap * (horizon + 0.15 - top)],
                    ]
                ),
                (245, 248, 252),
            )
        )
    shapes.append((_ground(rng, horizon + 0.04, 0.03), _tint(rng, 238, 243, 250)))
    for x in _spread(rng, int(rng.integers(0, 4))):
        y, s = rng.uniform(0.6, 0.75), rng.uniform(0.6, 1.1)
        for step in range(3):
            shapes.append(
                (
                    np.array(
                        [
                            [-0.09 + 0.02 * step, -0.08 * step],
                            [0, -0.16 - 0.08 * step],
                            [0.09 - 0.02 * step, -0.08 * step],
                        ]
                    )
                    * s
                    + [x, y],
                    _tint(rng, 60, 110, 95),
                )
            )
    shapes += [
        (_disc(x, rng.uniform(-0.2, 1.2), 0.014 * rng.uniform(0.7, 1.3)), (255, 255, 255)) for x in _spread(rng, 22)
    ]
    return _tint(rng, 168, 188, 216), shapes


def _beach(rng):
    horizon, x = rng.uniform(0.42, 0.56), rng.uniform(-0.4, 1.4)
    shapes = [
        (_disc(x, rng.uniform(-0.05, 0.2), 0.1), _tint(rng, 255, 225, 90)),
        *_clouds(rng, int(rng.integers(0, 3))),
    ]
    shapes += [(_ground(rng, horizon - 0.06, 0), _tint(rng, 25, 140, 205)),
               (_ground(rng, horizon + 0.12, 0.03, 1.2), (250, 250, 245)),
               (_ground(rng, horizon + 0.16, 0.03, 1.2), _tint(rng, 243, 216, 150))]  # fmt: skip
    for x in _spread(rng, int(rng.integers(0, 3))):
        y = rng.uniform(0.7, 0.8)
        shapes.append(
            (np.array([[-0.015, 0], [0.0, -0.5], [0.03, -0.5], [0.025, 0]]) + [x, y], _tint(rng, 130, 90, 55))
        )
        for way in (-1, -0.4, 0.4, 1):
            leaf = np.array([[0, 0], [0.1 * way, -0.06], [0.2 * way, 0.05 * abs(way) + 0.02], [0.1 * way, -0.01]]) + [
                x + 0.015,
                y - 0.5,
            ]
            shapes.append((leaf, _tint(rng, 60, 150, 70)))
    return _tint(rng, 120, 205, 252), shapes


def _desert(rng):
    horizon, shapes = rng.uniform(0.42, 0.6), []
    if rng.random() < 0.6:
        shapes.append((_disc(rng.uniform(-0.4, 1.4), rng.uniform(-0.05, 0.2), 0.09), _tint(rng, 255, 245, 200)))
    for x in _spread(rng, int(rng.integers(0, 3))):
        half, top = rng.uniform(0.12, 0.25), rng.uniform(0.2, 0.36)
        shapes.append(
            (
                np.array(
                    [[x - half, horizon + 0.1], [x - half * 0.7, top], [x + half * 0.7, top], [x + half, horizon + 0.1]]
                ),
                _tint(rng, 205, 125, 75),
            )
        )
    shapes += [
        (_ground(rng, horizon - 0.02, 0.06), _tint(rng, 235, 170, 90)),
        (_ground(rng, horizon + 0.12, 0.05), _tint(rng, 218, 145, 70)),
    ]
    cactus = np.array([[-1, 0], [-1, -3], [-3, -3], [-3, -6], [-2, -6], [-2, -4], [-1, -4], [-1, -8], [1, -8], [1, -5],
                       [2, -5], [2, -7], [3, -7], [3, -4], [1, -4], [1, 0]]) * 0.034  # fmt: skip
    for x in _spread(rng, int(rng.integers(2, 5))):
        shapes.append(
            (
                cactus * rng.uniform(0.7, 1.2) * [rng.choice([-1, 1]), 1] + [x, rng.uniform(0.66, 0.85)],
                _tint(rng, 70, 140, 70),
            )
        )
    return _tint(rng, 252, 222, 165), shapes


def _sea(rng):
    shapes = []
    for number, y in enumerate(np.linspace(-0.05, 0.85, 5) + rng.uniform(-0.04, 0.04)):
        shapes.append((_ground(rng, y, 0.025, 2.2), _tint(rng, 34 - 6 * number, 124 - 16 * number, 198 - 16 * number)))
    for x in _spread(rng, int(rng.integers(2, 6))):
        y, s = 1.05, rng.uniform(0.6, 1.2)
        weed = np.array(
            [[-0.03, 0.2], [-0.05, -0.1], [0.0, -0.2], [-0.02, -0.35], [0.03, -0.2], [-0.01, -0.1], [0.03, 0.2]]
        ) * s + [x, y]
        shapes.append((weed, _tint(rng, 30, 110, 80)))
    shapes += [
        (_disc(x, rng.uniform(-0.1, 0.95), 0.022 * rng.uniform(0.6, 1.3)), _tint(rng, 150, 215, 240))
        for x in _spread(rng, 11)
    ]
    return _tint(rng, 46, 142, 212), shapes


def _road(rng):
    horizon, shapes = rng.uniform(0.5, 0.6), []
    for x in np.arange(-0.55, 1.5, 0.22) + rng.uniform(-0.05, 0.05):
        top, wall = (
            rng.uniform(0.0, 0.35),
            _tint(rng, *[(165, 120, 115), (140, 140, 155), (190, 165, 130)][rng.integers(3)]),
        )
        shapes.append((np.array([[x, 0.75], [x, top], [x + 0.19, top], [x + 0.19, 0.75]]), wall))
        for wy in np.arange(top + 0.05, horizon - 0.03, 0.1):
            for wx in (0.035, 0.11):
                shapes.append(
                    (
                        np.array([[0, 0], [0.045, 0], [0.045, 0.055], [0, 0.055]]) + [x + wx, wy],
                        wall * 0.62 if rng.random() < 0.7 else (250, 230, 150),
                    )
                )
    shapes += [
        (_ground(rng, horizon + 0.02, 0), _tint(rng, 165, 165, 165)),
        (_ground(rng, horizon + 0.07, 0), _tint(rng, 92, 94, 104)),
    ]
    y = horizon + rng.uniform(0.24, 0.28)
    for x in np.arange(-0.6, 1.5, 0.3) + rng.uniform(0, 0.2):
        shapes.append((np.array([[x, y], [x + 0.17, y], [x + 0.17, y + 0.045], [x, y + 0.045]]), (245, 225, 120)))
    return _tint(rng, 190, 205, 215), shapes


def _forest(rng):
    horizon, shapes = rng.uniform(0.55, 0.68), []
    for depth, colour, n in ((0.0, (96, 150, 105), 11), (0.08, (60, 115, 75), 8)):
        for x in _spread(rng, n):
            s, y = rng.uniform(0.8, 1.3), horizon + depth
            shapes.append(
                (
                    np.array([[-0.02, 0.02], [-0.02, -0.12], [0.02, -0.12], [0.02, 0.02]]) * s + [x, y],
                    _tint(rng, 95, 70, 50),
                )
            )
            if rng.random() < 0.5:
                for step in range(3):
                    shapes.append(
                        (
                            np.array(
                                [
                                    [-0.12 + 0.025 * step, -0.08 - 0.12 * step],
                                    [0, -0.26 - 0.12 * step],
                                    [0.12 - 0.025 * step, -0.08 - 0.12 * step],
                                ]
                            )
                            * s
                            + [x, y],
                            _tint(rng, *colour),
                        )
                    )
            else:
                shapes += [
                    (_disc(x + dx * s, y - dy * s, 0.1 * s), _tint(rng, *colour))
                    for dx, dy in ((-0.06, 0.24), (0.06, 0.24), (0, 0.33))
                ]
    shapes.append((_ground(rng, horizon + 0.06, 0.02), _tint(rng, 92, 108, 60)))
    for x in _spread(rng, int(rng.integers(1, 5))):
        y = rng.uniform(0.78, 1.0)
        shapes.append((np.array([[-0.01, 0.05], [-0.01, 0], [0.01, 0], [0.01, 0.05]]) + [x, y], (235, 225, 205)))
        shapes.append((_disc(x, y, 0.035, 0.6), _tint(rng, 200, 60, 50)))
    return _tint(rng, 178, 214, 190), shapes


def _sunset(rng):
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.55, 0.68)
    shapes = [(_disc(x, y, r * rng.uniform(0.92, 1.08)), _tint(rng, *colour)) for r, colour in
              ((0.95, (165, 70, 125)), (0.66, (205, 85, 112)), (0.44, (238, 120, 80)),
               (0.26, (255, 196, 88)))]  # fmt: skip
    shapes += [
        (_ground(rng, y + rng.uniform(-0.02, 0.05), rng.uniform(0.01, 0.05)), _tint(rng, 92, 48, 95)),
        (_ground(rng, y + 0.17, 0.02, 1.4), _tint(rng, 62, 34, 76)),
    ]
    return _tint(rng, 116, 58, 130), shapes


def _space(rng):
    shapes = [
        (_disc(x, rng.uniform(-0.22, 1.2), 0.011 * rng.uniform(0.6, 1.4)), _tint(rng, 240, 240, 225))
        for x in _spread(rng, 34)
    ]
    for x in _spread(rng, int(rng.integers(1, 4))):
        y, r = rng.uniform(0.0, 0.35), rng.uniform(0.07, 0.15)
        colour = _tint(rng, *[(165, 95, 170), (90, 140, 190), (200, 120, 80), (120, 170, 120)][rng.integers(4)])
        if rng.random() < 0.5:
            shapes.append((_disc(x, y, r * 1.6, 0.35), _tint(rng, 225, 190, 130)))
        shapes += [(_disc(x, y, r), colour), (_disc(x - 0.3 * r, y - 0.3 * r, 0.35 * r), np.clip(colour * 1.2, 0, 255))]
    if rng.random() < 0.6:
        shapes.append((_ground(rng, rng.uniform(0.8, 0.95), 0.02), _tint(rng, 110, 108, 125)))
        shapes += [(_disc(x, rng.uniform(0.98, 1.15), 0.05, 0.4), _tint(rng, 85, 83, 100)) for x in _spread(rng, 5)]
    return _tint(rng, 22, 20, 52), shapes


_DRAW = {"grass": _grass, "snow": _snow, "beach": _beach, "desert": _desert, "sea": _sea, "road": _road,
         "forest": _forest, "sunset": _sunset, "space": _space}  # fmt: skip
