"""Encoding, inversion, sampling, and stock diffusers pipelines on the same components."""

from contextlib import contextmanager

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    T2IAdapter,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from tav import load_pipeline, tune
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


def test_forward_diffusion_in_place_of_the_first_steps_is_of_one_noise_and_leaves_the_rest_to_inversion(pipe):
    still = pipe.encode_clip(tiny.moving_square(FRAMES)[:1].expand(FRAMES, -1, -1, -1))
    taken = []
    hook = pipe.unet.register_forward_pre_hook(lambda unet, args: taken.append(args[:2]))

    def invert(seed, diffused_steps):
        generator = torch.Generator().manual_seed(seed)
        return pipe.invert(still, 5, diffused_steps=diffused_steps, generator=generator)

    first, other, whole = invert(1, 2), invert(2, 2), invert(1, 0)
    hook.remove()
    assert torch.equal(first, invert(1, 2)) and not torch.equal(first, other)
    assert torch.allclose(first, first[:1].expand_as(first), atol=1e-4) and not torch.equal(first, whole)
    assert len(taken) == 3 + 3 + 5 and torch.equal(taken[0][1], taken[6 + 2][1])
    signal = pipe.scheduler.alphas_cumprod[taken[7][1]]  # of the last step that was diffused
    noise = torch.randn(still[:1].shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(taken[0][0], signal.sqrt() * still + (1 - signal).sqrt() * noise, atol=1e-5)


@contextmanager
def sampled_by(pipe, scheduler):
    """The pipeline with another scheduler, for a while."""
    before, pipe.scheduler = pipe.scheduler, scheduler
    try:
        yield pipe
    finally:
        pipe.scheduler = before


@pytest.fixture
def velocities(pipe):
    with sampled_by(pipe, DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")):
        yield pipe


def test_a_velocity_is_the_noise_that_it_amounts_to_at_the_time_the_model_was_asked_about(
    velocities, noise, monkeypatch
):
    found = velocities.invert(noise / 2, 5)
    ask, signals = velocities.unet.forward, velocities.scheduler.alphas_cumprod

    def as_noise(latents, timestep, text):
        signal = signals[timestep]
        return UNet2DConditionOutput(
            signal.sqrt() * ask(latents, timestep, text).sample + (1 - signal).sqrt() * latents
        )

    monkeypatch.setattr(velocities.unet, "forward", as_noise)
    velocities.scheduler = DDIMScheduler.from_config(velocities.scheduler.config, prediction_type="epsilon")
    torch.testing.assert_close(found, velocities.invert(noise / 2, 5))


def test_velocities_that_a_clip_is_worth_bring_it_back_more_closely_than_the_stock_inverse(velocities, monkeypatch):
    """For Gaussian latents of a known deviation the velocity to be expected is known."""
    spread, signals = 3.0, velocities.scheduler.alphas_cumprod
    latents = spread * torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(8))

    def expected(sample, timestep, *_, **__):
        signal = signals[timestep]
        share = (signal * (1 - signal)).sqrt() * (1 - spread**2) / (signal * spread**2 + 1 - signal)
        return UNet2DConditionOutput(share * sample)

    def back(stock=False):
        settings = {"num_inference_steps": 25, "guidance_scale": 1.0, "output_type": "latent"}
        return velocities("", latents=velocities.invert(latents, 25, stock=stock), **settings).frames[0]

    monkeypatch.setattr(velocities.unet, "forward", expected)
    error = (back() - latents).std() / spread
    assert error < 0.5 * (back(stock=True) - latents).std() / spread


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


def batches(pipe):
    """How many frames the UNet is given at each step of sampling, from now on."""
    sizes = []
    handle = pipe.unet.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    return sizes, handle


@pytest.mark.parametrize(
    ("interval", "guided"),
    [((0, 1), [1, 1, 1, 1]), ((0, 0.5), [1, 1, 0, 0]), ((0.25, 0.75), [0, 1, 1, 0]), ((0.5, 1), [0, 0, 1, 1])],
)
def test_guidance_outside_of_its_interval_is_not_computed(pipe, noise, interval, guided):
    sizes, handle = batches(pipe)
    pipe("an", noise, 4, guidance_scale=5.0, output_type="latent", guidance_interval=interval)
    handle.remove()
    assert sizes == [FRAMES * (2 if on else 1) for on in guided]


def test_a_guided_interval_is_guidance_within_it_and_none_outside(pipe, noise):
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent"}
    sampled = pipe("an", noise, guidance_interval=(0.25, 0.75), **settings).frames[0]

    text, empty = (x.expand(FRAMES, -1, -1) for x in pipe.embed(["an"], [""]))
    latents = noise
    pipe.scheduler.set_timesteps(4)
    with torch.no_grad():
        for step, timestep in enumerate(pipe.scheduler.timesteps):
            predicted = pipe.unet(latents, timestep, text).sample
            if step in (1, 2):
                without = pipe.unet(latents, timestep, empty).sample
                predicted = without + 5.0 * (predicted - without)
            latents = pipe.scheduler.step(predicted, timestep, latents).prev_sample
    assert torch.allclose(sampled, latents, atol=1e-4)


def test_an_interval_without_a_step_is_no_guidance(pipe, noise):
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    none = pipe("an", noise, guidance_scale=5.0, guidance_interval=(0.6, 0.9), **settings).frames
    assert torch.allclose(none, pipe("an", noise, guidance_scale=1.0, **settings).frames, atol=1e-6)


@pytest.fixture
def multistep(pipe):
    linspace = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    with sampled_by(pipe, linspace):
        yield pipe


def test_a_multistep_solver_inverts_and_samples_back(multistep, noise):
    latents = noise / 2
    inverted = multistep.invert(latents, num_inference_steps=200)  # a random model's path is no smooth one
    back = multistep("", inverted, 200, guidance_scale=1.0, output_type="latent").frames[0]
    assert (back - latents).abs().mean() < 0.3 * (inverted - latents).abs().mean()


def test_a_scheduler_without_an_inverse_is_refused(pipe, noise):
    refused = pytest.raises(InputError, match="no inverse of EulerDiscreteScheduler")
    with sampled_by(pipe, EulerDiscreteScheduler.from_config(pipe.scheduler.config)), refused:
        pipe.invert(noise, 2)


def test_compiled_blocks_sample_and_tune_alike(tmp_path, noise):
    settings = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent"}
    found = []
    for compiled in (False, True):
        model = load_pipeline(tiny.save_model(tmp_path / str(compiled)), num_frames=FRAMES)
        model.set_progress_bar_config(disable=True)
        if compiled:
            model.unet.compile_repeated_blocks(backend="eager")  # which traces, and compiles nothing
        losses = [loss for _, loss in tune(model, tiny.moving_square(FRAMES), "an", steps=2, learning_rate=1e-3)]
        found.append((torch.tensor(losses), model("an", noise, **settings).frames))
    for plain, compiled in zip(*found, strict=True):
        assert torch.allclose(plain, compiled, atol=1e-5)
