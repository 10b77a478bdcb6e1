import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from transformers import ResNetConfig, ResNetForImageClassification, UperNetConfig, UperNetForSemanticSegmentation

from measures import judge as reading
from measures.judge import (
    CROP,
    NOTHING,
    OFF,
    SEEN,
    SURE,
    VOTES,
    Judge,
    Reading,
    apart,
    beside,
    cropped,
    hue,
    locate,
    moved,
    places,
)
from miniature.scenes import Renderer, plain
from tav.errors import InputError

ANSWERS = {"object": ["fox", "car", NOTHING], "drawing": ["fox/a", "fox/b", "car/a"], "style": ["3d", "pencil"],
           "place": ["sea"], "colour": ["red", "grey"]}  # fmt: skip
LABELS = [f"{question}:{answer}" for question, answers in ANSWERS.items() for answer in answers]


def stored(folder, votes=VOTES, labels=LABELS + OFF):
    """A judge of random weights that knows other answers than the world's, in `folder`."""
    torch.manual_seed(0)
    sizes = {"num_channels": 5, "embedding_size": 8, "layer_type": "basic", "depths": [1, 1]}
    backbone = ResNetConfig(**sizes, hidden_sizes=[8, 16], out_features=["stage1", "stage2"])
    finder = UperNetConfig(backbone_config=backbone, hidden_size=8, pool_scales=[1], use_auxiliary_head=False,
                           id2label=dict(enumerate(votes)))  # fmt: skip
    reader = ResNetConfig(**sizes | {"num_channels": 6}, hidden_sizes=[8, 16], id2label=dict(enumerate(labels)))
    ResNetForImageClassification(reader).half().save_pretrained(folder / "reader")
    UperNetForSemanticSegmentation(finder).half().save_pretrained(folder / "finder")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("judge"))


def ballot(side, *things):
    """Maps of pixels that vote for the truth: things are x, y, size, angle, squash, shear, and where they are seen."""
    maps = torch.zeros(len(VOTES), side, side)
    maps[0] = -9
    grid = places(side)
    for x, y, size, angle, squash, shear, seen in things:
        left, top, right, bottom = (round(edge * side) for edge in seen)
        turn = torch.tensor(angle).deg2rad()
        rest = torch.tensor([size, turn.sin(), turn.cos(), squash, shear, 0.8, 0.2, 0.1, 0, 1])
        goal = torch.cat([torch.tensor([x, y])[:, None, None] - grid, rest[:, None, None].expand(-1, side, side)])
        maps[0, top:bottom, left:right] = 9
        maps[1:, top:bottom, left:right] = goal[:, top:bottom, left:right]
    return maps


def reading_of(maps):
    """A reading of one frame that holds these maps."""
    things = locate(maps, 1)[None]
    return Reading(ANSWERS, {}, {"object": ["fox"]}, maps[None, 0].sigmoid(), maps[None], things, torch.zeros(1, 1, 5))


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_the_answers_are_those_of_the_folder_and_every_frame_has_one_of_each(folder):
    judge = Judge.load(folder, "cpu")
    assert judge.answers == ANSWERS
    read = judge.read(torch.rand(5, 3, 40, 72, generator=torch.Generator().manual_seed(1)))
    for question, answers in judge.answers.items():
        assert read.probabilities[question].shape == (5, len(answers))
        torch.testing.assert_close(read.probabilities[question].sum(1), torch.ones(5))
        likely, best = read.probabilities[question].max(1)
        sure = (likely >= SURE) | (question != "object")
        assert read.names[question] == [
            answers[at] if is_sure else NOTHING for at, is_sure in zip(best, sure, strict=True)
        ]
    assert read.recognisable.tolist() == [name != NOTHING for name in read.names["object"]]
    assert read.things.shape == (5, 1, 6) and read.looks.shape == (5, 1, 5)
    torch.testing.assert_close(read.looks.sum(2), torch.full((5, 1), 2.0))
    assert read.colour.shape == (5, 3) and read.phase.shape == (5,)
    assert read.mask.shape == (5, 40, 72) and 0 <= read.mask.min() < read.mask.max() <= 1


@pytest.mark.parametrize(("bias", "named"), [(0.0, NOTHING), (9.0, "car")])
def test_an_object_is_named_where_it_is_likely_enough_and_is_nothing_elsewhere(folder, bias, named):
    judge, frames = Judge.load(folder, "cpu"), torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    poses, last = torch.tensor([0.5, 0.5, 0.4, 0.0, 0.0, 0.0]).expand(3, 1, 6), judge.reader.classifier[1]
    with torch.no_grad():
        last.weight[judge.columns["object"]] = 0
        last.bias[judge.columns["object"]] = torch.tensor([0.1, 0.2 + bias, 0.0])
    read = judge.read(frames, poses)
    assert (read.probabilities["object"].amax(1) >= SURE).all() == (named != NOTHING)
    assert read.names["object"] == [named] * 3 and read.told.object == [[named]] * 3
    assert NOTHING not in read.names["drawing"] + read.names["colour"] + read.told.colour[0]


