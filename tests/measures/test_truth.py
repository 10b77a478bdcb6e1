import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d, one_hot

from measures import protocol
from measures.camera import camera_error, camera_motion
from measures.clips import Source
from measures.judge import LOOKS, NOTHING, PAINT, VOTES, Reading, Told, places
from measures.truth import (
    Asked,
    Wanted,
    asks,
    background_change,
    edit_success,
    flicker,
    followed,
    identity_kept,
    identity_stability,
    located,
    motion_error,
    phase_error,
    poses,
    read,
    read_truth,
    recall,
    swaps,
    truth_beside,
    truth_scores,
)
from tav.clip import read_clip
from tav.errors import InputError

DATA = Path(__file__).parents[2] / "data"
FRAMES, TILE, F, SIDE = 16, 64, 8, 64
ANSWERS = {
    "object": ["dog", "cat", "racing-car", NOTHING],
    "drawing": ["dog/noto", "dog/flat", "cat/noto", "racing-car/noto"],
    "style": ["3d", "cartoon", "pencil"],
    "place": ["snow", "sea"],
    "wears": ["bare", "hat", "balloon"],
    "colour": ["brown", "grey", "orange"],
}
DOG = {"object": "dog", "drawing": "noto", "colour": "brown", "paint": [0.55, 0.35, 0.2], "wears": None}
CAT = {"object": "cat", "drawing": "noto", "colour": "grey", "paint": [0.6, 0.6, 0.6], "wears": None}
SEEN = {"drawing": "dog/noto", "colour": "brown", "object": "dog", "style": "3d", "place": "snow", "wears": "bare"}
SAME = Asked("3d", "snow", (Wanted("dog"),))  # what the clip of a dog shows
TO_CAR = Asked("3d", "snow", (Wanted("racing-car"),))
CAR = SEEN | {"object": "racing-car", "drawing": "racing-car/noto"}
PAIR = Asked("3d", "snow", (Wanted("dog"), Wanted("cat")))


def pose(**changes):
    """A thing in one frame."""
    still = {"x": 0.5, "y": 0.5, "size": 0.25, "angle": 0.0, "squash": 0.0, "shear": 0.0, "phase": 0.0, "facing": 1}
    return still | {"share": 1.0} | changes


@pytest.fixture
def save(tmp_path):
    """Writes a clip's truth as data/ holds it; masks are squares at the things' centres.

    way: thing and frame, 0 to 1 -> what `pose` shall have. By default the first thing goes right, the second left.
    """

    def write(way=None, shown=(DOG,), **changes) -> Path:
        way = way or (lambda k, p: {"x": 0.25 + p / 2 if k == 0 else 0.75 - p / 2, "y": 0.3 + 0.4 * k})
        sheet, frames = np.zeros((len(shown), TILE, FRAMES, TILE), np.uint8), []
        for f, p in enumerate(np.linspace(0, 1, FRAMES)):
            things = [pose(**way(k, p)) for k in range(len(shown))]
            for k, thing in enumerate(things):
                left, top = (round((thing[axis] - 0.125) * TILE) for axis in "xy")
                sheet[k, max(top, 0) : top + 16, f, max(left, 0) : left + 16] = 255 * (thing["share"] > 0)
            frames.append({"things": things, "view": [0.0, 0.0, 1.0], "front": None})
        Image.fromarray(sheet.reshape(-1, FRAMES * TILE)).convert("1").save(tmp_path / "clip.masks.png")
        told = {"style": "3d", "place": "snow", "group": "path", "seen": True}
        clip = told | {"things": list(shown), "frames": frames} | changes
        (tmp_path / "clip.json").write_text(json.dumps(clip))
        return tmp_path / "clip.mp4"

    return write


@pytest.fixture
def truth(save):
    return read_truth(save(), F, SIDE, stride=2)


@pytest.fixture
def pair(save):
    return read_truth(save(shown=(DOG, CAT)), F, SIDE, stride=2)


