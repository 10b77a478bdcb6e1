import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from measures.clips import Source
from measures.judge import Reading, _numbers
from measures.truth import (
    QUESTIONS,
    asks,
    background_change,
    edit_success,
    followed,
    identity_stability,
    motion_error,
    read_truth,
    truth_beside,
    truth_scores,
)
from tav.errors import InputError

DATA = Path(__file__).parents[2] / "data"
FRAMES, TILE, F, SIDE = 8, 32, 4, 64
ANSWERS = {
    "object": ["fox", "bus", "car"],
    "style": ["3d", "cartoon", "line"],
    "place": ["snow", "sea"],
    "count": ["1", "2"],
}
FOX = {"object": "fox", "style": "3d", "place": "snow", "count": "1"}
BUS = FOX | {"object": "bus"}


@pytest.fixture
def save(tmp_path):
    """Writes a clip's truth as data/ holds it: things go to the right by a 16th a frame, their masks are squares."""

    def write(count=1, **changes) -> Path:
        things = [[[0.25 + f / 16, 0.5 + 0.25 * k, 0.25, 10.0 * f] for k in range(count)] for f in range(FRAMES)]
        sheet = np.zeros((count, TILE, FRAMES, TILE), np.uint8)
        for k, f in np.ndindex(count, FRAMES):
            sheet[k, 8 + 10 * k : 16 + 10 * k, f, 4 + 2 * f : 12 + 2 * f] = 255
        Image.fromarray(sheet.reshape(count * TILE, FRAMES * TILE)).convert("1").save(tmp_path / "clip.masks.png")
        clip = FOX | {"count": count, "frames": things} | changes
        (tmp_path / "clip.json").write_text(json.dumps(clip))
        return tmp_path / "clip.mp4"

    return write


@pytest.fixture
def truth(save):
    return read_truth(save(), F, SIDE, stride=2)


def reading(truth, names, **numbers) -> Reading:
    """What a judge that errs in nothing but `numbers` would read."""
    listed = {question: [names[question]] * F for question in QUESTIONS}
    return Reading({}, listed, [], truth.numbers | numbers, truth.mask.float())


def grey(value=0.5):
    return torch.full((F, 3, SIDE, SIDE), value)


def test_truth_is_read_at_the_frames_that_the_clip_is_read_at(save):
    truth = read_truth(save(), num_frames=3, size=SIDE, start=1, stride=3)
    assert truth.names == FOX
    assert truth.numbers["x"].tolist() == [0.25 + f / 16 for f in (1, 4, 7)]
    assert truth.numbers["angle"].tolist() == [10, 40, 70] and truth.numbers["size"].tolist() == [0.25] * 3
    assert truth.things[:, 0].tolist() == [[0.25 + f / 16, 0.5, 0.25, 10.0 * f] for f in (1, 4, 7)]
    assert truth.mask.shape == (3, SIDE, SIDE)
    for mask, f in zip(truth.mask, (1, 4, 7), strict=True):
        expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        expected[16:32, 2 * (4 + 2 * f) : 2 * (12 + 2 * f)] = True
        assert torch.equal(mask, expected)


def test_several_things_have_a_mean_centre_and_a_spread(save):
    truth = read_truth(save(count=2), F, SIDE)
    assert truth.names["count"] == "2"
    assert truth.things.shape == (F, 2, 4) and truth.things[..., 1].tolist() == [[0.5, 0.75]] * F
    assert truth.numbers["y"].tolist() == [0.625] * F and truth.numbers["spread"].tolist() == [0.125] * F
    assert truth.mask.any(2)[0].nonzero()[:, 0].tolist() == [*range(16, 32), *range(36, 52)]  # the rows of both


def test_truth_has_the_units_of_a_reading(save):
    things = [[[0.2, 0.5, 0.3, 5.0], [0.7, 0.6, 0.4, -9.0], [0.5, 0.1, 0.35, 1.0]]] * FRAMES
    truth = read_truth(save(count=3, frames=things), F, SIDE)
    torch.testing.assert_close(truth.numbers, _numbers([torch.tensor(things[0])] * F))


