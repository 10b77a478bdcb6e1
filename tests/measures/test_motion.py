import math

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from measures.motion import (
    explained,
    ff_alpha,
    ff_beta,
    motion_fidelity,
    optical_flow,
    point_tracks,
    semantic_score,
    warp_error,
)
from tav.errors import InputError

F, SIDE = 4, 64
INSIDE = np.s_[:, 16:-16, 16:-16]  # flow is less sure where half a window lies outside the frame


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def texture(dx, dy, seed=0):
    """A clip of a coloured texture that moves by whole pixels a frame, right and down."""
    wide = avg_pool2d(noise(1, 3, 160, 160, seed=seed), 7, stride=1)[0]
    wide = (wide - wide.amin()) / (wide.amax() - wide.amin())
    corners = [(40 - frame * dx, 40 - frame * dy) for frame in range(F)]
    return torch.stack([wide[:, y : y + SIDE, x : x + SIDE] for x, y in corners])


def still(value=0.5):
    return torch.full((F, 3, SIDE, SIDE), value)


def straight(*directions):
    """Tracks that go steadily: n F 2."""
    return np.stack([np.arange(F)[:, None] * np.array(direction, np.float32) for direction in directions])


def test_flow_and_tracks_of_a_moved_texture_are_its_motion():
    clip = texture(3, -2)
    assert np.abs(optical_flow(clip)[INSIDE] - [3, -2]).max() < 0.25
    assert np.abs(optical_flow(clip, backward=True)[INSIDE] + [3, -2]).max() < 0.25
    tracks = point_tracks(clip)
    assert len(tracks) > 500 and np.median(np.abs(np.diff(tracks, axis=1) - [3, -2])) < 0.05
    assert 0 <= tracks.min() and tracks.max() <= SIDE - 1  # what leaves is not followed


def test_tracks_start_where_they_are_asked_to():
    where = torch.zeros(SIDE, SIDE)
    where[:, 20:40] = 1
    tracks = point_tracks(texture(2, 0), where)
    assert len(tracks) > 100 and tracks[:, 0, 0].min() >= 20 and tracks[:, 0, 0].max() < 40


def test_a_clip_against_itself_is_without_fault():
    clip = texture(2, 1)
    flow, tracks = optical_flow(clip), point_tracks(clip)
    assert ff_beta(flow, flow) == pytest.approx(0, abs=1e-5)
    assert semantic_score(clip, clip, np.zeros((F, SIDE, SIDE))) == 0
    assert motion_fidelity(tracks, tracks) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("way", "beta", "fidelity"), [((3, 0), 0, 1), ((0, 3), 1, 0), ((-3, 0), 2, -1)])
def test_the_way_that_another_texture_moves_is_told(way, beta, fidelity):
    source, edit = texture(3, 0), texture(*way, seed=1)
    flows = optical_flow(edit)[INSIDE], optical_flow(source)[INSIDE]
    assert ff_beta(*flows) == pytest.approx(beta, abs=0.02)
    assert motion_fidelity(point_tracks(edit), point_tracks(source)) == pytest.approx(fidelity, abs=0.05)


def test_a_frame_that_stands_still_has_none_of_a_motion():
    source = texture(3, 0)
    repeated = source[:1].expand_as(source)
    assert motion_fidelity(point_tracks(repeated), point_tracks(source)) == 0
    assert motion_fidelity(point_tracks(repeated), point_tracks(repeated)) == 1
    flow = optical_flow(source)
    assert ff_beta(np.zeros_like(flow), flow) == 1
    backward = optical_flow(source, backward=True)
    assert warp_error(repeated, flow, backward) > 10 * warp_error(source, flow, backward)
    assert ff_alpha(repeated, source, flow) > 10 * ff_alpha(source, source, flow)


def test_the_direction_of_no_motion_is_no_direction():
    nothing = np.zeros((F - 1, SIDE, SIDE, 2))
    assert ff_beta(nothing, nothing) == 1  # as published, although a clip without motion does follow itself


def test_ff_alpha_is_the_largest_change_of_a_channel_along_the_flow():
    source = texture(2, 0)
    edit = 0.5 * source + 0.1
    edit[:, 2] += torch.arange(F)[:, None, None] * 20 / 255  # blue brightens by 20 levels a frame
    steady = ff_alpha(0.5 * source + 0.1, source, optical_flow(source))
    assert ff_alpha(edit, source, optical_flow(source)) == pytest.approx(20, abs=1 + steady)