def reading(truth, said=SEEN, at=None, seen_at=None, **changes) -> Reading:
    """What a judge that errs in nothing reads.

    said: per question the answer, or one for each frame. at: f k 6, where the things are. seen_at: per thing its object
    and colour, or one for each frame.
    """
    f, k = truth.share.shape
    at = poses(truth) if at is None else at
    names = {question: [answer] * f if isinstance(answer, str) else list(answer) for question, answer in said.items()}
    seen_at = seen_at or [(shown.object, shown.colour) for shown in truth.shown]
    maps = torch.zeros(f, len(VOTES), SIDE, SIDE)
    maps[:, 0] = torch.where(truth.mask, 9.0, -9.0)
    for frame, thing in np.ndindex(f, k):
        step = 2 * math.pi * truth.phase[frame, thing]
        votes = torch.tensor([*truth.shown[thing].paint, step.sin(), step.cos()])
        maps[frame, PAINT.start :, truth.masks[frame, thing]] = votes[:, None]
    looks = [[look if isinstance(look, tuple) else look[frame] for look in seen_at] for frame in range(f)]
    told = Told(*([[look[part] for look in frame] for frame in looks] for part in (0, 1)))
    alike = []
    for part, question in enumerate(LOOKS):
        numbers = [[ANSWERS[question].index(look[part]) for look in frame] for frame in looks]
        alike.append(one_hot(torch.tensor(numbers), len(ANSWERS[question])).float())
    alike = torch.cat(alike, 2)
    things, like = torch.full((f, k, 6), torch.nan), torch.zeros_like(alike)
    for frame, visible in enumerate(truth.visible):  # a judge has them by x, and knows no names
        order = visible.nonzero()[:, 0]
        order = order[at[frame, order, 0].argsort()]
        things[frame, : len(order)], like[frame, : len(order)] = at[frame, order], alike[frame, order]
    return replace(Reading(ANSWERS, {}, names, truth.mask.float(), maps, things, like, told), **changes)


def mixed(usual, other, dose):
    """Answers for F frames: `other` in the last `dose` of them."""
    return [usual] * (F - dose) + [other] * dose


def falls(values):
    """Whether values fall strictly, from one dose to the next."""
    return all(later < earlier for earlier, later in zip(values[:-1], values[1:], strict=True))


def rises(values):
    return falls([-value for value in values])


def grey(value=0.5):
    return torch.full((F, 3, SIDE, SIDE), value)


def drawn(group="path", number=0):
    """A clip of data/ and its truth."""
    if not (DATA / "clips").exists():
        pytest.skip("python -m miniature clips makes them")
    clips = [path for path in sorted((DATA / "clips").glob("*.json")) if json.loads(path.read_text())["group"] == group]
    video = clips[number].with_suffix(".mp4")
    return read_clip(video, F, SIDE, stride=2) / 2 + 0.5, read_truth(video, F, SIDE, stride=2)


# The truth as it is read


def test_truth_is_read_at_the_frames_that_the_clip_is_read_at(save):
    truth = read_truth(save(), num_frames=3, size=SIDE, start=1, stride=3)
    assert (truth.style, truth.place, truth.shown[0].drawing) == ("3d", "snow", "dog/noto")
    assert truth.shown[0].wears == "bare" and truth.shown[0].paint == (0.55, 0.35, 0.2)
    expected = torch.tensor([0.25 + f / 30 for f in (1, 4, 7)])
    torch.testing.assert_close(truth.things[:, 0, 0], expected)
    assert truth.things.shape == (3, 1, 4) and truth.bend.shape == (3, 1, 2) and truth.view.tolist() == [[0, 0, 1]] * 3
    assert truth.share.tolist() == truth.facing.tolist() == [[1]] * 3 and truth.phase.tolist() == [[0]] * 3
    assert truth.masks.shape == (3, 1, SIDE, SIDE) and truth.masks.sum((1, 2, 3)).tolist() == [256] * 3
    for mask, x in zip(truth.mask, expected, strict=True):
        assert abs(mask.any(0).nonzero().float().mean() + 0.5 - 64 * x) <= 1


def test_several_things_have_a_mask_each(pair):
    assert pair.masks.shape == (F, 2, SIDE, SIDE) and not pair.masks.all(1).any()
    assert torch.equal(pair.mask, pair.masks[:, 0] | pair.masks[:, 1])


def test_truth_is_found_beside_a_clip_and_a_clip_of_ones_own_has_none(save):
    source = Source(path=str(save()), start=1, stride=3)
    assert torch.equal(truth_beside(source, 3, SIDE).things, read_truth(source.path, 3, SIDE, 1, 3).things)
    assert truth_beside(Source(path="footage.mp4", start=0, stride=1), 3, SIDE) is None


def test_a_clip_without_truth_is_refused_in_one_line(save, tmp_path):
    path = save()
    with pytest.raises(InputError, match="other.json does not exist"):
        read_truth(path.with_name("other.mp4"), F, SIDE)
    with pytest.raises(InputError, match="square frames only, not 64x32"):
        read_truth(path, F, (64, 32))
    with pytest.raises(InputError, match="ends after 16 frames"):
        read_truth(path, F, SIDE, start=2, stride=2)
    (tmp_path / "clip.masks.png").unlink()
    with pytest.raises(InputError, match="clip.masks.png does not exist"):
        read_truth(path, F, SIDE)