def test_a_source_left_as_it_is_has_its_motion_and_no_edit(truth):
    source = grey()
    scores = truth_scores(reading(truth, FOX), truth, BUS, source, source)
    assert scores["edit success"] == scores["right object"] == 0
    assert scores["right style"] == scores["right place"] == scores["right count"] == 1
    assert scores["centre error"] == scores["size error"] == scores["angle error"] == 0
    assert scores["motion correlation"] == pytest.approx(1) and scores["background change"] == 0


def test_one_edited_frame_repeated_is_stable_and_does_not_move(truth):
    middle = {name: values[F // 2].expand(F) for name, values in truth.numbers.items()}
    scores = truth_scores(reading(truth, BUS, **middle), truth, BUS, grey(), grey())
    assert scores["edit success"] == scores["identity stability"] == 1
    assert scores["motion correlation"] == pytest.approx(0, abs=1e-9)
    assert scores["centre error"] == pytest.approx(SIDE / 16 * (4 + 2 + 0 + 2) / 4)
    assert scores["angle error"] == pytest.approx(20)


def test_success_is_counted_in_frames_where_everything_is_right():
    names = {question: [FOX[question]] * 4 for question in QUESTIONS}
    names |= {"object": ["fox", "bus", "fox", "fox"], "place": ["sea", "snow", "snow", "snow"]}
    scores = edit_success(names, FOX)
    assert scores == {"edit success": 0.5, "right object": 0.75, "right place": 0.75} | {
        "right style": 1.0,
        "right count": 1.0,
    }


def test_stability_is_over_all_pairs_of_frames():
    assert identity_stability(["fox"] * 5) == 1
    assert identity_stability(["fox", "fox", "bus", "bus"]) == pytest.approx(2 / 6)
    assert identity_stability(["fox", "bus", "fox"]) == pytest.approx(1 / 3)  # neighbours alone would say 0
    assert identity_stability(["fox", "bus"]) == 0 and math.isnan(identity_stability(["fox"]))


def test_motion_errors_are_in_pixels_per_cent_and_degrees(truth):
    moved = {"x": truth.numbers["x"] + 3 / 64, "y": truth.numbers["y"] - 4 / 64, "size": 1.2 * truth.numbers["size"]}
    errors = motion_error(truth.numbers | moved | {"angle": truth.numbers["angle"] - 350}, truth)
    assert errors["centre error"] == pytest.approx(5, abs=1e-4)
    assert errors["size error"] == pytest.approx(20, abs=1e-4)
    assert errors["angle error"] == pytest.approx(10)
    assert errors["motion correlation"] == pytest.approx(1)  # the same motion, somewhere else


@pytest.mark.parametrize(("extent", "correlation"), [(1, 1), (0.5, 0.8), (2, 0.8), (0, 0), (-1, -1)])
def test_the_correlation_falls_with_the_extent_of_the_motion(truth, extent, correlation):
    read = {name: values.mean() + extent * (values - values.mean()) for name, values in truth.numbers.items()}
    assert motion_error(read, truth)["motion correlation"] == pytest.approx(correlation, abs=1e-6)


@pytest.mark.parametrize("part", ["x", "size", "angle"])
def test_moving_growing_and_turning_are_each_motion(save, part):
    still = {"x": 0.5, "size": 0.5, "angle": 0.0}
    ends = {"x": (0.3, 0.7), "size": (0.3, 0.8), "angle": (-40, 40)}[part]
    poses = [still | {part: value} for value in np.linspace(*ends, FRAMES)]
    things = [[[pose["x"], 0.5, pose["size"], pose["angle"]]] for pose in poses]
    truth = read_truth(save(frames=things), F, SIDE)
    stopped = truth.numbers | {part: truth.numbers[part][:1].expand(F)}
    assert motion_error(truth.numbers, truth)["motion correlation"] == pytest.approx(1)
    assert motion_error(stopped, truth)["motion correlation"] == pytest.approx(0, abs=1e-9)


def test_things_that_part_move_although_their_mean_does_not(save):
    things = [[[0.5 - f / 32, 0.5, 0.3, 0.0], [0.5 + f / 32, 0.5, 0.3, 0.0]] for f in range(FRAMES)]
    truth = read_truth(save(count=2, frames=things), F, SIDE)
    errors = motion_error(truth.numbers, truth)
    assert errors["motion correlation"] == pytest.approx(1) and math.isnan(errors["angle error"])
    closed = truth.numbers | {"spread": torch.zeros(F)}
    assert motion_error(closed, truth)["motion correlation"] == pytest.approx(0, abs=1e-9)


def test_an_angle_that_passes_half_a_turn_does_not_jump(truth):
    turned = (truth.numbers["angle"] + 150 + 180) % 360 - 180  # 150, 170, -170, -150
    errors = motion_error(truth.numbers | {"angle": turned}, truth)
    assert turned.min() < 0 < turned.max()
    assert errors["angle error"] == pytest.approx(150) and errors["motion correlation"] == pytest.approx(1)


def test_frames_without_a_thing_have_no_error_and_no_motion(truth):
    gap = {
        name: torch.where(torch.tensor([False, True, False, False]), math.nan, v) for name, v in truth.numbers.items()
    }
    errors = motion_error(gap, truth)
    assert errors["centre error"] == errors["size error"] == errors["angle error"] == 0
    assert 0.8 < errors["motion correlation"] < 1
    never = motion_error({name: torch.full((F,), math.nan) for name in truth.numbers}, truth)
    assert never["motion correlation"] == 0 and math.isnan(never["centre error"])


def test_a_clip_that_keeps_to_a_path_follows_it(truth):
    scores = followed(reading(truth, BUS), truth)
    assert scores["centre error"] == 0 and scores["mask overlap"] == 1
    assert scores["motion correlation"] == pytest.approx(1)


def test_following_is_in_pixels_and_in_the_share_of_the_masks_that_both_have(truth):
    aside = truth.mask.roll(8, dims=2)  # things of 16 x 16 pixels: half of each is covered, a third of both
    seen = replace(reading(truth, BUS, x=truth.numbers["x"] + 8 / SIDE), mask=aside.float())
    scores = followed(seen, truth)
    assert scores["centre error"] == pytest.approx(8, abs=1e-4) and scores["mask overlap"] == pytest.approx(1 / 3)


def test_frames_without_a_thing_count_in_the_overlap_where_there_should_be_one(truth):
    half = truth.mask.float()
    half[: F // 2] = 0.4
    seen = replace(reading(truth, BUS), mask=half)
    assert followed(seen, truth)["mask overlap"] == 0.5
    gone = replace(truth, mask=half > 0.5)
    assert followed(seen, gone)["mask overlap"] == 1
    assert math.isnan(followed(replace(seen, mask=half * 0), replace(truth, mask=half > 1))["mask overlap"])


def test_truth_is_found_beside_a_clip_and_a_clip_of_ones_own_has_none(save):
    source = Source(path=str(save()), start=1, stride=3)
    assert torch.equal(truth_beside(source, 3, SIDE).things, read_truth(source.path, 3, SIDE, 1, 3).things)
    assert truth_beside(Source(path="footage.mp4", start=0, stride=1), 3, SIDE) is None


def test_the_background_is_what_neither_mask_nor_its_margin_shows(truth):
    source, nothing = grey(), torch.zeros(F, SIDE, SIDE)
    assert background_change(source + 10 / 255, source, nothing, truth) == pytest.approx(10, abs=1e-3)
    around = torch.nn.functional.max_pool2d(truth.mask.float(), 9, stride=1, padding=4)  # 4 pixels more on each side
    assert background_change(source + 0.1 * around[:, None], source, nothing, truth) == 0
    found = nothing.clone()
    found[:, 50:] = 0.6  # by the judge alone
    edit = source + 0.1 * (found[:, None] > 0)
    assert background_change(edit, source, found, truth) == 0 < background_change(edit, source, found / 2, truth)
    assert math.isnan(background_change(edit, source, torch.ones_like(found), truth))


def test_the_background_counts_only_where_the_object_alone_is_to_change(truth):
    def change(asked):
        return truth_scores(reading(truth, BUS), truth, asked, grey(0.6), grey())["background change"]

    assert change(BUS) == pytest.approx(25.5, abs=1e-3)
    assert math.isnan(change(BUS | {"place": "sea"})) and math.isnan(change(FOX | {"style": "line"}))
    assert math.isnan(change(FOX)) and math.isnan(change(None))


def test_a_prompt_asks_for_what_it_names():
    assert asks("a 3d render of a fox running in the snow", ANSWERS) == FOX
    assert asks("a cartoon of two buses in the sea", ANSWERS) == {"style": "cartoon", "count": "2"} | {
        "object": "bus",
        "place": "sea",
    }
    for unknown in (
        "a 3d render of a hedgehog in the snow",
        "a fox in the snow",
        "a cartoon of a fox on a bus in the sea",
    ):
        assert asks(unknown, ANSWERS) is None


def test_where_nothing_known_is_asked_success_is_not_a_number_and_motion_still_counts(truth):
    scores = truth_scores(reading(truth, FOX), truth, None, grey(), grey())
    assert math.isnan(scores["edit success"]) and math.isnan(scores["right object"])
    assert scores["motion correlation"] == pytest.approx(1) and scores["identity stability"] == 1


def test_the_prompts_of_the_evaluation_clips_ask_for_what_their_truth_says():
    clips = [json.loads(file.read_text()) for file in sorted((DATA / "clips").glob("*.json"))]
    assert len(clips) == 74
    known = [facts for clip in clips for facts in (clip, *clip["edits"].values())]
    answers = {question: sorted({facts[question] for facts in known}) for question in QUESTIONS[:3]}
    for facts in known:
        prompt = facts.get("caption") or facts["prompt"]
        assert asks(prompt, answers) == {question: str(facts[question]) for question in QUESTIONS}, prompt


def test_the_truth_of_a_clip_in_data_lies_on_its_masks():
    truth = read_truth(DATA / "clips/fox-running.mp4", 8, 64, stride=2)
    assert truth.names == FOX
    rows, columns = (torch.arange(64) + 0.5 for _ in range(2))
    mass = truth.mask.sum((1, 2))
    middle = (truth.mask.sum(1) * columns).sum(1) / mass / 64, (truth.mask.sum(2) * rows).sum(1) / mass / 64
    assert torch.hypot(middle[0] - truth.numbers["x"], middle[1] - truth.numbers["y"]).max() < 0.1


def test_a_clip_without_truth_is_refused_in_one_line(save, tmp_path):
    path = save()
    with pytest.raises(InputError, match="other.json does not exist"):
        read_truth(path.with_name("other.mp4"), F, SIDE)
    with pytest.raises(InputError, match="square frames only, not 64x32"):
        read_truth(path, F, (64, 32))
    with pytest.raises(InputError, match="ends after 8 frames"):
        read_truth(path, F, SIDE, start=2, stride=2)
    (tmp_path / "clip.masks.png").unlink()
    with pytest.raises(InputError, match="clip.masks.png does not exist"):
        read_truth(path, F, SIDE)


@pytest.mark.parametrize("frames", [None, [], [[[0.5, 0.5]]] * FRAMES, [[[0.5] * 4]] * 5, [[[0.5] * 4]] * 4])
def test_a_file_that_is_no_truth_is_refused_in_one_line(save, frames):
    with pytest.raises(InputError, match="not a clip's truth") as refused:
        read_truth(save(frames=frames), F, SIDE)
    assert "\n" not in str(refused.value)


def test_broken_files_are_refused_in_one_line(save, tmp_path):
    path = save()
    for broken, content in (("clip.masks.png", "no picture"), ("clip.json", "{")):
        (tmp_path / broken).write_text(content)
        with pytest.raises(InputError, match="not a clip's truth"):
            read_truth(path, F, SIDE)


def test_a_reading_of_other_frames_is_refused(truth):
    with pytest.raises(InputError, match="3 frames were read"):
        motion_error({name: values[:3] for name, values in truth.numbers.items()}, truth)
