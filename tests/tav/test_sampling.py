"""Encoding, inversion, sampling, and stock diffusers pipelines on the same components."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    T2IAdapter,
)

from tav import load_pipeline
from tav.errors import InputError
from tests import tiny

FRAMES = 4


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    pipe = load_pipeline(tiny.save_model(tmp_path_factory.mktemp("model")), num_frames=FRAMES)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def noise():
    return torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def test_a_clip_is_encoded_frame_by_frame_to_scaled_latents(pipe):
    clip = tiny.moving_square(FRAMES)
    latents = pipe.encode_clip(clip)
    with torch.no_grad():
        alone = pipe.vae.encode(clip[2:3]).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert torch.allclose(latents[2:3], alone, atol=1e-6)


def test_decoding_stays_within_zero_and_one(pipe, noise):
    frames = pipe.decode_clip(noise * 10)
    assert frames.shape == (FRAMES, 3, 32, 32)
    assert 0 <= frames.min() <= frames.max() <= 1


def test_every_output_type_has_its_documented_shape(pipe, noise):
    def frames(kind):
        return pipe(["a", "b"], latents=noise, num_inference_steps=2, output_type=kind).frames

    assert frames("pt").shape == (2, FRAMES, 3, 32, 32)
    assert frames("np").shape == (2, FRAMES, 32, 32, 3)
    assert frames("latent").shape == (2, FRAMES, 4, 8, 8)
    assert [len(clip) for clip in frames("pil")] == [FRAMES, FRAMES]
    assert frames("pil")[0][0].size == (32, 32)


def test_two_prompts_at_once_are_two_prompts_in_turn(pipe, noise):
    settings = {"latents": noise, "num_inference_steps": 3, "output_type": "latent", "negative_prompt": "the"}
    both = pipe(["an and", "in the"], **settings).frames
    alone = torch.cat([pipe(prompt, **settings).frames for prompt in ("an and", "in the")])
    assert torch.allclose(both, alone, atol=1e-4)


def test_without_latents_a_seed_draws_the_noise(pipe):
    settings = {"num_inference_steps": 2, "output_type": "pt"}
    first, again, other = (
        pipe("a", generator=torch.Generator().manual_seed(seed), **settings).frames for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inversion_comes_back_more_closely_with_more_steps(pipe):
    latents = pipe.encode_clip(tiny.moving_square(FRAMES))
    latents = latents / latents.std()

    def error(steps):
        noise = pipe.invert(latents, num_inference_steps=steps)
        back = pipe("", latents=noise, num_inference_steps=steps, guidance_scale=1.0, output_type="latent").frames[0]
        return (back - latents).pow(2).mean()

    assert error(50) < 0.5 * error(5)


def test_guidance_of_one_ignores_the_negative_prompt(pipe, noise):
    settings = {"latents": noise, "num_inference_steps": 2, "output_type": "latent", "guidance_scale": 1.0}
    assert torch.equal(pipe("a", negative_prompt="b", **settings).frames, pipe("a", **settings).frames)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (tiny.moving_square(3), "the clip has 3 frames and the model 4: set num_frames alike"),
        (tiny.moving_square(FRAMES, 30), "size 30x30 is no multiple of the VAE's factor 4: use 32x32"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_in_one_line(pipe, clip, message):
    with pytest.raises(InputError) as error:
        pipe.encode_clip(clip)
    assert str(error.value) == message


def test_latents_of_another_length_are_refused(pipe, noise):
    with pytest.raises(InputError, match="3 frames do not fit"):
        pipe("a", latents=noise[:3])


def test_words_beyond_the_text_encoder_are_cut_with_a_warning(pipe, noise):
    with pytest.warns(UserWarning, match="reads 77 tokens, so this is cut: .*zebra"):
        pipe("and " * 80 + "zebra", latents=noise, num_inference_steps=1, output_type="latent")


def test_a_stock_controlnet_pipeline_works_on_the_components(pipe, noise):
    controlnet = ControlNetModel.from_unet(tiny.unet(), conditioning_embedding_out_channels=(8, 16, 32))
    torch.manual_seed(0)
    for parameter in controlnet.parameters():
        if not parameter.any():  # a new ControlNet is the identity: wake what it starts as zero
            torch.nn.init.normal_(parameter, std=0.1)
    stock = StableDiffusionControlNetPipeline(**pipe.components, controlnet=controlnet, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)

    def sample(condition):
        condition = torch.full((FRAMES, 3, 32, 32), condition)
        return stock(["a"] * FRAMES, image=condition, latents=noise, num_inference_steps=2, output_type="latent").images

    assert sample(1.0).shape == (FRAMES, 4, 8, 8)
    assert not torch.allclose(sample(1.0), sample(0.0))


def test_a_stock_adapter_pipeline_works_on_the_components(pipe, noise):
    torch.manual_seed(0)
    adapter = T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter")
    stock = StableDiffusionAdapterPipeline(**pipe.components, adapter=adapter, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    condition = torch.rand(FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = {"image": condition, "latents": noise, "num_inference_steps": 2, "output_type": "latent"}
    with_condition = stock(["a"] * FRAMES, **settings).images
    without = stock(["a"] * FRAMES, **settings, adapter_conditioning_scale=0.0).images
    assert with_condition.shape == (FRAMES, 4, 8, 8)
    assert not torch.allclose(with_condition, without)


def test_a_stock_image_to_image_pipeline_works_on_the_components(pipe):
    stock = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    clip = (tiny.moving_square(FRAMES) + 1) / 2
    images = stock(["a"] * FRAMES, image=clip, strength=0.5, num_inference_steps=4, output_type="pt").images
    assert images.shape == (FRAMES, 3, 32, 32)
