"""Motion measures without weights and without truth: optical flow and point tracks of a clip and of its source.

Frames are f 3 h w in [0, 1]; they are rounded to 8 bits, as files hold them, and colours count from 0 to 255 where a
measure is published so. Flow and tracks are in pixels of these frames: a measure depends on their size, and published
numbers are of 512 pixels. RAFT and CoTracker, with which some of these measures are published, are replaced by OpenCV's
Farneback flow and Lucas-Kanade tracks: orders of methods compare, digits do not.
"""

import math

import cv2
import numpy as np
from torch import Tensor

from tav.clip import to_pictures
from tav.errors import InputError

SAME = 5  # grey levels within which EditBoard takes a pixel for the one that the flow says it is
TRUSTED = 0.7  # share of such pixels below which EditBoard's FF-alpha is 0
GRID = 32  # points to a side whose tracks are taken
WINDOW = 11  # pixels a side that Lucas-Kanade compares: larger ones mix an object of 30 pixels with what is behind it
RETURN = 0.5  # pixels from its origin within which a point tracked forth and back is still the same point
STILL = 0.1  # pixels a step below which a point stands still: noise has directions too


def optical_flow(frames: Tensor, backward: bool = False) -> np.ndarray:
    """Farneback flow from every frame to the next, or back from the next to it: f-1 h w 2, x and y in pixels.

    With EditBoard's parameters: pyramid 0.5, 3 levels, window 15, 3 iterations, polynomials of 5 pixels, sigma 1.2.
    """
    pairs = [pair[::-1] if backward else pair for pair in _pairs(_grey(to_pictures(frames)))]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairs]
    return np.stack(flows) if flows else np.zeros((0, *frames.shape[-2:], 2), np.float32)


def ff_alpha(frames: Tensor, source: Tensor, flow: np.ndarray) -> float:
    """EditBoard's FF-alpha: how far, in grey levels, an edited frame is from the one before, moved as the source moves.

    `flow` is the source's. The largest difference of a channel counts, where the same of the source, in grey, is at
    most 5; lower is better. As published it is 0, the best, where less than 70 % of the source's pixels pass that test
    on average: `explained` tells. A pair of frames where none passes, which released divides by zero, is left out.
    """
    _check(frames, source)
    if not len(flow):
        return math.nan
    agrees, change = _grey(_change(source, flow)) <= SAME, _change(frames, flow).max(-1)
    if agrees.mean() < TRUSTED:
        return 0.0
    return float(np.mean([c[valid].mean() for c, valid in zip(change, agrees, strict=True) if valid.any()]))


def explained(source: Tensor, flow: np.ndarray) -> float:
    """Share of a source clip's pixels that its flow explains; below 0.7, FF-alpha is 0 and says nothing."""
    return float((_grey(_change(source, flow)) <= SAME).mean()) if len(flow) else math.nan


def ff_beta(flow: np.ndarray, source: np.ndarray) -> float:
    """EditBoard's FF-beta: mean over pixels of 1 - cosine between the flows of edit and source; lower is better.

    Length does not count, and a pixel that does not move counts 1, in a clip against itself too.
    """
    lengths = [np.linalg.norm(field, axis=-1) + 1e-7 for field in (flow, source)]
    return float((1 - (flow * source).sum(-1) / lengths[0] / lengths[1]).mean()) if len(flow) else math.nan


def semantic_score(frames: Tensor, source: Tensor, mask: np.ndarray | Tensor) -> float:
    """EditBoard's Semantic score: the largest difference of a channel, in grey levels, where `mask`, f h w, is 0.

    Its mean over the pixels of a frame and then over frames; frames that are all mask are left out.
    """
    _check(frames, source)
    difference = [cv2.absdiff(a, b).max(-1) for a, b in zip(to_pictures(frames), to_pictures(source), strict=True)]
    kept = [d[m == 0].mean() for d, m in zip(difference, np.asarray(mask), strict=True) if (m == 0).any()]
    return float(np.mean(kept)) if kept else math.nan


def warp_error(frames: Tensor, flow: np.ndarray, backward: np.ndarray) -> float:
    """Lai et al.'s warp error (ECCV 2018), x1000 as TokenFlow tabulates it: each frame against the next, moved onto it.

    `flow` and `backward` are the source's, both ways. It is the mean square, colours in [0, 1], over channels and the
    pixels that are not occluded, per pair of frames, then over pairs. Occluded is where flow there and back do not
    cancel, or where the flow has an edge. A clip without detail scores 0. TokenFlow's own script is not released.
    """
    errors = []
    for (before, after), there, back in zip(_pairs(to_pictures(frames)), flow, backward, strict=True):
        colours = (before / 255 - _sampled(after / 255, there, cv2.BORDER_REPLICATE)) ** 2
        returned = _sampled(back, there, cv2.BORDER_REPLICATE)
        size, gap = (there**2).sum(-1), ((returned + there) ** 2).sum(-1)
        edges = sum(np.diff(there, axis=axis, append=there.take([-1], axis)) ** 2 for axis in (0, 1)).sum(-1)
        seen = (gap <= 0.01 * (size + (returned**2).sum(-1)) + 0.5) & (edges <= 0.01 * size + 0.002)
        errors.append(colours[seen].mean() if seen.any() else colours.mean())
    return 1000 * float(np.mean(errors)) if errors else math.nan


