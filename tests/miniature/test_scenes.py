import numpy as np
import pytest
import torch

from miniature.moves import random_clip
from miniature.places import PLACES, backdrop
from miniature.scenes import (
    BARE,
    CANVAS,
    COLOURS,
    MOST,
    MOTIONS,
    SIZE,
    STYLES,
    WEARS,
    Renderer,
    Thing,
    blur,
    describe,
    fronts,
    grain,
    names,
    objects,
    objects_of,
    outlines,
    parse,
    random_scenes,
)

LAYOUTS = range(3000, 3002)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(layouts=LAYOUTS)


def one(seed=0, among=("tractor",), pose=(0.5, 0.5, 0.6, 0, 0, 0), n=1, **arrays):
    """n equal scenes of one thing that wears nothing and has nothing before it, but for the given arrays."""
    scenes = random_scenes(np.random.default_rng(seed), 1, among, LAYOUTS)[np.zeros(n, int)]
    plain = {"count": 1, "wears": BARE, "front": BARE, "facing": 1, "style": 0, "pose": pose}
    fresh = {what: 0 * getattr(scenes, what) + np.array(own) for what, own in (plain | arrays).items()}
    return scenes.with_(**fresh)


def centre(mask):
    """x and y of a mask's middle, in fractions of the side."""
    y, x = np.nonzero(mask.numpy() > 0.5)
    return (x.min() + x.max() + 1) / 2 / len(mask), (y.min() + y.max() + 1) / 2 / len(mask)


def test_equal_seeds_give_equal_scenes_pictures_and_grain(renderer):
    first, second = (
        renderer(random_scenes(np.random.default_rng(5), 6, None, LAYOUTS), torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first.pictures, second.pictures)
    assert first.pictures.shape == (6, 3, SIZE, SIZE) and first.canvas.shape == (6, 3, CANVAS, CANVAS)
    assert first.visible.shape == (6, MOST, SIZE, SIZE) and first.share.shape == (6, MOST)
    for part in (first.pictures, first.canvas, first.visible, first.share):
        assert part.min() >= 0 and part.max() <= 1


def test_a_scene_is_drawn_alike_whatever_is_drawn_beside_it(renderer):
    scenes = random_scenes(np.random.default_rng(2), 40, None, LAYOUTS)
    torch.testing.assert_close(renderer(scenes).pictures[33:35], renderer(scenes[33:35]).pictures)


def test_things_of_all_kinds_are_kept_out_of_training():
    assert len(names(seen=True)) >= 14 and len(names(seen=False)) >= 7
    assert {objects()[name].kind for name in names(seen=False)} == {"animal", "vehicle"}
    scenes = random_scenes(np.random.default_rng(0), 500)
    drawn = {list(objects())[number] for number in objects_of(scenes.drawing).ravel()}
    assert drawn == set(names(seen=True))
    assert all(len(thing.drawings) >= 3 and len(thing.colours) >= 4 for thing in objects().values())


def test_every_caption_is_read_back_as_what_it_says():
    scenes = random_scenes(np.random.default_rng(1), 400)
    for number, caption in enumerate(scenes.captions()):
        said = parse(caption)
        assert said["style"] == list(STYLES)[scenes.style[number]]
        assert said["place"] == list(PLACES)[scenes.place[number]]
        assert said["motion"] == (None if scenes.motion[number] == BARE else MOTIONS[scenes.motion[number]])
        assert describe(**said) == caption
        for thing, told, true in zip(said["things"], scenes.says[number], scenes.things(number), strict=False):
            assert thing.object == true.object
            assert thing.colour == (true.colour if told[0] else None)
            assert thing.wears == (true.wears if told[1] else None)
        assert len(said["things"]) == scenes.count[number]


def test_one_caption_in_four_names_a_colour_or_what_is_worn_and_two_alike_are_told_apart():
    scenes = random_scenes(np.random.default_rng(3), 4000)
    single = scenes[scenes.count == 1]
    assert 0.2 < single.says[:, 0].any(-1).mean() < 0.3
    for caption in scenes[scenes.count > 1].captions():
        things = parse(caption)["things"]
        assert len({(thing.object, thing.colour) for thing in things}) == len(things)


def test_what_is_not_in_the_grammar_is_refused():
    with pytest.raises(ValueError, match="not a caption"):
        parse("a cartoon of a teapot in the snow")


def test_a_caption_lists_things_with_their_articles():
    things = [Thing("elephant"), Thing("dog", "orange", "hat"), Thing("bus")]
    said = "a pencil drawing of an elephant, an orange dog wearing a hat and a bus crossing in the sea"
    assert describe("pencil", things, "sea", "crossing") == said


@pytest.mark.parametrize("name", ["tractor", "crocodile", "penguin"])
def test_a_thing_is_where_and_as_large_as_its_truth_says(renderer, name):
    pose = (0.4, 0.6, 0.5, 0, 0, 0)
    visible = renderer(one(among=[name], pose=pose)).visible[0, 0]
    x, y = centre(visible)
    assert abs(x - 0.4) < 0.02 and abs(y - 0.6) < 0.02
    rows, columns = (np.nonzero(visible.numpy().max(axis) > 0.5)[0] for axis in (1, 0))
    assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 0.5 * SIZE) < 2.5