def test_a_frame_is_read_alike_alone_and_in_a_long_clip(folder):
    judge, frames = Judge.load(folder, "cpu"), torch.rand(70, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    clip, alone = judge.read(frames), judge.read(frames[66:67])
    torch.testing.assert_close(clip.probabilities["object"][66:67], alone.probabilities["object"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.mask[66:67], alone.mask, atol=1e-5, rtol=1e-4)


def test_a_picture_is_read_alike_at_twice_its_size(folder):
    judge, drawn = Judge.load(folder, "cpu"), torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    small, large = (interpolate(drawn, side, mode="bicubic").clamp(0, 1) for side in (64, 128))
    once, twice = judge.read(small).probabilities["object"], judge.read(large).probabilities["object"]
    assert (once - twice).abs().max() < 0.1 * (once[0] - once[1]).abs().max()


@pytest.mark.parametrize("facing", [1, -1])
def test_a_crop_shows_a_thing_alike_however_it_stands(facing):
    n, rng, render = 12, np.random.default_rng(5), Renderer()
    upright = plain(rng, n).with_(style=np.zeros(n, int), view=np.tile([0.0, 0.0, 1.0], (n, 1)))
    upright = upright.with_(facing=np.full_like(upright.facing, facing))
    pose = upright.pose.copy()
    pose[:, 0] = [0.5, 0.5, 0.7, 0, 0, 0]
    others = pose.copy()
    others[:, 0] = np.stack([*rng.uniform(0.4, 0.6, (2, n)), rng.uniform(0.45, 0.55, n), rng.uniform(-90, 90, n),
                             rng.uniform(-0.4, 0.4, n), rng.uniform(-0.3, 0.3, n)], 1)  # fmt: skip
    one, other = (render(upright.with_(pose=each)) for each in (pose, others))
    crops, masks = [], []
    for drawn, each in ((one, pose), (other, others)):
        poses = torch.from_numpy(each[:, 0]).float()
        crops.append(cropped(drawn.pictures, poses))
        masks.append(cropped(drawn.visible[:, :1].expand(-1, 3, -1, -1), poses)[:, 0] > 0.5)
    both, either = (masks[0] & masks[1]).sum((1, 2)), (masks[0] | masks[1]).sum((1, 2))
    assert (both / either).min() > 0.8 and (both / either).mean() > 0.9
    wide = masks[0].any(1).sum(1).maximum(masks[0].any(2).sum(1))
    assert (wide / SEEN - 1 / CROP).abs().max() < 0.06
    off = (crops[0] - crops[1]).abs().mean(1)
    assert float(off[masks[0] & masks[1]].mean()) < 0.1


def test_where_nothing_was_found_the_crop_is_grey():
    poses = torch.tensor([[0.5, 0.5, 0.5, 0, 0, 0], [torch.nan] * 6])
    crops = cropped(torch.rand(2, 3, 64, 64), poses)
    assert (crops[1] == 0.5).all() and not (crops[0] == 0.5).all()


def test_votes_give_the_thing_even_where_most_of_it_is_outside_the_frame():
    maps = ballot(64, (-0.05, 0.4, 0.6, -170.0, 0.3, -0.2, (0, 0.2, 0.2, 0.6)))
    close(locate(maps, 1), [-0.05, 0.4, 0.6, -170.0, 0.3, -0.2])


def test_votes_of_several_things_part_from_left_to_right_however_much_of_each_is_seen():
    things = [(0.7, 0.5, 0.4, 5.0, 0.0, 0.0, (0.5, 0.3, 0.9, 0.7)),
              (0.3, 0.5, 0.4, -5.0, 0.1, 0.0, (0.2, 0.4, 0.4, 0.5)),
              (0.5, 0.2, 0.4, 0.0, 0.0, 0.2, (0.45, 0.05, 0.55, 0.25))]  # fmt: skip
    close(locate(ballot(64, *things), 3), *(list(thing[:6]) for thing in sorted(things)))


def test_a_vote_that_goes_astray_moves_nothing():
    maps = ballot(64, (0.5, 0.5, 0.5, 0.0, 0.0, 0.0, (0.3, 0.3, 0.7, 0.7)))
    maps[1, 20, 20:23] = 3.0
    close(locate(maps, 1), [0.5, 0.5, 0.5, 0.0, 0.0, 0.0])


def test_nothing_seen_has_no_place_and_no_colour():
    assert locate(ballot(64), 2).isnan().all() and locate(ballot(64), 2).shape == (2, 6)
    assert reading_of(ballot(64)).colour.isnan().all() and reading_of(ballot(64)).phase.isnan().all()


def test_a_thing_counted_twice_stays_where_it_is():
    thing = [0.4, 0.6, 0.5, 10.0, 0.0, 0.0]
    close(locate(ballot(64, (*thing, (0.2, 0.4, 0.6, 0.8))), 2), thing, thing)


def test_the_colour_is_that_of_the_pixels_that_show_a_thing_and_has_a_hue():
    reading = reading_of(ballot(64, (0.5, 0.5, 0.5, 0.0, 0.0, 0.0, (0.3, 0.3, 0.7, 0.7))))
    close(reading.colour, [0.8, 0.2, 0.1])
    colours = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0.5, 0], [0.2, 0.2, 1]])
    close(hue(colours), 0.0, 60.0, 120.0, 240.0)


