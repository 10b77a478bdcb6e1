"""Clips of several things: edited as any clip is, and under the conditions that can be drawn of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from ruamel.yaml import YAML

from measures.clips import Source
from measures.judge import Judge
from measures.truth import count_error, crowd
from studies.__main__ import main
from studies.settings import load_params
from tav.clip import read_clip, read_frames
from tests import tiny

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/objects/pair")


@pytest.fixture
def project(workplace, set_params):
    """A run whose clip of several things is the workplace's clip, with a ControlNet that is still silent: it adds 0."""
    ControlNetModel.from_unet(tiny.unet(), conditioning_embedding_out_channels=(8, 16, 32)).save_pretrained("control")
    pair = load_params().clips["square"].model_dump()
    YAML(typ="safe").dump({"clips": {"pair": pair}}, Path("several.yaml"))
    set_params({"objects": "several.yaml", "control": {"edges": "control", "mask": "control"}})
    return workplace


def save_truth(things, tile=32):
    """The truth beside pair.mp4: per frame the centres x of its things, squares of a fourth of the side."""
    sheet, side = np.zeros((len(things[0]), tile, len(things), tile), np.uint8), tile // 4
    for f, centres in enumerate(things):
        for k, x in enumerate(centres):
            columns = slice(round(x * tile) - side // 2, round(x * tile) + side // 2)
            sheet[:, 8 : 8 + side, f, columns] = 0
            sheet[k, 8 : 8 + side, f, columns] = 255
    Image.fromarray(sheet.reshape(-1, len(things) * tile)).save("pair.masks.png")
    frames = [[[x, 0.375, 0.25, 0.0] for x in centres] for centres in things]
    names = {"object": "fox", "style": "3d", "place": "snow", "count": len(things[0])}
    Path("pair.json").write_text(json.dumps(names | {"frames": frames}))
    return Source(path="pair.mp4", start=0, stride=1)


def test_a_clip_is_edited_here_as_by_the_stages_of_a_clip(project):
    for verb in ("tune", "invert", "edit", "objects"):
        assert main([verb]) == 0
    assert torch.equal(read_frames(RESULTS / "source"), read_frames("results/tune/square/source"))
    for edit in ("object", "place"):
        assert torch.equal(read_frames(RESULTS / "edit" / edit), read_frames(f"results/edit/square/{edit}"))
        assert not torch.equal(read_frames(RESULTS / "untuned" / edit), read_frames(RESULTS / "edit" / edit))
    assert len(list(Path(".pieces/weights").iterdir())) == 2  # those of no tuning, and others that both share


@pytest.mark.parametrize("noise", ["inverted", "random"])
def test_a_condition_that_adds_nothing_gives_the_edits_without_one(project, set_params, noise):
    set_params({"edit.noise": noise})
    assert main(["objects"]) == 0
    for edit in ("object", "place"):
        with_control, without = read_frames(RESULTS / "edges" / edit), read_frames(RESULTS / "edit" / edit)
        assert (with_control - without).abs().max() < 0.02


def test_only_edges_can_be_drawn_of_a_clip_without_truth(project):
    assert main(["objects"]) == 0
    assert sorted(path.name for path in RESULTS.iterdir()) == ["edges", "edit", "source", "untuned"]


def test_with_truth_a_clip_has_every_kind(project, set_params):
    save_truth([[0.25, 0.75]] * 6)
    for end in (".json", ".masks.png"):
        Path(f"pair{end}").rename(f"square{end}")
    assert main(["objects"]) == 0
    assert sorted(path.name for path in RESULTS.iterdir()) == ["edges", "edit", "mask", "source", "untuned"]


def test_a_run_without_such_clips_leaves_an_empty_result(workplace):
    assert main(["objects"]) == 0
    assert not list(Path("results/objects").iterdir())


def test_things_are_hidden_by_what_passes_over_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert crowd(Source(path="pair.mp4", start=0, stride=1)) == {}
    assert crowd(save_truth([[0.25, 0.75], [0.75, 0.25]])) == {"things": 2, "hidden": 0}
    # of two frames the second hides half of one of two things: an eighth of all
    assert crowd(save_truth([[0.25, 0.75], [0.5, 0.625]])) == {"things": 2, "hidden": pytest.approx(1 / 8)}
    assert crowd(save_truth([[0.25, 0.5, 0.75], [0.5, 0.5, 0.5]])) == {"things": 3, "hidden": pytest.approx(2 / 6)}


def test_the_miniature_clips_cross_or_stay_apart_as_their_list_says():
    for name, facts in YAML(typ="safe").load(ROOT / "data/objects.yaml")["about"].items():
        found = crowd(Source(path=str(ROOT / f"data/clips/{name}.mp4"), start=0, stride=2))
        assert found["things"] == facts["count"]
        assert (found["hidden"] > 0.1) if facts["overlap"] == "crossing" else (found["hidden"] < 0.02)


def test_the_count_is_wrong_by_the_things_too_many_or_too_few():
    judge, clip = Judge.load(ROOT / "models/miniature/judge", "cpu"), ROOT / "data/clips/two-penguins-running.mp4"
    frames = (read_clip(clip, 8, 64) + 1) / 2
    assert count_error(judge, frames, "a line drawing of two penguins in the snow") == 0
    assert count_error(judge, frames, "a line drawing of a penguin in the snow") == 1
    assert math.isnan(count_error(judge, frames, "two strangers somewhere"))
    assert math.isnan(count_error(None, frames, "a line drawing of two penguins in the snow"))
