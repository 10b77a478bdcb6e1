"""How clips move: per frame where things are and how bent, what stands in front and what the camera sees."""

from collections.abc import Sequence

import numpy as np

from miniature.scenes import BARE, GAIT, MOST, MOTIONS, TRAINING, Scenes, drawings, fronts, objects, random_scenes

FRAMES = 16
GROUPS = {  # motions by what has to be learnt from them
    "path": ("straight", "arc", "bounce", "zigzag", "loop", "closer", "away", "turn", "enter", "leave"),
    "deform": ("hop", "sway", "stretch"),
    "camera": ("pan", "zoom"),
    "hide": ("hide",),
    "cross": ("cross",),
}
_OTHERS = {"arc": "jumping", "bounce": "bouncing", "zigzag": "weaving", "loop": "circling", "closer": "coming closer",
         "away": "moving away", "turn": "turning", "enter": "entering", "leave": "leaving", "hop": "hopping",
         "sway": "swaying", "stretch": "stretching", "pan": "standing", "zoom": "standing", "hide": "hiding",
         "cross": "crossing"}  # fmt: skip
# what a caption calls each motion, by the kind of its thing
WORDS = {"straight": GAIT} | {motion: dict.fromkeys(GAIT, word) for motion, word in _OTHERS.items()}
STEPS = ("straight", "zigzag", "loop", "closer", "away", "enter", "leave", "hide", "cross")  # in which a person walks


def random_clip(
    rng: np.random.Generator,
    motion: str | None = None,
    layouts: range = TRAINING,
    among: Sequence[str] | None = None,
) -> Scenes:
    """The FRAMES scenes of a clip: one look of the training distribution that moves, its motion said by every caption.

    motion: a key of WORDS, by default any. among: the objects, by default those that are seen in training.
    """
    motion = motion or str(rng.choice(list(WORDS)))
    count = int(rng.integers(2, MOST + 1)) if motion == "cross" else 1
    looks = random_scenes(rng, 64, among, layouts)  # of which, all but surely, some have this many things
    look = looks[np.full(FRAMES, np.argmax(looks.count == count))]
    return look.with_(**move(motion, rng, count), motion=np.full(FRAMES, MOTIONS.index(word(motion, look))))


def word(motion: str, look: Scenes) -> str:
    """What captions call a motion of the look's first thing."""
    return WORDS[motion][objects()[drawings()[look.drawing[0, 0]][0]].kind]


