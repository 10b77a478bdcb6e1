"""Clips that are longer than the model, in windows of its frames."""

import pytest
import torch

from own.windows import WindowedPosterior, over_windows, weights, windows
from tav import load_pipeline, tune, tuned_parameters
from tav.errors import InputError
from tests import tiny

STEPS = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}


@pytest.fixture
def pipe(tiny_model):
    return quiet(load_pipeline(tiny_model, num_frames=4))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("frames", "window", "overlap"), [(4, 4, 0), (9, 4, 0), (9, 4, 2), (16, 8, 3), (128, 24, 6), (5, 4, 1)]
)
def test_every_frame_is_in_a_window_that_begins_with_the_clips_first_frame(frames, window, overlap):
    found = windows(frames, window, overlap)
    assert all(len(own) == window and own[0] == 0 and own[1:] == list(range(own[1], own[-1] + 1)) for own in found)
    assert set().union(*found) == set(range(frames))
    assert all(one[-1] - other[1] + 1 >= overlap for one, other in zip(found, found[1:], strict=False))
    shares = weights(frames, found)
    torch.testing.assert_close(shares.sum(0), torch.ones(frames))
    assert all(shares[number, frame] > 0 for number, own in enumerate(found) for frame in own[1:])


@pytest.mark.parametrize(("frames", "window", "overlap"), [(9, 4, 3), (9, 4, -1), (3, 4, 0), (9, 1, 0)])
def test_windows_that_do_not_move_on_or_are_longer_than_the_clip_are_refused(frames, window, overlap):
    with pytest.raises(InputError, match="window"):
        windows(frames, window, overlap)


def test_one_window_of_the_whole_clip_is_the_model_itself(pipe):
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = over_windows(pipe, 4, 0)
    torch.testing.assert_close(whole.invert(latents, 2), pipe.invert(latents, 2))
    torch.testing.assert_close(whole("a circle", latents, **STEPS).frames, pipe("a circle", latents, **STEPS).frames)


def test_where_windows_do_not_overlap_each_is_predicted_as_if_alone(pipe):
    longer, text = over_windows(pipe, 7, 0), torch.randn(7, 77, tiny.TEXT_WIDTH)
    latents = torch.randn(7, 4, 8, 8)
    with torch.no_grad():
        predicted = longer.unet(latents, torch.tensor(500), text).sample
        second = [0, 4, 5, 6]
        alone = pipe.unet(latents[second], torch.tensor(500), text[second]).sample
    torch.testing.assert_close(predicted[4:], alone[1:])


def test_where_windows_overlap_their_predictions_are_mixed(pipe):
    longer, text = over_windows(pipe, 6, 1), torch.randn(1, 77, tiny.TEXT_WIDTH).expand(6, -1, -1)
    latents = torch.randn(6, 4, 8, 8)
    with torch.no_grad():
        predicted = longer.unet(latents, torch.tensor(500), text).sample
        both = [pipe.unet(latents[own], torch.tensor(500), text[own]).sample for own in ([0, 1, 2, 3], [0, 3, 4, 5])]
    torch.testing.assert_close(predicted[3], (both[0][3] + both[1][1]) / 2)


def test_tuning_takes_the_windows_in_turn_and_a_long_clip_is_inverted_and_edited(pipe):
    longer = over_windows(pipe, 6, 1)
    clip = torch.rand(6, 3, 32, 32) * 2 - 1
    posterior = longer.encode_posterior(clip)
    in_turn = WindowedPosterior(posterior, longer.unet.windows)
    torch.testing.assert_close(in_turn.mode(), posterior.mean[[0, 1, 2, 3]])
    torch.testing.assert_close(in_turn.mode(), posterior.mean[[0, 3, 4, 5]])
    torch.testing.assert_close(in_turn.std, posterior.std[[0, 3, 4, 5]])

    before = {name: parameter.clone() for name, parameter in tuned_parameters(pipe.unet).items()}
    assert len(list(tune(pipe, WindowedPosterior(posterior, longer.unet.windows), "a square", steps=3))) == 3
    assert any((parameter != before[name]).any() for name, parameter in tuned_parameters(pipe.unet).items())
    noise = longer.invert(longer.encode_clip(clip), 2)
    frames = longer("a circle", noise, 2, guidance_scale=2.0, output_type="pt").frames
    assert noise.shape == (6, 4, 8, 8) and frames.shape == (1, 6, 3, 32, 32) and frames.isfinite().all()