@pytest.mark.parametrize("frames", [None, [], [{"things": []}], [[0.5] * 4] * FRAMES])
def test_a_file_that_is_no_truth_is_refused_in_one_line(save, frames):
    with pytest.raises(InputError, match="no clip's truth") as refused:
        read_truth(save(frames=frames), F, SIDE)
    assert "\n" not in str(refused.value)


def test_broken_files_are_refused_in_one_line(save, tmp_path):
    path = save()
    for broken, content in (("clip.masks.png", "no picture"), ("clip.json", "{")):
        (tmp_path / broken).write_text(content)
        with pytest.raises(InputError, match="no clip's truth"):
            read_truth(path, F, SIDE)


def test_the_truth_of_clips_in_data_lies_on_their_masks():
    frames, truth = drawn("path")
    assert frames.shape == (F, 3, SIDE, SIDE) and truth.masks.shape[0] == F
    grid = places(SIDE)
    for mask, (x, y, size, _) in zip(truth.masks[:, 0], truth.things[:, 0], strict=True):
        middle = (grid * mask).sum((1, 2)) / mask.sum()
        assert (middle - torch.stack([x, y])).norm() < 0.4 * size


# What a prompt asks for


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a 3d render of a dog running in the snow", Asked("3d", "snow", (Wanted("dog"),))),
        ("a cartoon of a brown dog wearing a hat and a cat in the sea",
         Asked("cartoon", "sea", (Wanted("dog", "brown", "hat"), Wanted("cat")))),
        ("a pencil drawing of a grey cat, a cat and a racing-car with a balloon crossing in the snow",
         Asked("pencil", "snow", (Wanted("cat", "grey"), Wanted("cat"), Wanted("racing-car", None, "balloon")))),
    ],
)  # fmt: skip
def test_a_prompt_asks_for_what_it_names(prompt, asked):
    assert asks(prompt, ANSWERS) == asked


@pytest.mark.parametrize(
    "prompt", ["a 3d render of a hedgehog in the snow", "a dog in the snow", "a cartoon of a cat in the sea of snow"]
)
def test_where_object_style_or_place_are_unknown_nothing_is_asked(prompt):
    assert asks(prompt, ANSWERS) is None


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_the_prompts_of_the_clips_in_data_ask_for_what_their_truth_says():
    clips = [json.loads(file.read_text()) for file in sorted((DATA / "clips").glob("*.json"))]
    assert len(clips) > 70
    edits = [edit for clip in clips for edit in clip["edits"].values()]
    things = [thing for edit in edits for thing in edit["asks"]["things"]] + [
        t for clip in clips for t in clip["things"]
    ]
    answers = {what: {thing[what] for thing in things if thing[what]} for what in ("object", "colour", "wears")}
    answers |= {what: {edit["asks"][what] for edit in edits} for what in ("style", "place")}
    for edit in edits:
        said = edit["asks"]
        assert asks(edit["prompt"], answers) == Asked(
            said["style"], said["place"], tuple(Wanted(**thing) for thing in said["things"])
        )


# The edit


def test_a_source_left_as_it_is_has_its_motion_and_identity_and_no_edit(truth):
    scores = truth_scores(reading(truth), truth, TO_CAR, grey(), grey())
    assert scores["edit success"] == scores["right object"] == scores["recall"] == scores["edited in motion"] == 0
    assert scores["right style"] == scores["right place"] == scores["identity stability"] == 1
    assert scores["centre error"] == scores["size error"] == scores["angle error"] == pytest.approx(0, abs=1e-4)
    assert scores["motion correlation"] == pytest.approx(1) and scores["background change"] == 0
    assert math.isnan(scores["identity kept"]) and math.isnan(scores["swaps"]) and math.isnan(scores["camera error"])
    kept = truth_scores(reading(truth), truth, replace(SAME, place="sea"), grey(), grey())
    assert kept["identity kept"] == kept["edit success"] == 0 and math.isnan(kept["background change"])


def test_every_measure_that_the_protocol_asks_of_is_taken_of_an_edit_or_follows_from_one(truth):
    measured = {*truth_scores(reading(truth), truth, SAME, grey(), grey()), *followed(reading(truth), truth)}
    measured |= {"missed", "PSNR", "frame consistency", "text alignment"}  # what recall leaves, and of measures.score
    asked = [protocol.claims(section, ["a peer"], ["edges"]) for section in protocol.sections()]
    assert {claim.measure for claims in asked for claim in claims.values()} <= measured