def test_places_that_are_asked_about_are_read_off_crops_of_their_own(folder, monkeypatch):
    monkeypatch.setattr(reading, "SURE", 0)
    judge = Judge.load(folder, "cpu")
    frames = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    poses = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(4)) * torch.tensor([1, 1, 0.5, 90, 0.2, 0.2])
    poses[2, 1] = torch.nan
    read, plain = judge.read(frames, poses), judge.read(frames)
    assert plain.told is None and read.names == plain.names
    for f, k in np.ndindex(3, 2):
        logits = judge.reader(beside(frames[f : f + 1], cropped(frames[f : f + 1], poses[f, k : k + 1]))).logits[0]
        for question, said in (("object", read.told.object), ("colour", read.told.colour)):
            assert said[f][k] == judge.answers[question][logits[judge.columns[question]].argmax()]
    assert read.things.shape == (3, 2, 6) and read.things.isnan().all(2).sum(1).tolist() == [0, 0, 1]
    poses[0] = torch.nan
    assert judge.read(frames, poses).things.isnan().all(2).sum(1).tolist() == [2, 0, 1]


def test_what_is_found_is_looked_at_again_where_the_reader_has_put_it(folder, monkeypatch):
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    judge = Judge.load(folder, "cpu")
    with torch.no_grad():
        judge.reader.classifier[1].weight[judge.off] = 0
        judge.reader.classifier[1].bias[judge.off] = torch.tensor([0.2, 0.0, 0.1, 0.0, 0.0, 0.0])
    monkeypatch.setattr(reading, "locate", lambda maps, count: torch.tensor([[0.5, 0.4, 0.5, 20.0, 0.0, 0.1]]))
    looks = []
    for times in (1, 2, 3):
        monkeypatch.setattr(reading, "LOOKED", times)
        looks.append(judge.read(frames).things)
    off = judge.reader.classifier[1].bias[judge.off].detach().half().float()
    for before, after in zip(looks, looks[1:], strict=False):
        torch.testing.assert_close(moved(before, off.expand_as(before)), after, atol=1e-3, rtol=1e-3)
        assert (before - after)[..., :2].abs().max() > 0.05


def test_what_crops_are_off_takes_them_where_they_belong():
    generator = torch.Generator().manual_seed(6)
    scale, middle = torch.tensor([1, 1, 0.4, 300, 0.6, 0.6]), torch.tensor([0.5, 0.5, -0.7, 0.5, 0.5, 0.5])
    one, two = ((torch.rand(40, 6, generator=generator) - middle.abs()) * scale for _ in range(2))
    one[:, 2], two[:, 2] = one[:, 2].abs() + 0.2, two[:, 2].abs() + 0.2
    close(moved(one, apart(one, two)), *two.tolist())
    assert apart(one, one).abs().max() < 1e-4
    across = apart(torch.tensor([0.5, 0.5, 0.5, 90.0, 0, 0]), torch.tensor([0.5, 0.5 + CROP / 4, 0.5, 90.0, 0, 0]))
    close(across, *[1.0, 0, 0, 0, 0, 0])  # half a crop down the frame is ahead of a thing that is turned downwards


@pytest.mark.parametrize("damage", ["no folder", "no finder", "no weights", "half the weights", "other weights"])
def test_a_judge_that_is_missing_or_broken_is_refused_in_one_line(folder, tmp_path, damage):
    broken = tmp_path / "judge"
    for part in ("reader", "finder"):
        if damage != "no folder" and (damage, part) != ("no finder", "finder"):
            (broken / part).mkdir(parents=True)
            for file in (folder / part).iterdir():
                (broken / part / file.name).write_bytes(file.read_bytes())
    weights = broken / "reader" / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "other weights":
        weights.write_bytes((folder / "finder" / "model.safetensors").read_bytes())
    with pytest.raises(InputError) as error:
        Judge.load(broken, "cpu")
    assert str(broken) in str(error.value) and "\n" not in str(error.value)


def test_a_judge_with_other_votes_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no judge"):
        Judge.load(stored(tmp_path, votes=VOTES[:5]), "cpu")


def test_a_judge_that_cannot_say_what_its_crop_is_off_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no judge"):
        Judge.load(stored(tmp_path, labels=LABELS), "cpu")


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 4, 64, 64), (0, 3, 64, 64)])
def test_what_is_no_clip_is_refused(folder, shape):
    with pytest.raises(InputError, match="f 3 h w"):
        Judge.load(folder, "cpu").read(torch.zeros(shape))
