"""Conditions as they are drawn, by models in the layouts of their Hub repositories with random weights."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DPTConfig, DPTForDepthEstimation

from measures import conditions
from measures.conditions import CENTRE, HAND, HEAD, KINDS, condition, depth, edges, mask, openpose, pose
from measures.truth import Truth
from tav.errors import InputError
from tests import tiny

FRAMES = 4
NONE = {"depth": "models/no/depth", "openpose": "models/no/openpose"}
UNUSED = "neck.fusion_stage.layers.0.residual_layer1."


@pytest.fixture
def truth():
    """Two things in two frames of 64 pixels: upright, then a quarter turn clockwise."""
    seen = torch.zeros(2, 64, 64, dtype=torch.bool)
    seen[0, 10:20, 30:40] = seen[1, 40:50, 5:15] = True
    things = torch.tensor([[[0.5, 0.5, 0.5, 0.0]], [[0.5, 0.5, 0.5, 90.0]]])
    none, one, bend = torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(2, 1, 2)
    still = torch.tensor([[0.0, 0.0, 1.0]] * 2)
    return Truth("3d", "snow", "path", True, (), things, bend, none, one, one, seen[:, None], still)


def pixel(picture, x, y):
    return tuple((picture[:, y, x] * 255).round().int().tolist())


def refused(message, draw, *arguments):
    with pytest.raises(InputError, match=message) as error:
        draw(*arguments)
    assert "\n" not in str(error.value)


def save_depth_model(folder: Path) -> DPTForDepthEstimation:
    """A small DPT as Intel/dpt-large is laid out: the processor's old file, and no weights for what is not used."""
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
    )
    model = DPTForDepthEstimation(config).eval()
    for parameter in model.neck.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.head.head[4].bias, 3.0)  # its last layer is cut off at 0
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if not key.startswith(UNUSED)}
    assert len(kept) == len(weights) - 4
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    processor = {"do_normalize": True, "do_resize": True, "ensure_multiple_of": 1, "keep_aspect_ratio": False}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 32}
    processor |= {"feature_extractor_type": "DPTFeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


class Touches:
    """What an unsafe load would run: it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_edges_are_white_along_a_border_and_nowhere_else():
    drawn = edges((tiny.moving_square(FRAMES) + 1) / 2)
    assert drawn.shape == (FRAMES, 3, 32, 32) and set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn[:, 0], drawn[:, 1]) and torch.equal(drawn[:, 0], drawn[:, 2])
    for index, picture in enumerate(drawn[:, 0]):
        rows, columns = picture.nonzero(as_tuple=True)
        left = 4 + 3 * index  # the square is 12 pixels wide, its rows are 8 to 19
        assert (rows.min(), rows.max()) == (8, 19) or (rows.min(), rows.max()) == (7, 19)
        assert columns.min() in (left - 1, left) and columns.max() in (left + 11, left + 12)
        assert not picture[10:18, left + 2 : left + 10].any() and 36 <= picture.sum() <= 52


def test_a_mask_is_white_where_a_thing_is(truth):
    drawn = mask(truth)
    expected = torch.zeros(2, 3, 64, 64)
    expected[0, :, 10:20, 30:40] = expected[1, :, 40:50, 5:15] = 1
    assert torch.equal(drawn, expected)


def test_a_pose_tells_centre_size_which_way_is_up_and_which_ahead(truth):
    drawn = pose(truth)
    assert drawn.shape == (2, 3, 64, 64) and 0 <= drawn.min() and drawn.max() <= 1
    turned = pose(replace(truth, facing=-truth.facing))[0]
    assert [pixel(turned, *place) for place in ((32, 32), (32, 16), (16, 32))] == [CENTRE, HEAD, HAND]
    assert not turned[:, 32, 40:].any() and drawn[0][:, 32, 40:].any()  # no hand behind
    for picture, up, right in ((drawn[0], (32, 16), (48, 32)), (drawn[1], (48, 32), (32, 48))):
        assert [pixel(picture, *place) for place in ((32, 32), up, right)] == [CENTRE, HEAD, HAND]
        assert not picture[:, :8].any() and not picture[:, :, :8].any()


def test_every_kind_is_drawn_by_its_name(truth, tmp_path, monkeypatch):
    frames = (tiny.moving_square(2, size=64) + 1) / 2
    save_depth_model(tmp_path)
    monkeypatch.setattr(conditions, "openpose", lambda *given: given)
    models = {"depth": str(tmp_path), "openpose": "people"}
    expected = {"edges": edges(frames), "mask": mask(truth), "pose": pose(truth)}
    expected["depth"] = depth(frames, models["depth"])
    for kind, drawn in expected.items():
        assert torch.equal(condition(kind, frames, truth, models), drawn)
    assert condition("openpose", frames, truth, models) == (frames, "people")
    assert {*expected, "openpose"} == set(KINDS)
    for kind in ("edges", "depth"):  # from the frames alone
        assert torch.equal(condition(kind, frames, None, models), expected[kind])


def test_a_condition_that_cannot_be_drawn_is_refused_in_one_line(tmp_path):
    frames, known = torch.zeros(2, 3, 64, 64), r"use edges, depth, openpose, mask or pose .*\(edges are Canny's\)"
    refused(f"no control of kind canny: {known}", condition, "canny", frames, None, NONE)
    refused("a clip's truth", condition, "pose", frames, None, NONE)
    refused("a clip's truth", condition, "mask", frames, None, NONE)
    refused("cannot load models/no/depth .*give conditions.depth a folder", condition, "depth", frames, None, NONE)
    refused("cannot load", depth, frames, str(tmp_path))


# depth


def test_depth_is_white_at_the_nearest_point_of_the_whole_clip_and_black_at_the_farthest(tmp_path):
    model = save_depth_model(tmp_path)
    frames = (torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    frames[1:] *= torch.tensor([0.5, 0.1])[:, None, None, None]
    drawn = depth(frames, str(tmp_path))
    assert drawn.shape == frames.shape and drawn.min() == 0 and drawn.max() == 1
    assert torch.equal(drawn[:, 0], drawn[:, 1]) and torch.equal(drawn[:, 0], drawn[:, 2])
    pictures = (frames * 255).round().byte()
    resized = torch.nn.functional.interpolate(pictures.float(), (32, 32), mode="bilinear", antialias=True).round()
    with torch.no_grad():
        near = model(resized / 127.5 - 1).predicted_depth[:, None]
    near = torch.nn.functional.interpolate(near, (24, 40), mode="bicubic")
    expected = (near - near.min()) / (near.max() - near.min())
    torch.testing.assert_close(drawn[:, :1], expected, atol=0.02, rtol=0)
    spans = drawn.amax((1, 2, 3)) - drawn.amin((1, 2, 3))
    assert (spans < 0.999).any()  # no frame is stretched by itself


def test_a_clip_without_depth_is_black(tmp_path):
    model = save_depth_model(tmp_path)
    for parameter in model.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path)
    assert not depth(torch.rand(2, 3, 32, 32), str(tmp_path)).any()


def test_the_depth_model_is_loaded_once(tmp_path):
    save_depth_model(tmp_path)
    first = depth(torch.rand(1, 3, 32, 32), str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert depth(torch.rand(1, 3, 32, 32), str(tmp_path)).shape == first.shape


def test_a_depth_model_of_which_weights_are_missing_is_refused(tmp_path):
    save_depth_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith("head.")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    refused("6 weights are missing", depth, torch.rand(1, 3, 32, 32), str(tmp_path))


def test_no_code_that_comes_with_a_depth_model_is_run(tmp_path):
    save_depth_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"head.weight": Touches(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    refused("cannot load", depth, torch.rand(1, 3, 32, 32), str(tmp_path))
    (tmp_path / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    classes = {"AutoConfig": "own.Config", "AutoModelForDepthEstimation": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    refused("cannot load", depth, torch.rand(1, 3, 32, 32), str(tmp_path))
    assert not (tmp_path / "ran").exists()


# openpose


class Figure(torch.nn.Module):
    """In the network's place: one person, whose points are on the diagonal, the neck first and then in their order."""

    order = [1, 0, *range(2, 18)]

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        h, w = (side // 8 for side in pictures.shape[-2:])
        found = torch.zeros(1, 19, h, w)
        rows, columns = torch.arange(h)[:, None], torch.arange(w)[None]
        for place, part in enumerate(self.order):
            share = (place + 1) / 19
            y, x = share * h - 0.5, share * w - 0.5
            found[0, part] = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2)
        return torch.ones(1, 38, h, w), found  # every limb goes down and to the right


@pytest.fixture(scope="module")
def annotators(tmp_path_factory):
    """A folder as lllyasviel/Annotators, of the body's weights alone: zeros, which take no room."""
    model = pytest.importorskip("controlnet_aux.open_pose.model")
    with torch.device("meta"):
        layers = model.bodypose_model().state_dict()
    folder = tmp_path_factory.mktemp("annotators")
    weights = {key.split(".", 1)[1]: torch.zeros(1).expand(layer.shape) for key, layer in layers.items()}
    torch.save(weights, folder / "body_pose_model.pth")
    assert (folder / "body_pose_model.pth").stat().st_size < 1e6
    return str(folder)


def test_where_nobody_is_seen_the_pose_is_black(annotators):
    drawn = openpose(torch.rand(1, 3, 24, 40), annotators)
    assert drawn.shape == (1, 3, 24, 40) and not drawn.any()


def test_a_person_is_drawn_in_openposes_colours_at_the_clips_size(annotators, monkeypatch):
    detector = conditions._body_detector(annotators)
    monkeypatch.setattr(detector.body_estimation, "model", Figure())
    drawn = openpose(torch.rand(2, 3, 256, 320), annotators)
    assert drawn.shape == (2, 3, 256, 320) and 0 <= drawn.min() and drawn.max() <= 1
    assert torch.equal(drawn[0], drawn[1])
    colours = {1: (255, 85, 0), 0: (255, 0, 0), 4: (170, 255, 0), 15: (255, 0, 255)}
    for part, colour in colours.items():
        x, y = (round((Figure.order.index(part) + 1) / 19 * side) for side in (320, 256))
        near = drawn[0, :, y - 4 : y + 4, x - 4 : x + 4] * 255
        assert (near - torch.tensor(colour)[:, None, None]).abs().amax(0).min() <= 30, part
    rows, columns = torch.arange(256)[:, None] / 256, torch.arange(320)[None] / 320
    assert not drawn[:, :, (rows - columns).abs() > 0.06].any()


def test_weights_of_openpose_that_are_missing_or_more_than_weights_are_not_loaded(annotators, tmp_path):
    torch.save({"conv1_1.weight": Touches(tmp_path / "ran")}, tmp_path / "body_pose_model.pth")
    refused("holds more than weights", openpose, torch.rand(1, 3, 32, 32), str(tmp_path))
    torch.save({"conv1_1.weight": torch.zeros(1)}, tmp_path / "body_pose_model.pth")
    refused("cannot load", openpose, torch.rand(1, 3, 32, 32), str(tmp_path))
    nothing = torch.zeros(1, 3, 32, 32), NONE["openpose"]
    refused("cannot load models/no/openpose .*conditions.openpose", openpose, *nothing)
    (tmp_path / "body_pose_model.pth").write_bytes(b"<html>")
    refused("holds more than weights|cannot load", openpose, torch.rand(1, 3, 32, 32), str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_without_its_library_openpose_says_how_to_install_it(monkeypatch, tmp_path):
    for name in ("controlnet_aux", "controlnet_aux.open_pose"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(r'pip install "\.\[conditions\]"', openpose, torch.rand(1, 3, 32, 32), str(tmp_path))