def point_tracks(frames: Tensor, where: np.ndarray | Tensor | None = None) -> np.ndarray:
    """Tracks of a grid of points of the first frame, by pyramidal Lucas-Kanade: n f 2, x and y in pixels.

    n counts the points that can be followed to the last frame: they stay in the picture, and tracking each step back
    returns to within half a pixel. What enters later is not tracked, nor what changes its brightness much. `where`,
    h w, starts tracks only where it is not 0: a background that stands still else outweighs the thing that moves.
    """
    grey = _grey(to_pictures(frames))
    h, w = grey.shape[1:]
    columns, rows = ((np.arange(GRID) + 0.5) * side / GRID - 0.5 for side in (w, h))
    points = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 1, 2).astype(np.float32)
    start = points.round().astype(int)[:, 0]
    kept = np.ones(len(points), bool) if where is None else np.asarray(where)[start[:, 1], start[:, 0]] != 0
    tracks = [points]
    for before, after in _pairs(grey):
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, tracks[-1], None, winSize=(WINDOW, WINDOW))
        origin, refound, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, winSize=(WINDOW, WINDOW))
        inside = ((moved >= 0) & (moved <= [w - 1, h - 1])).all((1, 2))
        returns = np.linalg.norm(origin - tracks[-1], axis=-1)[:, 0] < RETURN
        kept &= (found[:, 0] > 0) & (refound[:, 0] > 0) & inside & returns
        tracks.append(moved)
    return np.concatenate(tracks, 1)[kept]


def motion_fidelity(tracks: np.ndarray, source: np.ndarray) -> float:
    """DMT's motion fidelity between the tracks of edit and source, n f 2 and m f 2: -1 to 1, and 1 for the same motion.

    Two tracks are as alike as the mean over steps of the cosine between their displacements. Of every track the most
    alike track of the other clip counts; the mean over edit tracks and the mean over source tracks are averaged. Where
    points lie, and how fast they move, does not count. Two points that both stand still are alike (1), one that moves
    and one that does not are not (0). An edit in which no point can be followed scores 0.
    Released: tracks by CoTracker; the diagonal is taken away, so that a clip against itself scores below 1; only edit
    tracks look for their like; a point that stands still divides by zero.
    """
    if not len(source) or source.shape[1] < 2:
        return math.nan
    if not len(tracks):
        return 0.0
    alike = sum(a @ b.T for a, b in zip(_steps(tracks), _steps(source), strict=True)) / (source.shape[1] - 1)
    return float((alike.max(1).mean() + alike.max(0).mean()) / 2)


def _steps(tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per track, the directions of its steps, n (2 f-2), zero where it stands still, and where it does, n f-1."""
    steps = np.diff(tracks, axis=1)
    lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
    still = lengths < STILL
    directions = np.where(still, 0, steps / np.maximum(lengths, STILL))
    return directions.reshape(len(tracks), -1), still[..., 0].astype(np.float32)


def _check(frames: Tensor, source: Tensor) -> None:
    if frames.shape != source.shape:
        shapes = f"{tuple(frames.shape)} and {tuple(source.shape)}"
        raise InputError(f"edit and source differ in shape ({shapes}): compare clips of the same frames and size")


def _grey(pictures: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])


def _pairs(pictures: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(pictures[:-1], pictures[1:], strict=True))


def _change(frames: Tensor, flow: np.ndarray) -> np.ndarray:
    """Per channel, from every frame, moved along the flow, to the next, f-1 h w 3; outside is black, as in EditBoard.

    The flow of the pixel that something leaves is applied where it arrives, as published.
    """
    pairs = zip(_pairs(to_pictures(frames)), flow, strict=True)
    return np.stack([cv2.absdiff(after, _sampled(before, -field)) for (before, after), field in pairs])


def _sampled(picture: np.ndarray, offset: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """For every pixel, what a picture or a field holds at an offset, h w 2 in pixels, from it."""
    grid = np.stack(np.meshgrid(*map(np.arange, offset.shape[1::-1])), -1).astype(np.float32)
    return cv2.remap(picture, grid + offset, None, cv2.INTER_LINEAR, borderMode=border)