def test_the_pixels_that_change_are_those_of_the_mask(renderer):
    drawn, empty = renderer(one()), renderer(one(count=0))
    changed = (drawn.pictures - empty.pictures).abs().amax(1)[0] > 1e-4
    mask = drawn.visible[0, 0]
    assert not changed[mask == 0].any() and changed[mask > 0.5].float().mean() > 0.95
    assert drawn.share[0, 0] == pytest.approx(1, abs=0.02)


def test_facing_mirrors_a_positive_angle_turns_clockwise_and_squash_flattens(renderer):
    poses = [(0.5, 0.5, 0.6, 0, 0, 0)] * 2 + [(0.5, 0.5, 0.6, 90, 0, 0), (0.5, 0.5, 0.6, 0, 0.4, 0)]
    scenes = one(n=4, pose=np.array(poses)[:, None], facing=[[1], [-1], [1], [1]])
    right, left, turned, flat = renderer(scenes).visible[:, 0]
    torch.testing.assert_close(right.flip(1), left, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.rot90(right, -1), turned, atol=1e-4, rtol=0)
    high, wide = ((mask > 0.5).any(axis).sum() for mask, axis in ((flat, 1), (flat, 0)))
    high_before, wide_before = ((right > 0.5).any(axis).sum() for axis in (1, 0))
    assert high / high_before == pytest.approx(np.exp(-0.2), abs=0.06) and wide / wide_before > 1.12


def test_a_nearer_thing_and_what_stands_in_front_take_from_the_visible_share(renderer):
    pose = [[(0.45, 0.5, 0.5, 0, 0, 0), (0.55, 0.5, 0.5, 0, 0, 0), (0.5, 0.5, 0.5, 0, 0, 0)]]
    drawn = renderer(one(among=["bus"], count=2, pose=pose))
    assert drawn.share[0, 1] > 0.97 and drawn.share[0, 0] < 0.5
    assert drawn.visible[0].sum(0).max() < 1.001
    for number, name in enumerate(fronts()):
        hidden = renderer(one(front=number, front_pose=[[0.5, 0.5, 0.8]]))
        assert hidden.share[0, 0] < 0.5, name


