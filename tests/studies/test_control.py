"""Clips sampled under controls: whose condition is shown to whom, and what is drawn of it."""

from pathlib import Path

import pytest
import torch

from studies.control import control_clips
from studies.method import Method
from studies.models import load_model
from studies.settings import load_params
from tav import load_tuned
from tav.clip import read_frames
from tav.control import load_control, sample_controlled
from tav.errors import InputError
from tests.measures.test_conditions import save_depth_model
from tests.tav.test_control import FRAMES, make
from tests.tiny_truth import save_truth


@pytest.fixture
def tuned(workplace, set_params):
    """Two tuned clips, of which `known` has its truth beside it, and a control of each kind."""
    Path("known.mp4").write_bytes(Path("square.mp4").read_bytes())
    save_truth("known", [[(10 + 3 * index) / 32] for index in range(6)])
    params = load_params()
    clip = params.clips["square"].model_dump(mode="json")
    known = clip | {"source": clip["source"] | {"path": "known.mp4"}, "edits": {"place": "a square in the sea"}}
    for kind, role in (("edges", "controlnet"), ("mask", "controlnet"), ("pose", "adapter")):
        make(role).save_pretrained(Path("models") / kind)
    set_params({"clips": {"square": clip, "known": known}})
    set_params({"control": {kind: f"models/{kind}" for kind in ("edges", "mask", "pose")}})
    return load_params()


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_clips_are_sampled_under_their_own_and_the_next_clips_conditions(tuned):
    control_clips(tuned)
    folders = {str(path.parent) for path in files("results/control")}
    own = {f"{kind}/own/known/place" for kind in tuned.control} | {"edges/own/square/object", "edges/own/square/place"}
    other = {"edges/other/known/place"} | {f"{kind}/other/square/object" for kind in tuned.control}
    without = {"none/other/known/place", "none/other/square/object"}
    drawn = {f"{kind}/condition/known" for kind in tuned.control} | {"edges/condition/square"}
    assert folders == own | other | without | drawn
    first, pieces = files("results/control"), set(files(".pieces"))
    assert len(first) == FRAMES * len(folders)
    control_clips(tuned)
    assert files("results/control") == first and set(files(".pieces")) == pieces

    pipe = load_model(tuned)
    pipe.set_progress_bar_config(disable=True)
    load_tuned(pipe, Method(tuned).weights(tuned.clips["square"]).folder / "tuned.safetensors")
    random = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(tuned.tune.seed))
    settings = {"guidance_scale": tuned.edit.guidance_scale, "negative_prompt": tuned.edit.negative_prompt}
    task = tuned.clips["square"].edits["object"], random, tuned.edit.steps
    shown = read_frames("results/control/pose/condition/known")
    led = sample_controlled(pipe, load_control("models/pose", pipe), shown, *task, **settings)
    free = pipe(*task, output_type="pt", **settings).frames[0]
    for kind, expected in (("pose", led), ("none", free)):
        written = read_frames(f"results/control/{kind}/other/square/object")
        torch.testing.assert_close(written, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert not torch.allclose(led, free, atol=1e-2)


def test_the_last_clip_is_followed_by_the_first(tuned):
    assert tuned.next_clip("square") == "known" and tuned.next_clip("known") == "square"


def test_what_is_drawn_from_frames_needs_no_truth(tuned, set_params):
    save_depth_model(Path("models/dpt"))
    make("adapter", in_channels=1).save_pretrained("models/canny")
    set_params({"control": {"depth": "models/edges", "edges": "models/canny", "mask": "models/mask"}})
    set_params({"conditions.depth": "models/dpt", "clips": {"square": tuned.clips["square"].model_dump(mode="json")}})
    control_clips(load_params())
    folders = {str(path.parent) for path in files("results/control")}
    drawn = {f"{kind}/{rest}" for kind in ("depth", "edges") for rest in ("own/square/object", "own/square/place")}
    assert folders == drawn | {"depth/condition/square", "edges/condition/square"}
    assert read_frames("results/control/depth/condition/square").max() == 1


def test_in_wide_frames_no_truth_is_known(tuned, set_params):
    set_params({"clip.size": [16, 32], "clips.known.edits": {"place": "a square in the sea"}})
    control_clips(load_params())
    folders = {str(path.parent) for path in files("results/control")}
    assert {folder.split("/")[0] for folder in folders} == {"edges", "none"} and "edges/own/known/place" in folders
    assert read_frames("results/control/edges/own/known/place").shape == (FRAMES, 3, 16, 32)


def test_an_unknown_kind_is_refused_before_anything_is_drawn(tuned, set_params):
    set_params({"control": {"canny": "models/edges"}})
    with pytest.raises(InputError, match="no control of kind canny: use edges, depth, openpose, mask or pose"):
        control_clips(load_params())
    assert not Path(".pieces").exists() and not Path("results/control").exists()


def test_without_a_control_nothing_is_drawn(tuned, set_params):
    set_params({"control": {}})
    control_clips(load_params())
    assert not list(Path("results/control").iterdir())
