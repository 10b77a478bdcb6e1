import numpy as np
import pytest

from miniature.world import (
    CANVAS,
    OBJECTS,
    PLACES,
    STYLES,
    TRAINED,
    Scene,
    compose,
    describe,
    draw,
    masks,
    parse,
    random_scene,
)


def test_the_same_seed_draws_the_same_picture():
    first, second = (draw(random_scene(np.random.default_rng(5))) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8


def test_six_objects_of_all_three_kinds_are_kept_out_of_training():
    strangers = set(OBJECTS) - set(TRAINED)
    assert len(strangers) == 6 and {OBJECTS[name].kind for name in strangers} == {"animal", "vehicle", "person"}
    rng = np.random.default_rng(0)
    assert strangers.isdisjoint(random_scene(rng).object for _ in range(500))


def test_every_caption_is_read_back_as_the_truth():
    rng = np.random.default_rng(1)
    for scene in (random_scene(rng) for _ in range(300)):
        truth = {what: getattr(scene, what) for what in ("object", "style", "place", "count", "motion")}
        assert parse(scene.caption) == truth


def test_what_is_not_in_the_grammar_is_refused():
    with pytest.raises(ValueError, match="not a caption"):
        parse("a cartoon of a teapot in the snow")


def test_captions_use_articles_and_plurals():
    assert describe("elephant", "line", "sea") == "a line drawing of an elephant in the sea"
    assert describe("fox", "3d", "snow", 2, "running") == "a 3d render of two foxes running in the snow"


@pytest.mark.parametrize("style", STYLES)
def test_a_thing_is_where_its_truth_says(style):
    thing = (0.4, 0.6, 0.5, 0.0)
    mask = masks(Scene("tractor", style, "beach", (thing,)), CANVAS)[0] > 0.5
    y, x = np.nonzero(mask)
    assert abs((x.min() + x.max() + 1) / 2 - 0.4 * CANVAS) < 2 and abs((y.min() + y.max() + 1) / 2 - 0.6 * CANVAS) < 2
    assert abs(max(np.ptp(x), np.ptp(y)) + 1 - 0.5 * CANVAS) < 3


def test_a_positive_angle_turns_clockwise():
    upright, turned = (masks(Scene("penguin", "3d", "sea", ((0.5, 0.5, 0.6, a),)))[0] for a in (0.0, 40.0))
    for mask, sign in ((upright, 0), (turned, 1)):
        y, x = np.nonzero(mask > 0.5)
        lean = x[y < 24].mean() - x[y > 40].mean()  # a head that has moved to the right of the feet
        assert abs(lean) < 1 if sign == 0 else lean > 3


def test_masks_hold_exactly_the_pixels_that_change():
    scene = Scene("pig", "cartoon", "desert", ((0.5, 0.5, 0.6, 0.0),))
    picture, (mask,) = compose(scene)
    empty, _ = compose(Scene("pig", "cartoon", "desert", ((5.0, 5.0, 0.6, 0.0),)))
    changed = np.any(picture != empty, axis=-1)
    assert not changed[mask == 0].any() and changed[mask > 0.5].mean() > 0.98


def test_a_nearer_thing_hides_what_is_behind_it():
    behind, front = masks(Scene("lion", "3d", "grass", ((0.45, 0.5, 0.5, 0.0), (0.55, 0.5, 0.5, 0.0))))
    assert (behind + front).max() <= 1.001 and behind.sum() < 0.7 * front.sum()


def test_every_object_has_a_sprite_in_every_style():
    for name in OBJECTS:
        for style in STYLES:
            assert masks(Scene(name, style, "snow", ((0.5, 0.5, 0.8, 0.0),))).sum() > 200


def test_places_differ_within_a_style():
    for style in STYLES:
        pictures = [compose(Scene("pig", style, place, ((5.0, 5.0, 0.1, 0.0),)))[0].astype(float) for place in PLACES]
        assert all(np.abs(a - b).mean() > 2 for i, a in enumerate(pictures) for b in pictures[:i])