def test_one_edited_frame_repeated_is_stable_and_does_not_move(truth):
    middle = poses(truth)[F // 2].expand(F, 1, 6)
    scores = truth_scores(reading(truth, CAR, at=middle), truth, TO_CAR, grey(), grey())
    assert scores["edit success"] == scores["identity stability"] == 1
    assert scores["motion correlation"] == pytest.approx(0, abs=1e-6) and scores["flicker"] == 0
    assert scores["edited in motion"] == pytest.approx(0, abs=1e-6)


def test_an_edit_in_motion_falls_with_frames_that_are_not_edited_and_with_motion_that_is_lost(truth):
    def score(wrong, still, backwards=1):
        middle = poses(truth).mean(0, keepdim=True)
        at = middle + backwards * (1 - still) * (poses(truth) - middle)
        said = CAR | {"object": mixed("racing-car", "dog", wrong)}
        return truth_scores(reading(truth, said, at=at), truth, TO_CAR, grey(), grey())["edited in motion"]

    assert score(0, 0) == pytest.approx(1) and score(4, 0) == pytest.approx(0.5)
    assert falls([score(wrong, 0) for wrong in range(F + 1)]) and falls([score(0, still / 4) for still in range(5)])
    assert score(0, 0, backwards=-1) == 0


def test_an_edit_in_which_nothing_is_found_is_none_in_motion_though_no_motion_of_it_is_known(truth):
    read = reading(truth, CAR)
    lost = replace(read, things=read.things * torch.nan)
    scores = truth_scores(lost, truth, TO_CAR, grey(), grey())
    assert math.isnan(scores["motion correlation"]) and scores["edited in motion"] == 0


def test_of_a_thing_that_stands_still_no_edit_in_motion_is_known(save):
    still = read_truth(save(way=lambda k, p: {}), F, SIDE, stride=2)
    assert math.isnan(truth_scores(reading(still, CAR), still, TO_CAR, grey(), grey())["edited in motion"])


@pytest.mark.parametrize(
    ("what", "wrong"), [("object", "dog"), ("style", "pencil"), ("place", "sea"), ("object", NOTHING)]
)
def test_success_falls_with_every_frame_that_shows_something_else_or_nothing(truth, what, wrong):
    scores = [
        edit_success(reading(truth, CAR | {what: mixed(CAR[what], wrong, dose)}), truth, TO_CAR)
        for dose in range(F + 1)
    ]
    assert [score["edit success"] for score in scores] == [1 - dose / F for dose in range(F + 1)]
    assert [score[f"right {what}"] for score in scores] == [1 - dose / F for dose in range(F + 1)]
    others = {"right object", "right style", "right place"} - {f"right {what}"}
    kept = 0 if wrong == NOTHING else 1  # what cannot be recognised is wrong in everything
    assert {scores[-1][other] for other in others} == {kept}


@pytest.mark.parametrize(("what", "wanted"), [("colour", "orange"), ("wears", "hat")])
def test_colour_and_what_is_worn_count_where_the_prompt_names_them(truth, what, wanted):
    asked = replace(SAME, things=(replace(SAME.things[0], **{what: wanted}),))
    right, wrong = (edit_success(reading(truth, said), truth, asked) for said in (SEEN | {what: wanted}, SEEN))
    assert right["edit success"] == right[f"right {what}"] == 1 and wrong["edit success"] == wrong[f"right {what}"] == 0
    assert wrong["right object"] == 1 and math.isnan(edit_success(reading(truth), truth, SAME)[f"right {what}"])


def test_frames_in_which_the_thing_cannot_be_seen_do_not_count(truth):
    hidden = replace(truth, share=torch.tensor([[1.0]] * 5 + [[0.2]] * 3))
    said = SEEN | {"object": mixed("dog", NOTHING, 3)}
    assert edit_success(reading(truth, said), hidden, SAME)["edit success"] == 1
    assert identity_stability(reading(truth, said), hidden) == identity_kept(reading(truth, said), hidden, SAME) == 1
    assert edit_success(reading(truth, said), truth, SAME)["edit success"] == 5 / 8


def test_where_nothing_known_is_asked_success_is_not_a_number_and_motion_still_counts(truth, pair):
    scores = truth_scores(reading(truth), truth, None, grey(), grey())
    unknown = ("edit success", "right object", "identity kept", "recall", "swaps", "background change")
    assert all(math.isnan(scores[name]) for name in (*unknown, "edited in motion"))
    assert scores["motion correlation"] == pytest.approx(1) and scores["identity stability"] == 1
    other_count = truth_scores(reading(pair), pair, SAME, grey(), grey())
    assert all(math.isnan(other_count[name]) for name in unknown[:5])


# Identity


@pytest.mark.parametrize("change", [{"drawing": "dog/flat"}, {"colour": "grey"}, {"object": NOTHING}])
def test_stability_falls_with_every_frame_that_looks_otherwise(truth, change):
    ((what, other),) = change.items()
    stability, kept = [], []
    for dose in range(F // 2 + 1):
        seen = reading(truth, SEEN | {what: mixed(SEEN[what], other, dose)})
        stability.append(identity_stability(seen, truth))
        kept.append(identity_kept(seen, truth, SAME))
    assert stability[0] == 1 and falls(stability) and kept == [1 - dose / F for dose in range(F // 2 + 1)]


def test_stability_is_over_all_pairs_of_frames(truth):
    def stability(*drawings):
        four = read_like(truth, len(drawings))
        return identity_stability(reading(four, SEEN | {"drawing": drawings}), four)

    assert stability("a", "a", "b", "b") == pytest.approx(2 / 6)
    assert stability("a", "b", "a") == pytest.approx(1 / 3)  # neighbours alone would say 0
    assert stability("a", "b") == 0 and math.isnan(stability("a"))


def read_like(truth, f):
    """The first f frames of a truth."""
    parts = ("things", "bend", "phase", "facing", "share", "masks", "view")
    return replace(truth, **{part: getattr(truth, part)[:f] for part in parts})


def test_what_cannot_be_recognised_is_not_alike(truth):
    assert identity_stability(reading(truth, SEEN | {"object": NOTHING}), truth) == 0


def test_another_colour_that_is_asked_for_loses_no_identity(truth):
    orange = reading(truth, SEEN | {"colour": "orange"})
    recoloured = replace(SAME, things=(Wanted("dog", "orange"),))
    assert identity_kept(orange, truth, recoloured) == 1 and identity_kept(orange, truth, SAME) == 0
    assert identity_kept(orange, truth, replace(SAME, things=(Wanted("dog", "brown"),))) == 0
    assert math.isnan(identity_kept(orange, truth, TO_CAR))


# Several things


def test_recall_and_success_fall_and_swaps_rise_with_every_frame_in_which_things_change_places(pair):
    dog, cat = ("dog", "brown"), ("cat", "grey")
    found, swapped, success, stable, kept = [], [], [], [], []
    for dose in range(F // 2 + 1):
        seen = reading(pair, seen_at=[mixed(dog, cat, dose), mixed(cat, dog, dose)])
        found.append(recall(seen, pair, PAIR))
        swapped.append(swaps(seen, pair, PAIR))
        success.append(edit_success(seen, pair, PAIR)["edit success"])
        stable.append(identity_stability(seen, pair))
        kept.append(identity_kept(seen, pair, PAIR))
    doses = [dose / F for dose in range(F // 2 + 1)]
    assert swapped == doses and found == success == kept == [1 - dose for dose in doses]
    assert stable[0] == 1 and falls(stable)


def test_a_thing_that_is_missing_is_not_recalled_and_not_swapped(pair):
    seen = reading(pair)
    seen = replace(seen, told=replace(seen.told, object=[["dog", NOTHING]] * F))
    assert recall(seen, pair, PAIR) == 0.5 and swaps(seen, pair, PAIR) == 0
    assert edit_success(seen, pair, PAIR)["edit success"] == 0
    other = reading(pair, seen_at=[("dog", "brown"), ("racing-car", "grey")])  # wrong, but not the other one
    assert recall(other, pair, PAIR) == 0.5 and swaps(other, pair, PAIR) == 0
    twice = reading(pair, seen_at=[("dog", "brown")] * 2)
    assert recall(twice, pair, PAIR) == 0.5 and swaps(twice, pair, PAIR) == 0.5


def test_a_judge_is_asked_at_each_things_true_place(pair, truth):
    asked = []

    class Asked:
        def read(self, frames, poses=None):
            asked.append(poses)

    for known in (pair, truth):
        read(Asked(), grey(), known)
    assert torch.equal(asked[0], poses(pair)) and torch.equal(asked[1], poses(truth))
    with pytest.raises(InputError, match="a judge is asked at the things' places"):
        recall(replace(reading(pair), told=None), pair, PAIR)


def test_things_of_one_object_are_told_apart_by_the_colours_asked(pair):
    dogs = replace(PAIR, things=(Wanted("dog", "brown"), Wanted("dog", "grey")))
    right = reading(pair, seen_at=[("dog", "brown"), ("dog", "grey")])
    swapped = reading(pair, seen_at=[("dog", "grey"), ("dog", "brown")])
    assert recall(right, pair, dogs) == edit_success(right, pair, dogs)["edit success"] == 1
    assert swaps(right, pair, dogs) == 0 and swaps(swapped, pair, dogs) == 1
    assert recall(swapped, pair, dogs) == edit_success(swapped, pair, dogs)["right colour"] == 0


def test_a_thing_that_is_hidden_is_not_looked_for(pair):
    hidden = replace(pair, share=torch.tensor([[1.0, 0.2]] * F))
    seen = reading(pair, seen_at=[("dog", "brown")] * 2)
    assert recall(seen, hidden, PAIR) == edit_success(seen, hidden, PAIR)["edit success"] == 1
    assert swaps(seen, hidden, PAIR) == 0


# Motion


def test_things_are_found_where_they_are_whichever_way_they_pass(pair):
    torch.testing.assert_close(located(reading(pair), pair), poses(pair), atol=1e-4, rtol=0)
    hidden = replace(pair, share=torch.tensor([[1.0, 1.0]] * 4 + [[0.1, 1.0]] * 4))
    found = located(reading(pair), hidden)
    assert found[4:, 0].isnan().all() and not found[4:, 1].isnan().any() and not found[:4].isnan().any()


def test_motion_errors_are_in_pixels_per_cent_and_degrees(truth):
    moved = poses(truth) + torch.tensor([3 / 64, -4 / 64, 0, -350, 0, 0])
    moved[..., 2] *= 1.2
    errors = motion_error(moved, truth)
    assert errors["centre error"] == pytest.approx(5, abs=1e-4)
    assert errors["size error"] == pytest.approx(20, abs=1e-4)
    assert errors["angle error"] == pytest.approx(10, abs=1e-4)
    assert motion_error(moved - torch.tensor([0.0, 0, 0, 10, 0, 0]), truth)["motion correlation"] > 0.99  # elsewhere


@pytest.mark.parametrize(("column", "name"), [(0, "centre error"), (2, "size error"), (3, "angle error")])
def test_errors_rise_with_what_is_wrong(truth, column, name):
    errors = []
    for dose in (0, 0.02, 0.05, 0.1):
        off = poses(truth)
        off[..., column] += dose * (400 if name == "angle error" else 1)
        errors.append(motion_error(located(reading(truth, at=off), truth), truth)[name])
    assert errors[0] == pytest.approx(0, abs=1e-3) and rises(errors)


@pytest.mark.parametrize(("extent", "correlation"), [(1, 1), (0.5, 0.8), (2, 0.8), (0, 0), (-1, -1)])
def test_the_correlation_falls_with_the_extent_of_the_motion(truth, extent, correlation):
    true = poses(truth)
    read = true.mean(0) + extent * (true - true.mean(0))
    assert motion_error(read, truth)["motion correlation"] == pytest.approx(correlation, abs=1e-6)


WAYS = {
    "moving": lambda k, p: {"x": 0.3 + 0.4 * p},
    "growing": lambda k, p: {"size": 0.3 + 0.5 * p},
    "turning": lambda k, p: {"angle": 80 * p - 40},
    "turning around": lambda k, p: {"angle": (360 * p + 180) % 360 - 180},
    "stretching": lambda k, p: {"squash": 0.8 * p - 0.4},
    "swaying": lambda k, p: {"shear": 0.6 * p - 0.3},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_motion_falls_as_it_freezes(save, way):
    truth = read_truth(save(WAYS[way]), F, SIDE, stride=2)
    true, correlations = poses(truth), []
    for frozen in range(0, F + 1, 2):  # from some frame on it stands still
        stopped = true.clone()
        stopped[F - frozen :] = true[max(F - frozen - 1, 0)]
        correlations.append(motion_error(located(reading(truth, at=stopped), truth), truth)["motion correlation"])
    assert correlations[0] == pytest.approx(1) and correlations[-1] == pytest.approx(0, abs=1e-6)
    assert falls(correlations)


def test_the_correlation_falls_with_frames_that_are_dropped_or_shuffled(truth):
    def correlation(order):
        return motion_error(located(reading(truth, at=poses(truth)[order]), truth), truth)["motion correlation"]

    dropped = [correlation(sorted([*range(F - n), *[0] * n])) for n in range(0, F, 2)]  # the first one shown again
    shuffled = [correlation([*range(F)][:n] + [*range(F)][n:][::-1]) for n in (7, 5, 3, 0)]  # the rest goes backwards
    assert dropped[0] == pytest.approx(1) and falls(dropped)
    assert shuffled[0] == pytest.approx(1) and falls(shuffled) and shuffled[-1] == pytest.approx(-1)


def test_things_that_pass_each_other_move_although_their_mean_does_not(pair):
    assert motion_error(located(reading(pair), pair), pair)["motion correlation"] == pytest.approx(1)
    still = poses(pair).mean(0).expand(F, 2, 6)
    assert motion_error(still, pair)["motion correlation"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("frame", [0, F - 1])
@pytest.mark.parametrize("looks", [None, [("dog", "brown")] * 2])
def test_of_several_things_in_one_frame_repeated_none_moves_although_the_true_ones_pass_each_other(pair, frame, looks):
    still = located(reading(pair, at=poses(pair)[frame].expand(F, 2, 6), seen_at=looks), pair)
    assert motion_error(still, pair)["motion correlation"] == pytest.approx(0, abs=1e-3)


def test_a_track_with_gaps_counts_for_less_and_one_that_cannot_be_taken_is_missing(truth):
    def found(n):
        gap = poses(truth)
        gap[[1, 6, 3, 4, 0][:n]] = torch.nan
        return motion_error(gap, truth)

    correlations = [found(n)["motion correlation"] for n in range(5)]
    assert falls(correlations) and correlations[0] == pytest.approx(1) and correlations[4] > 0.3
    assert math.isnan(found(5)["motion correlation"]) and found(5)["centre error"] == pytest.approx(0)
    never = motion_error(torch.full((F, 1, 6), torch.nan), truth)
    assert all(math.isnan(error) for error in never.values())


def test_a_source_that_does_not_move_has_no_correlation(save):
    truth = read_truth(save(lambda k, p: {}), F, SIDE)
    assert math.isnan(motion_error(poses(truth), truth)["motion correlation"])


def test_a_reading_of_other_frames_is_refused(truth):
    with pytest.raises(InputError, match="3 frames were read"):
        located(reading(read_like(truth, 3)), truth)


def test_the_walk_cycle_is_compared_around_its_end(save):
    truth = read_truth(save(lambda k, p: {"x": 0.3 + 0.4 * p, "phase": 2 * p % 1}), F, SIDE, stride=2)
    truth = replace(truth, phase=((8 * truth.phase).floor() + 0.5) / 8)  # what is drawn of it
    errors = [
        phase_error(reading(replace(truth, phase=(truth.phase + off) % 1)), truth, SAME) for off in (0, 0.1, 0.3, 0.5)
    ]
    assert errors == pytest.approx([0, 10, 30, 50], abs=1e-3)
    backwards = reading(replace(truth, phase=(truth.phase - 0.9) % 1))
    assert phase_error(backwards, truth, SAME) == pytest.approx(10, abs=1e-3)
    assert math.isnan(phase_error(backwards, truth, TO_CAR)) and math.isnan(phase_error(backwards, truth, None))
    never = replace(reading(truth), maps=reading(truth).maps * 0 - 9)
    assert math.isnan(phase_error(never, truth, SAME))


def test_a_thing_without_a_walk_cycle_has_no_phase_error(truth):
    assert math.isnan(phase_error(reading(truth), truth, SAME))


def test_a_clip_that_keeps_to_a_path_follows_it(truth):
    scores = followed(reading(truth), truth)
    assert scores["centre error"] == pytest.approx(0, abs=1e-4) and scores["mask overlap"] == 1
    assert scores["motion correlation"] == pytest.approx(1)


def test_the_overlap_is_the_share_of_the_masks_that_both_have(truth):
    aside = truth.mask.roll(8, dims=2)  # things of 16 x 16 pixels: half of each is covered, a third of both
    assert followed(reading(truth, mask=aside.float()), truth)["mask overlap"] == pytest.approx(1 / 3)
    half = truth.mask.float()
    half[: F // 2] = 0.4
    assert followed(reading(truth, mask=half), truth)["mask overlap"] == 0.5


# The camera


def panned(extent, zoom=0.0, f=F):
    """Frames of a camera that moves over a wide picture, and its view."""
    p = torch.linspace(-0.5, 0.5, f)
    view = torch.stack([extent * 0.5 * p, 0.1 * extent * p, 1 + zoom * (p + 0.5)], 1)
    wide = torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(5))
    wide = interpolate(wide, (192, 384), mode="bicubic").clamp(0, 1)  # two sides wide, one and a half high
    theta = torch.zeros(f, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = 0.5 / view[:, 2], view[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = 1 / 1.5 / view[:, 2], view[:, 1] / 0.75
    grid = affine_grid(theta, (f, 3, SIDE, SIDE), align_corners=False)
    return grid_sample(wide.expand(f, -1, -1, -1), grid, align_corners=False), view


@pytest.mark.parametrize(("extent", "zoom"), [(1.0, 0.0), (0.0, 0.5), (0.7, 0.3)])
def test_the_camera_is_read_off_the_background_and_its_error_rises_as_it_freezes(extent, zoom):
    frames, view = panned(extent, zoom)
    everywhere = torch.ones(F, SIDE, SIDE, dtype=torch.bool)
    errors = [camera_error(panned(part * extent, part * zoom)[0], everywhere, view) for part in (1, 0.75, 0.5, 0.25, 0)]
    assert errors[0] < 1 and rises(errors)
    assert camera_motion(frames[:1].expand(F, -1, -1, -1), everywhere).abs().max() < 1e-3


def test_what_things_do_is_not_taken_for_the_camera():
    frames, view = panned(1.0)
    behind = torch.ones(F, SIDE, SIDE, dtype=torch.bool)
    for f in range(F):  # a thing that stands still while the background moves
        frames[f, :, 20:44, 20:44] = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(1))
        behind[f, 18:46, 18:46] = False
    assert camera_error(frames, behind, view) < 1.5


def test_the_camera_of_drawn_clips_is_read():
    for number in (0, 1):
        frames, truth = drawn("camera", number)
        where = interpolate((~truth.mask)[:, None].float(), SIDE)[:, 0] > 0
        still = camera_error(frames[:1].expand(F, -1, -1, -1), where, truth.view)
        assert camera_error(frames, where, truth.view) < 0.6 * still


def test_a_camera_that_is_known_to_stand_still_has_no_error():
    frames, truth = drawn("path")
    assert math.isnan(camera_error(frames, ~truth.mask, truth.view))


# Pictures


@pytest.mark.parametrize("number", [0, 3])
def test_flicker_rises_with_every_jitter_and_not_with_motion(number):
    frames, _ = drawn("path", number)
    colours = torch.rand(F, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    every_second = (torch.arange(F) % 2 == 0)[:, None, None, None]
    jitter = [flicker(frames.lerp(colours, dose), frames) for dose in (0, 0.05, 0.1, 0.2)]
    blurred = [flicker(torch.where(every_second, soft(frames, dose), frames), frames) for dose in (2, 4, 7)]
    dropped = [
        flicker(torch.where(torch.arange(F)[:, None, None, None] < n, colours, frames), frames) for n in (0, 2, 4)
    ]
    assert jitter[0] == 0 and rises(jitter) and rises(blurred) and rises(dropped)
    still = flicker(frames[:1].expand(F, -1, -1, -1), frames)
    assert still < 0 and flicker(frames, frames[:1].expand(F, -1, -1, -1)) == pytest.approx(-still)


def soft(frames, reach):
    return avg_pool2d(frames, 2 * reach + 1, 1, reach, count_include_pad=False)


def test_grain_that_is_lost_makes_up_for_no_jitter():
    frames, _ = drawn("path")
    smooth = soft(frames, 1)
    jitter = torch.tensor([0.0, 5.0] * (F // 2))[:, None, None, None] / 255
    assert flicker(smooth + jitter, frames) > 0 > flicker(smooth, frames) > -0.6


def test_flicker_is_in_grey_levels_and_a_moving_thing_has_none():
    steps = torch.tensor([0.0, 10.0] * (F // 2))[:, None, None, None] / 255
    assert flicker(grey() + steps, grey()) == pytest.approx(10, abs=1e-3)
    moving = grey(0.2)
    for f in range(F):
        moving[f, :, 20:40, 5 * f : 5 * f + 15] = 0.9
    assert flicker(moving, grey()) == pytest.approx(0, abs=0.5)
    assert math.isnan(flicker(grey()[:1], grey()[:1]))


def test_the_background_is_what_neither_mask_nor_its_margin_shows(truth):
    def change(edit, **seen):
        return truth_scores(reading(truth, CAR, **seen), truth, TO_CAR, edit, grey())["background change"]

    assert [change(grey() + dose / 255) for dose in (0, 10, 20)] == pytest.approx([0, 10, 20], abs=1e-3)
    around = max_pool2d(truth.mask.float(), 9, stride=1, padding=4)  # 4 pixels more on each side
    assert change(grey() + 0.1 * around[:, None]) == 0
    found = torch.zeros(F, SIDE, SIDE)
    found[:, 50:] = 0.6  # by the judge alone
    edit = grey() + 0.1 * (found[:, None] > 0)
    assert change(edit, mask=found) == 0 < change(edit, mask=found / 2)
    assert math.isnan(background_change(edit, grey(), found > 1))


def test_the_background_counts_only_where_things_alone_are_to_change(truth):
    def change(asked):
        return truth_scores(reading(truth, CAR), truth, asked, grey(0.6), grey())["background change"]

    assert change(TO_CAR) == change(SAME) == pytest.approx(25.5, abs=1e-3)
    assert math.isnan(change(replace(TO_CAR, place="sea"))) and math.isnan(change(replace(SAME, style="pencil")))
    assert math.isnan(change(None))
