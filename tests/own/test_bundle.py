"""Weights that travel: a folder that loads in a line, and what was tuned at a scale or of two clips."""

import json

import pytest
import torch

from own.bundle import load_bundle, save_bundle
from tav import load_pipeline, save_tuned, tune, tuned_parameters
from tav.checkpoint import merge_tuned
from tav.errors import InputError, NumericalError
from tests import tiny

FRAMES = 3


def tuned(model, clip, **inflation):
    pipe = load_pipeline(model, num_frames=FRAMES, **inflation)
    pipe.set_progress_bar_config(disable=True)
    list(tune(pipe, clip, "a square", steps=2, learning_rate=1e-2))
    return pipe


def weights(pipe):
    return {name: parameter.detach().clone() for name, parameter in tuned_parameters(pipe.unet).items()}


@pytest.fixture
def clip():
    return tiny.moving_square(FRAMES)


def test_a_folder_samples_as_the_pipeline_that_was_saved(tiny_model, tmp_path, clip):
    pipe = tuned(tiny_model, clip, attention="first")
    noise = pipe.invert(pipe.encode_clip(clip), 2)
    settings = {"model": str(tiny_model), "caption": "a square", "inflate": {"attention": "first"}, "steps": 2}
    save_bundle(tmp_path / "square", pipe, noise, **settings)
    again, start, known = load_bundle(tmp_path / "square")
    assert known == settings | {"num_frames": FRAMES} and torch.equal(start, noise)
    sampled = [p("a circle", noise, 2, output_type="latent").frames for p in (pipe, again)]
    assert torch.equal(*sampled)
    card = (tmp_path / "square/README.md").read_text()
    assert f"base_model: {tiny_model}" in card and "a square" in card


def test_half_a_scale_is_half_of_what_was_learnt(tiny_model, tmp_path, clip):
    pipe = tuned(tiny_model, clip)
    save_bundle(tmp_path / "square", pipe, torch.zeros(FRAMES, 4, 8, 8), str(tiny_model), "a square")
    before, after = weights(load_pipeline(tiny_model, num_frames=FRAMES)), weights(pipe)
    for scale in (0.0, 0.5, 2.0):
        for name, parameter in weights(load_bundle(tmp_path / "square", scale)[0]).items():
            assert torch.allclose(parameter, before[name] + scale * (after[name] - before[name]), atol=1e-6), name


def test_of_two_clips_each_adds_its_own(tiny_model, tmp_path, clip):
    pipes = [tuned(tiny_model, clip), tuned(tiny_model, clip.flip(0))]
    for number, pipe in enumerate(pipes):
        save_tuned(pipe, tmp_path / f"{number}.safetensors")
    merged = load_pipeline(tiny_model, num_frames=FRAMES)
    before = weights(merged)
    merge_tuned(merged, {tmp_path / "0.safetensors": 0.5, tmp_path / "1.safetensors": 0.25})
    first, second = map(weights, pipes)
    for name, parameter in weights(merged).items():
        wanted = before[name] + 0.5 * (first[name] - before[name]) + 0.25 * (second[name] - before[name])
        assert torch.allclose(parameter, wanted, atol=1e-6), name


def test_a_folder_that_is_none_or_of_another_model_is_refused_and_nothing_broken_is_written(tiny_model, tmp_path, clip):
    with pytest.raises(InputError, match="give a folder that save_bundle wrote"):
        load_bundle(tmp_path / "none")
    pipe = load_pipeline(tiny_model, num_frames=FRAMES)
    save_bundle(tmp_path / "square", pipe, torch.zeros(1), str(tiny_model), "a square")
    settings = json.loads((tmp_path / "square/settings.json").read_text())
    (tmp_path / "square/settings.json").write_text(json.dumps(settings | {"inflate": {"temporal": False}}))
    with pytest.raises(InputError, match="tuned on another model or inflation"):
        load_bundle(tmp_path / "square")
    with pytest.raises(NumericalError):
        save_bundle(tmp_path / "broken", pipe, torch.full((1,), torch.nan), str(tiny_model), "a square")
    assert not (tmp_path / "broken").exists()
