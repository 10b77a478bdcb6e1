import pytest
import torch
from torch.nn.functional import interpolate
from transformers import ResNetConfig, ResNetForImageClassification, UperNetConfig, UperNetForSemanticSegmentation

from measures.judge import VOTES, Judge, locate, places
from tav.errors import InputError

LABELS = ["object:fox", "object:car", "object:wizard", "style:3d", "style:line", "place:sea", "count:1", "count:2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A judge of random weights that knows other answers than the miniature's."""
    torch.manual_seed(0)
    sizes = {"num_channels": 5, "embedding_size": 8, "layer_type": "basic", "depths": [1, 1]}
    backbone = ResNetConfig(**sizes, hidden_sizes=[8, 16], out_features=["stage1", "stage2"])
    finder = UperNetConfig(backbone_config=backbone, hidden_size=8, pool_scales=[1], use_auxiliary_head=False,
                           id2label=dict(enumerate(VOTES)))  # fmt: skip
    reader = ResNetConfig(**sizes, hidden_sizes=[8, 16], id2label=dict(enumerate(LABELS)))
    folder = tmp_path_factory.mktemp("judge")
    ResNetForImageClassification(reader).half().save_pretrained(folder / "reader")
    UperNetForSemanticSegmentation(finder).half().save_pretrained(folder / "finder")
    return folder


def ballot(side, *things):
    """Maps of pixels that vote for the truth: every thing is (centre x, centre y, size, angle, where it is seen)."""
    maps = torch.full((5, side, side), 0.0)
    maps[0] = -9
    grid = places(side)
    for x, y, size, angle, seen in things:
        left, top, right, bottom = (round(edge * side) for edge in seen)
        goal = torch.cat([torch.tensor([x, y])[:, None, None] - grid, torch.full((1, side, side), size),
                          torch.full((1, side, side), angle).deg2rad()])  # fmt: skip
        maps[0, top:bottom, left:right] = 9
        maps[1:, top:bottom, left:right] = goal[:, top:bottom, left:right]
    return maps


def test_the_answers_are_those_of_the_folder_and_every_frame_has_one_of_each(folder):
    judge = Judge.load(folder, "cpu")
    assert judge.answers == {"object": ["fox", "car", "wizard"], "style": ["3d", "line"], "place": ["sea"],
                             "count": ["1", "2"]}  # fmt: skip
    reading = judge.read(torch.rand(5, 3, 40, 72, generator=torch.Generator().manual_seed(1)))
    for question, answers in judge.answers.items():
        assert reading.probabilities[question].shape == (5, len(answers))
        torch.testing.assert_close(reading.probabilities[question].sum(1), torch.ones(5))
        likeliest = reading.probabilities[question].argmax(1)
        assert reading.names[question] == [answers[number] for number in likeliest]
    assert [len(things) for things in reading.things] == [int(count) for count in reading.names["count"]]
    assert reading.mask.shape == (5, 40, 72) and 0 <= reading.mask.min() < reading.mask.max() <= 1
    assert {numbers.shape for numbers in reading.numbers.values()} == {(5,)}


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


def test_votes_give_the_thing_even_where_most_of_it_is_outside_the_frame():
    maps = ballot(64, (-0.05, 0.4, 0.6, -30.0, (0, 0.2, 0.2, 0.6)))
    torch.testing.assert_close(locate(maps, 1), torch.tensor([[-0.05, 0.4, 0.6, -30.0]]), atol=1e-4, rtol=1e-4)


def test_votes_of_several_things_part_from_left_to_right_however_much_of_each_is_seen():
    things = [(0.7, 0.5, 0.4, 5.0, (0.5, 0.3, 0.9, 0.7)), (0.3, 0.5, 0.4, -5.0, (0.2, 0.4, 0.4, 0.5)),
              (0.5, 0.2, 0.4, 0.0, (0.45, 0.05, 0.55, 0.25))]  # fmt: skip
    expected = torch.tensor([thing[:4] for thing in sorted(things)])
    torch.testing.assert_close(locate(ballot(64, *things), 3), expected, atol=1e-4, rtol=1e-4)


def test_a_vote_that_goes_astray_moves_nothing():
    maps = ballot(64, (0.5, 0.5, 0.5, 0.0, (0.3, 0.3, 0.7, 0.7)))
    maps[1, 20, 20:23] = 3.0
    torch.testing.assert_close(locate(maps, 1), torch.tensor([[0.5, 0.5, 0.5, 0.0]]), atol=1e-4, rtol=1e-4)


def test_nothing_seen_has_no_place():
    assert locate(ballot(64), 2).isnan().all() and locate(ballot(64), 2).shape == (2, 4)


def test_a_thing_counted_twice_stays_where_it_is():
    found = locate(ballot(64, (0.4, 0.6, 0.5, 10.0, (0.2, 0.4, 0.6, 0.8))), 2)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.6, 0.5, 10.0]] * 2), atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 4, 64, 64), (0, 3, 64, 64)])
def test_what_is_no_clip_is_refused(folder, shape):
    with pytest.raises(InputError, match="f 3 h w"):
        Judge.load(folder, "cpu").read(torch.zeros(shape))
