"""Clips of several things: edited as any clip is, and under the conditions that can be drawn of them."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from ruamel.yaml import YAML

from measures.tables import CAPTION
from studies.__main__ import main
from studies.objects import told
from studies.settings import load_params
from tav.clip import read_frames
from tests import tiny
from tests.tiny_truth import save_truth

RESULTS = Path("results/objects/pair")


@pytest.fixture
def project(workplace, set_params):
    """A run whose clip of several things is the workplace's clip, with a ControlNet that is still silent: it adds 0."""
    ControlNetModel.from_unet(tiny.unet(), conditioning_embedding_out_channels=(8, 16, 32)).save_pretrained("control")
    pair = load_params().clips["square"].model_dump()
    YAML(typ="safe").dump({"clips": {"pair": pair}}, Path("several.yaml"))
    set_params({"objects": "several.yaml", "control": {"edges": "control", "mask": "control"}})
    return workplace


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
    save_truth("square", [[0.25, 0.75]] * 6)
    assert main(["objects"]) == 0
    assert sorted(path.name for path in RESULTS.iterdir()) == ["edges", "edit", "mask", "source", "untuned"]


def test_a_run_without_such_clips_leaves_an_empty_result(workplace):
    assert main(["objects"]) == 0
    assert not list(Path("results/objects").iterdir())


def test_a_clips_caption_can_be_scored_as_an_edit(workplace):
    params = load_params()
    for name, entry in told(params).clips.items():
        assert entry.edits == params.clips[name].edits | {CAPTION: entry.caption}
