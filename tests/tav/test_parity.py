"""The method equals the released implementation, number for number, in float32.

tests/data/released-sd1 holds a tiny random checkpoint in the released layout, and what the released code
computed with it, on a CPU. PARITY_DEVICE=cuda asks it of a GPU, whose kernels add in another order.
"""

import os
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors import safe_open

from tav import load_pipeline, tune, tuned_parameters

RELEASED = Path(__file__).parents[1] / "data" / "released-sd1"
TRAINING = {"learning_rate": 1e-3, "steps": 4}
DEVICE = os.environ.get("PARITY_DEVICE", "cpu")
ALIKE = 1e-5 if DEVICE == "cpu" else 1e-4


@pytest.fixture(scope="module")
def expected():
    with safe_open(RELEASED / "expected.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()} | file.metadata()  # noqa: SIM118


@pytest.fixture
def pipe(expected):
    pipe = load_pipeline(RELEASED / "checkpoint", num_frames=6)
    pipe.set_progress_bar_config(disable=True)
    torch.backends.cudnn.allow_tf32 = False
    return pipe.to(DEVICE)


def frames_first(x):
    return rearrange(x, "1 c f h w -> f c h w")


def difference(ours, theirs):
    """Largest difference, relative to the larger of 1 and the reference's scale."""
    return (ours.cpu() - theirs).abs().max().item() / max(1, theirs.abs().max().item())


def predict(pipe, expected):
    latents = frames_first(expected["latents"]).to(DEVICE)
    with torch.no_grad():
        text = expected["text_embeddings"][1:].expand(len(latents), -1, -1).to(DEVICE)
        return pipe.unet(latents, expected["timestep"].to(DEVICE), text).sample


def draws(expected):
    for noise, timestep in zip(expected["train_noise"], expected["train_timesteps"], strict=True):
        yield None, frames_first(noise), timestep


def set_unit_scale(pipe, expected):
    """The reference divides its latents by their own deviation, which is a scaling factor of the VAE."""
    mean = pipe.encode_posterior(expected["clip"]).mode()
    pipe.vae.register_to_config(scaling_factor=(1 / mean.std()).item())


def test_the_text_encoder_reads_prompts_as_released(pipe, expected):
    text, empty = pipe.embed([expected["edit"]], [""])
    assert difference(torch.cat([empty, text]), expected["text_embeddings"]) <= ALIKE


def test_the_unet_predicts_as_released(pipe, expected):
    assert difference(predict(pipe, expected), frames_first(expected["unet_out"])) <= ALIKE


def test_a_clip_is_encoded_as_released(pipe, expected):
    set_unit_scale(pipe, expected)
    assert difference(pipe.encode_clip(expected["clip"]), frames_first(expected["video_latents"])) <= ALIKE


def test_inversion_is_as_released(pipe, expected):
    noise = pipe.invert(frames_first(expected["video_latents"]), num_inference_steps=10)
    assert difference(noise, frames_first(expected["inverted"])) <= ALIKE


def test_sampling_with_guidance_is_as_released(pipe, expected):
    settings = {"latents": frames_first(expected["inverted"]), "num_inference_steps": 10, "guidance_scale": 12.5}
    latents = pipe(expected["edit"], output_type="latent", **settings).frames[0]
    assert difference(latents, frames_first(expected["sampled_latents"])) <= ALIKE
    video = pipe(expected["edit"], output_type="pt", **settings).frames[0]
    assert difference(video, frames_first(expected["sampled_video"])) <= ALIKE


def test_four_tuning_steps_are_as_released(pipe, expected):
    set_unit_scale(pipe, expected)
    before = {name: p.detach().clone() for name, p in tuned_parameters(pipe.unet).items()}
    losses = [loss for _, loss in tune(pipe, expected["clip"], expected["prompt"], draws=draws(expected), **TRAINING)]
    assert difference(torch.tensor(losses), expected["train_losses"]) <= ALIKE
    assert difference(predict(pipe, expected), frames_first(expected["tuned_unet_out"])) <= ALIKE
    moved = {name: p for name, p in tuned_parameters(pipe.unet).items() if not torch.equal(p, before[name])}
    assert moved.keys() == {name.removeprefix("tuned/") for name in expected if name.startswith("tuned/")}
    for name, parameter in moved.items():
        assert difference(parameter, expected[f"tuned/{name}"]) <= 5 * ALIKE, name


def test_leaving_the_down_blocks_untuned_is_the_released_checkpointing(pipe, expected):
    set_unit_scale(pipe, expected)
    before = {name: p.detach().clone() for name, p in tuned_parameters(pipe.unet).items()}
    steps = tune(pipe, expected["clip"], expected["prompt"], draws=draws(expected), tune_down_blocks=False, **TRAINING)
    assert difference(torch.tensor([loss for _, loss in steps]), expected["ckpt_train_losses"]) <= ALIKE
    moved = [name for name, p in tuned_parameters(pipe.unet).items() if not torch.equal(p, before[name])]
    assert len(moved) == expected["ckpt_moved_count"]
    assert difference(predict(pipe, expected), frames_first(expected["ckpt_tuned_unet_out"])) <= ALIKE