def test_half_of_a_thing_at_the_edge_is_seen(renderer):
    assert renderer(one(among=["bus"], pose=(0, 0.5, 0.6, 0, 0, 0))).share[0, 0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("wears", range(len(WEARS)))
def test_what_is_worn_is_seen_and_is_no_part_of_the_thing(renderer, wears):
    bare, dressed = renderer(one()), renderer(one(wears=wears))
    assert (bare.pictures - dressed.pictures).abs().amax(1).gt(0.2).sum() > 20
    assert (dressed.visible <= bare.visible + 1e-6).all()


def test_paint_colours_a_thing_and_leaves_the_rest(renderer):
    paints = np.array([[COLOURS["red"]], [COLOURS["blue"]]])
    scenes = one(among=["car"], n=2).with_(paint=np.tile(paints, (1, MOST, 1)), light=np.ones((2, 3)))
    drawn = renderer(scenes)
    red, blue = drawn.pictures
    inside = drawn.visible[0, 0] > 0.9
    assert (red - blue)[0][inside].mean() > 0.15 and (blue - red)[2][inside].mean() > 0.15
    assert torch.equal(red[:, drawn.visible[0, 0] == 0], blue[:, drawn.visible[0, 0] == 0])


def test_a_person_walks_and_begins_again(renderer):
    phase = np.array([[0.0], [0.3], [0.6], [1.0]])
    masks = renderer(one(among=["person"], n=4, phase=phase)).visible[:, 0]
    assert (masks[0] - masks[1]).abs().sum() > 30 and (masks[1] - masks[2]).abs().sum() > 30
    assert torch.equal(masks[0], masks[3])


def test_a_view_moves_and_enlarges_the_place_alone(renderer):
    still, right, near = renderer(one(n=3, count=0, view=[[0, 0, 1], [0.25, 0, 1], [0, 0, 2]])).canvas
    torch.testing.assert_close(still[:, :, 32:], right[:, :, :-32], atol=1e-4, rtol=0)
    torch.testing.assert_close(near[:, 0::2, 0::2].mean(), still[:, 32:96, 32:96].mean(), atol=0.02, rtol=0)


def test_places_differ_and_so_do_their_layouts():
    means = {place: np.mean([backdrop(place, layout) for layout in range(8)], (0, 1, 2)) for place in PLACES}
    for place in PLACES:
        assert not np.array_equal(backdrop(place, 0), backdrop(place, 1))
        assert np.array_equal(backdrop(place, 0), backdrop.__wrapped__(place, 0))
    pairs = [np.abs(means[a] - means[b]).max() for a in PLACES for b in PLACES if a < b]
    assert min(pairs) > 8


def test_styles_differ_in_every_place(renderer):
    for place in range(len(PLACES)):
        drawn = renderer(one(n=len(STYLES), place=place, style=np.arange(len(STYLES)))).pictures
        assert all((a - b).abs().mean() > 0.01 for i, a in enumerate(drawn) for b in drawn[:i])


def test_grain_is_small_seeded_and_fills_every_frequency():
    film = grain(32, torch.Generator().manual_seed(0))
    assert torch.equal(film, grain(32, torch.Generator().manual_seed(0)))
    assert abs(film.mean()) < 0.002 and 0.02 < film.std() < 0.05
    power = torch.fft.fft2(film).abs().square().mean((0, 1))
    assert power.flatten()[1:].min() > 1e-3 * power.mean()


def test_blur_and_outlines_keep_flat_pictures_flat():
    flat = torch.full((1, 3, CANVAS, CANVAS), 0.4)
    torch.testing.assert_close(blur(flat, 4), flat)
    assert outlines(flat).max() == 0
    edge = flat.clone()
    edge[..., CANVAS // 2 :] = 0.9
    assert outlines(edge)[..., CANVAS // 2].min() > 0.5 and outlines(edge)[..., 5].max() == 0


def test_training_covers_the_poses_and_views_of_clips():
    rng = np.random.default_rng(0)
    still, moving = random_scenes(rng, 4000), [random_clip(rng) for _ in range(200)]
    for count in (1, 2, 3):
        alike = still[still.count == count]
        for name in ("pose", "view"):
            seen = getattr(alike, name).reshape(len(alike), -1)[:, : {"pose": 6 * count, "view": 3}[name]]
            for clip in moving:
                if clip.count[0] == count:
                    needed = getattr(clip, name).reshape(len(clip), -1)[:, : seen.shape[1]]
                    low, high = seen.min(0), seen.max(0)
                    outside = np.maximum(low - needed, needed - high) / np.maximum(high - low, 0.01)
                    assert outside.max() < 0.12, (count, name)