def test_ff_alpha_is_zero_where_the_flow_does_not_explain_the_source():
    source = noise(F, 3, SIDE, SIDE)
    flow = optical_flow(source)
    assert explained(source, flow) < 0.7
    assert ff_alpha(still(), source, flow) == ff_alpha(1 - source, source, flow) == 0
    assert explained(texture(2, 0), optical_flow(texture(2, 0))) > 0.7


def test_ff_alpha_looks_only_where_the_flow_explains_the_source():
    source, edit = still(), still()
    source[1::2, ..., :8] = 0.9
    edit[1::2, ..., :8] = 0.1
    flow = np.zeros((F - 1, SIDE, SIDE, 2), np.float32)
    assert explained(source, flow) == 1 - 8 / SIDE
    assert ff_alpha(edit, source, flow) == 0 < ff_alpha(edit, still(), flow)


def test_the_semantic_score_is_the_largest_change_of_a_channel_outside_the_mask():
    source, edit, mask = still(), still(), torch.zeros(F, SIDE, SIDE)
    mask[..., :32] = 0.3  # anything but 0 is mask
    edit[..., :32] = 0
    edit[:, 0, :, 32:48] += 40 / 255  # half of what is outside, in red alone
    assert semantic_score(edit, source, mask) == pytest.approx(20)
    mask[0] = 1
    assert semantic_score(edit, source, mask) == pytest.approx(20)
    assert math.isnan(semantic_score(edit, source, torch.ones_like(mask)))


def test_the_warp_error_of_a_flickering_grey_is_the_square_of_its_step():
    grey = still(0.4)
    grey[1::2] = 0.6
    flow, backward = (optical_flow(texture(2, 0), backward=way) for way in (False, True))
    assert warp_error(grey, flow, backward) == pytest.approx(1000 * 0.2**2, rel=0.02)
    assert warp_error(still(), flow, backward) == pytest.approx(0, abs=1e-9)


def test_the_warp_error_leaves_out_what_is_occluded():
    edit = still()
    edit[1::2, ..., :32] = 1
    flow = np.zeros((F - 1, SIDE, SIDE, 2), np.float32)
    backward, edge = flow.copy(), flow.copy()
    assert warp_error(edit, flow, backward) == pytest.approx(1000 * 0.5**2 / 2, rel=0.02)
    backward[..., :32, 0] = 3  # there and back do not cancel on the left
    assert warp_error(edit, flow, backward) == 0
    edge[:, ::2] = 0.2  # small enough to cancel, but it changes from row to row
    only = still()
    only[1::2, ..., :-1, :] = 1  # the last row has no neighbour and no edge
    assert warp_error(only, edge, -edge) == pytest.approx(0, abs=1e-6)


def test_motion_fidelity_looks_for_the_like_of_every_track_on_both_sides():
    right, left, up = (1, 0), (-1, 0), (0, -1)
    assert motion_fidelity(straight(right, up), straight(right, up)) == 1  # no other track is like it: itself is
    assert motion_fidelity(straight(right, left), straight(right)) == 0.5  # of 1 and -1 here, and 1 there
    assert motion_fidelity(straight(right), straight(right, up)) == 0.75
    assert motion_fidelity(10 + 3 * straight(right), straight(right)) == 1  # neither place nor speed counts
    assert motion_fidelity(straight(right, (0, 0)), straight(right)) == 0.75
    assert motion_fidelity(straight((0.03, 0.04)), straight((0, 0))) == 1  # noise is not motion


def test_where_nothing_can_be_followed_the_motion_is_lost():
    source = point_tracks(texture(2, 0))
    nothing = point_tracks(still())
    assert len(nothing) == 0 and motion_fidelity(nothing, source) == 0
    assert math.isnan(motion_fidelity(source, nothing))
    assert len(point_tracks(noise(F, 3, SIDE, SIDE))) < len(source) / 100


def test_one_frame_has_no_motion_to_measure():
    clip = texture(2, 0)[:1]
    flow, tracks = optical_flow(clip), point_tracks(clip)
    assert flow.shape == (0, SIDE, SIDE, 2)
    values = [ff_alpha(clip, clip, flow), explained(clip, flow), ff_beta(flow, flow)]
    assert all(map(math.isnan, [*values, warp_error(clip, flow, flow), motion_fidelity(tracks, tracks)]))


@pytest.mark.parametrize("edit", [torch.zeros(F - 1, 3, SIDE, SIDE), torch.zeros(F, 3, SIDE, SIDE // 2)])
def test_clips_of_different_shapes_are_refused(edit):
    source = texture(2, 0)
    with pytest.raises(InputError, match="differ in shape"):
        ff_alpha(edit, source, optical_flow(source))
    with pytest.raises(InputError, match="differ in shape"):
        semantic_score(edit, source, np.zeros((F, SIDE, SIDE)))
