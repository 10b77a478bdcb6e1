"""What the camera does, read off what is behind the things: shifts and zooms from frame to frame."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from measures.judge import SIDE, resize

REACHES = (4, 2, 1)  # pixels by which frames are softened, coarse to fine: what a shift may be, and be found
STEPS = 6  # of Gauss and Newton at each of them
DAMPING = 4  # that a background without outlines moves nothing
GRID = (0.25, 0.5, 0.75)  # points a side at which two cameras are compared


def camera_motion(frames: Tensor, behind: Tensor) -> Tensor:
    """The camera's motion between neighbours of frames f 3 h w in [0, 1], where `behind`, f h w, shows no thing.

    f-1 3: shift x and y in sides of the frame and the logarithm of the zoom. What is at p, from the frame's middle, is
    at zoom * p + shift in the next frame. By least squares on grey levels, so that outlines that say nothing of one
    direction weigh nothing there; a background without any has a camera that stands still.
    """
    if len(frames) < 2:
        return torch.zeros(0, 3)
    grey = resize(frames.float().cpu().mean(1, keepdim=True), SIDE)
    seen = (resize(behind[:, None].float().cpu(), SIDE) > 0.99).float()
    motion = torch.zeros(len(frames) - 1, 3)
    for reach in REACHES:
        soft = _softened(grey * seen, reach) / _softened(seen, reach).clamp(min=0.01)  # nothing of the things
        pairs = soft[:-1], soft[1:], seen[:-1], seen[1:]
        for _ in range(STEPS):
            tried = motion + _step(*pairs, motion)
            motion = torch.where(_better(*pairs, tried, motion)[:, None], tried, motion)
    return motion


def camera_error(frames: Tensor, behind: Tensor, view: Tensor) -> float:
    """How far a clip's camera, as it is read, is from the known one, `view` (f 3: offset x and y in sides, zoom).

    Mean over frames but the first, and over a grid of places, of the distance between where the two cameras have moved
    a place to since the first frame, in per cent of the frame's side: 0 is best. nan where the known camera stands
    still: there, what is left of things that move, a shadow or what they wear, would be taken for it.
    """
    if not len(view) or (view == view[0]).all():
        return math.nan
    read = camera_motion(frames, behind)
    line = torch.tensor(GRID) - 0.5
    place = torch.cartesian_prod(line, line)[None]
    offset, zoom = view[:, None, :2], view[:, None, 2:]
    true = ((place / zoom[:1] + offset[:1]) - offset[1:]) * zoom[1:]
    moved, error = place, []
    for step, goal in zip(read, true, strict=True):
        moved = step[2].exp() * moved + step[:2]
        error.append((moved[0] - goal).norm(dim=1).mean())
    return 100 * float(torch.stack(error).mean())


def _softened(pictures: Tensor, reach: int) -> Tensor:
    for _ in range(3):  # three boxes are close to a Gaussian
        pictures = avg_pool2d(pictures, 2 * reach + 1, 1, reach, count_include_pad=False)
    return pictures


def _moved_back(other: Tensor, seen: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames n 1 h w moved back by `motion`, where they are valid, n h w, and the grid, n h w 2, from -1 to 1."""
    theta = torch.zeros(len(other), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = motion[:, 2].exp()
    theta[:, :, 2] = 2 * motion[:, :2]
    grid = affine_grid(theta, other.shape, align_corners=False)
    moved = grid_sample(other, grid, padding_mode="border", align_corners=False)
    return moved, (grid_sample(seen, grid, align_corners=False) > 0.99)[:, 0].float(), grid


def _better(one: Tensor, other: Tensor, seen: Tensor, seen_next: Tensor, tried: Tensor, held: Tensor) -> Tensor:
    """Whether the motion that is tried fits better than the one held, n bool, where both show the background.

    One that leaves less than half of the background to compare does not.
    """
    moved, valid, _ = _moved_back(other, seen_next, tried)
    stays, also, _ = _moved_back(other, seen_next, held)
    valid = valid * also * seen[:, 0]
    fits = [(valid * (one - frames)[:, 0].abs()).sum((1, 2)) for frames in (moved, stays)]
    enough = valid.sum((1, 2)) > 0.5 * seen[:, 0].sum((1, 2))
    return enough & (fits[0] < fits[1])


def _step(one: Tensor, other: Tensor, seen: Tensor, seen_next: Tensor, motion: Tensor) -> Tensor:
    """One step of Gauss and Newton for pairs of soft frames n 1 h w: what to add to `motion`, n 3."""
    side = one.shape[-1]
    moved, valid, grid = _moved_back(other, seen_next, motion)
    valid = valid * seen[:, 0]
    valid[..., 0], valid[..., -1], valid[:, 0], valid[:, -1] = 0, 0, 0, 0  # whose slopes would reach around
    slope = torch.cat([moved.roll(-1, dim) - moved.roll(1, dim) for dim in (3, 2)], 1)
    slope = slope * side / 2 / motion[:, 2].exp()[:, None, None, None]
    across = (slope.movedim(1, -1) * (grid / 2 - motion[:, None, None, :2])).sum(-1, keepdim=True)
    jacobian = torch.cat([slope.movedim(1, -1), across], -1)
    residual = (one - moved)[:, 0]
    typical = 1.5 * (valid * residual.abs()).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
    weight = valid / (1 + (residual / typical.clamp(min=1e-3)[:, None, None]) ** 2)  # what fits badly says little
    normal = torch.einsum("nhwi,nhwj,nhw->nij", jacobian, jacobian, weight) + DAMPING * torch.eye(3)
    right = torch.einsum("nhwi,nhw,nhw->ni", jacobian, residual, weight)
    return torch.linalg.solve(normal, right).clamp(-0.1, 0.1)