def move(motion: str, rng: np.random.Generator, count: int = 1) -> dict[str, np.ndarray]:
    """What the frames of a clip of `count` things have of their own: arrays of a Scenes of FRAMES pictures."""
    p, still = np.linspace(0, 1, FRAMES), np.zeros(FRAMES)
    way = int(rng.choice([-1, 1]))  # left to right, or back
    view = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.08, 0.08), 1.0]) + still[:, None]
    if motion == "cross":
        return {**crossing(count, rng.uniform(0, 1), rng.uniform(0, 0.25), way), "view": view, **nothing_in_front()}
    x, y, size = 0.5 + way * 0.54 * (p - 0.5), rng.uniform(0.54, 0.6) + still, rng.uniform(0.5, 0.58) + still
    angle, squash, shear, front = still, still, still, nothing_in_front()
    if motion == "straight":
        y = y + rng.uniform(-0.1, 0.1) * (p - 0.5)
    elif motion == "arc":
        y, angle = y + 0.1 - 0.34 * 4 * p * (1 - p), way * 40 * (p - 0.5)
    elif motion == "bounce":
        y = y + 0.1 - 0.3 * np.abs(np.sin(2 * np.pi * p))
    elif motion == "zigzag":
        y = y - 0.03 + 0.15 * (2 * np.abs((2 * p) % 1 * 2 - 1) - 1)
    elif motion == "loop":
        turn = 2 * np.pi * p * way + rng.uniform(0, 2 * np.pi)
        x, y = 0.5 + 0.19 * np.cos(turn), 0.52 + 0.19 * np.sin(turn)
    elif motion in ("closer", "away"):
        x, y, size = 0.5 + still, 0.54 + still, 0.38 + 0.44 * (p if motion == "closer" else 1 - p)
    elif motion == "turn":
        x, size, angle = 0.5 + still, size + 0.08, way * 84 * (p - 0.5)
    elif motion in ("enter", "leave"):
        x = 0.5 + way * 0.5 * (p - 1 if motion == "enter" else p)
    elif motion == "hop":  # flat where it lands, long in the air
        height = np.abs(np.sin(2 * np.pi * p))
        x, y, squash = 0.5 + way * 0.2 * (p - 0.5), y + 0.08 - 0.24 * height, 0.34 - 0.5 * height**0.5
        y = y + 0.3 * size * (1 - np.exp(-squash / 2))  # it is flattened from above
    elif motion == "sway":
        size, shear = size + 0.1, 0.3 * np.sin(3 * np.pi * p) * way
        x = 0.5 - 0.3 * size * shear  # its feet stay
    elif motion == "stretch":
        x, size, squash = 0.5 + still, size + 0.06, 0.38 * np.sin(3 * np.pi * p) * way
    elif motion == "hide":
        x, size = 0.5 + way * 0.66 * (p - 0.5), size - 0.06
        where = [0.5, rng.uniform(0.54, 0.66), rng.uniform(0.5, 0.84)]
        front = {"front": np.full(FRAMES, rng.integers(len(fronts()))), "front_pose": np.tile(where, (FRAMES, 1))}
    elif motion in GROUPS["camera"]:  # the thing all but stays where it is in the world
        x, size, view = 0.5 + 0.06 * (p - 0.5), size - 0.04, view * [0.3, 1, 1]
        if motion == "pan":
            view[:, 0] = way * 0.54 * (p - 0.5)
        else:
            x, view[:, 2] = x + view[:, 0], 1 + 0.4 * (p if way == 1 else 1 - p)
        x, y, size = (0.5 + (x - 0.5 - view[:, 0]) * view[:, 2], 0.5 + (y - 0.5 - view[:, 1]) * view[:, 2],
                      size * view[:, 2])  # fmt: skip
    else:
        raise ValueError(f"no motion: {motion!r}")
    sideways = motion in ("straight", "arc", "bounce", "zigzag", "enter", "leave", "hide", "hop")
    pose = np.stack([x, y, size, angle, squash, shear], 1)[:, None].repeat(MOST, 1)
    facing = np.full((FRAMES, MOST), way if sideways else rng.choice([-1, 1]))
    phase = 2 * p if motion in STEPS else rng.random() + still
    return {"pose": pose, "facing": facing, "phase": phase[:, None].repeat(MOST, 1) % 1, "view": view, **front}


def nothing_in_front() -> dict[str, np.ndarray]:
    """The arrays that say so."""
    return {"front": np.full(FRAMES, BARE), "front_pose": np.zeros((FRAMES, 3))}


def crossing(count: int, apart: float, uneven: float, way: int) -> dict[str, np.ndarray]:
    """Two or three things that pass each other: pose, facing and phase.

    apart: how far their lanes are from each other, 0 (all in one) to 1 (as far as the frame allows). uneven: by which
    part nearer things are larger. Of three the middle one comes towards the other two.
    """
    p = np.linspace(0, 1, FRAMES)
    low = {2: 0.44, 3: 0.33}[count]
    size = low * (1 + uneven * (np.arange(count) - (count - 1) / 2))
    lane = apart * (0.98 - size.max()) * (np.arange(count) / (count - 1) - 0.5)
    room = 0.96 - size
    start = np.array({2: [-0.5, 0.5], 3: [-0.5, 0.5, -0.1]}[count]) * room
    travel = np.array({2: [1, -1], 3: [0.6, -1, 0.6]}[count]) * room
    pose = np.zeros((FRAMES, MOST, 6))
    pose[..., 2] = low  # of things that are not drawn, too: a size of 0 has no inverse
    pose[:, :count, 0] = 0.5 + way * (start + travel * p[:, None])
    pose[:, :count, 1], pose[:, :count, 2] = 0.52 + lane, size
    facing = np.ones((FRAMES, MOST), int)
    facing[:, :count] = way * np.sign(travel)
    return {"pose": pose, "facing": facing, "phase": (2 * p % 1)[:, None].repeat(MOST, 1)}
