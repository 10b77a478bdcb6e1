import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, MotionAdapter
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from miniature import fit as loop
from miniature import video
from miniature.scenes import Renderer, names, parse
from miniature.unet import scheduler
from tests.miniature.test_control import CPU, tiny_models, tiny_unet

SETTINGS = dict(pictures=48, batch=16, learning_rate=1e-3, warmup=2, average=0.9, seed=5, save_every=1, pool=4,
                empty=0.1)  # fmt: skip


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "LAYOUTS", range(4000, 4002))
    monkeypatch.setattr(loop, "STATE", tmp_path / "state")
    return tiny_models(tmp_path / "models")


def noisy_clips():
    torch.manual_seed(1)
    return torch.randn(2, 8, 8, 16, 16), torch.tensor([20, 800]), torch.randn(2, 32, 16)


def test_new_motion_modules_leave_every_frame_an_image_of_its_own():
    unet = tiny_unet()
    latents, times, text = noisy_clips()
    with torch.no_grad():
        moving = video.inflate(unet, video.build(unet))(latents, times, text.repeat_interleave(8, 0)).sample
        frames = latents.transpose(1, 2).flatten(0, 1)
        still = unet(frames, times.repeat_interleave(8), text.repeat_interleave(8, 0)).sample
    torch.testing.assert_close(moving.transpose(1, 2).flatten(0, 1), still, atol=1e-5, rtol=1e-5)


def test_training_fits_a_batch_through_the_adapters_own_modules_alone():
    unet = tiny_unet()
    adapter = video.build(unet)
    model = video.inflate(unet, adapter)
    latents, times, text = noisy_clips()
    target = latents.mean(2, keepdim=True).expand_as(latents)  # what no frame knows by itself
    optimizer, losses = torch.optim.AdamW(adapter.parameters(), lr=1e-2), []
    for _ in range(15):
        value = mse_loss(model(latents, times, text.repeat_interleave(8, 0)).sample, target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in adapter.named_parameters()}


def test_interrupted_training_publishes_the_same_bytes(models):
    published = []
    for limits in ([float("inf")], [-1.0, float("inf")]):
        for limit in limits:
            video.train(SETTINGS, models, CPU, limit)
        published.append((models / video.FOLDER / "diffusion_pytorch_model.safetensors").read_bytes())
        for path in loop.STATE.glob("*.pt"):
            path.unlink()
    assert published[0] == published[1]


def test_the_published_folder_is_a_motion_adapter_that_the_stock_pipeline_samples_with(models):
    video.train({**SETTINGS, "pictures": 16}, models, CPU)
    weights = load_file(models / video.FOLDER / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    prompts = ["a cartoon of a dog jumping in the snow", "a 3d render of a car turning on the road"]
    frames = video.sample(models, prompts, num_frames=8, steps=2, seed=3)
    assert frames.shape == (2, 8, 3, 64, 64) and 0 <= frames.min() and frames.max() <= 1
    adapter = MotionAdapter.from_pretrained(models / video.FOLDER, torch_dtype=torch.float32)
    pipe = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    alone = pipe(prompts[1], num_frames=8, height=64, width=64, num_inference_steps=2, guidance_scale=video.GUIDANCE,
                 generator=torch.Generator().manual_seed(4), output_type="pt").frames  # fmt: skip
    torch.testing.assert_close(frames[1:], alone, atol=1e-4, rtol=0)


def test_sampling_removes_noise_as_training_added_it(models):
    video.build(tiny_unet()).save_pretrained(models / video.FOLDER)
    adapter = MotionAdapter.from_pretrained(models / video.FOLDER)
    sampling, training = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter).scheduler, scheduler()
    assert type(sampling) is type(training) and sampling.config.prediction_type == "v_prediction"
    assert torch.equal(sampling.alphas_cumprod, training.alphas_cumprod)


def test_latents_are_those_of_clips_in_their_order(models):
    data = video.load(4, models, CPU)
    scenes = video.training_clips(np.random.default_rng([video.SEED, 7, 0]), 32)
    grainy = Renderer("cpu", video.LAYOUTS)(scenes, torch.Generator().manual_seed(video.SEED)).pictures
    coder = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        latents = coder.encode(grainy * 2 - 1).latent_dist.mode() * coder.config.scaling_factor
    assert data.parts[0].shape == (4, 8, 8, 16, 16) and len(data.row) == 4
    torch.testing.assert_close(data.parts[0].flatten(0, 1).float(), latents, atol=0.05, rtol=0.05)


def test_training_clips_show_training_objects_in_places_of_their_own_and_say_no_more_than_their_motion():
    scenes = video.training_clips(np.random.default_rng(2), 160)
    assert len(scenes) == 160 and np.isin(scenes.layout, video.LAYOUTS).all()
    for start in range(0, 160, 8):
        clip = scenes[start : start + 8]
        (caption,) = set(clip.captions())
        said = parse(caption)
        assert said["motion"] and all(thing.object in names(seen=True) for thing in said["things"])
        assert not any(thing.colour or thing.wears for thing in said["things"])
        assert len({*map(bytes, clip.pose)}) > 4 or len({*map(bytes, clip.phase)}) > 4


class Knowing:
    """A judge that sees one dog running through every clip of eight frames."""

    def read(self, frames):
        self.count = len(frames)
        self.names = {"object": ["dog"] * self.count}
        x = torch.linspace(0.2, 0.8, 8).repeat(self.count // 8)
        self.things = torch.stack([x, 0 * x + 0.5, 0 * x + 0.5, 0 * x, 0 * x, 0 * x], 1)[:, None]
        return self


def test_sampled_and_drawn_clips_are_measured(models, monkeypatch):
    monkeypatch.setattr(video, "SAMPLES", 3)
    monkeypatch.setattr(video, "STEPS", 2)
    video.train({**SETTINGS, "pictures": 16}, models, CPU)
    found = video.measure(models, CPU, Knowing())
    assert found["sampled"] == found["drawn"] and found["drawn"]["same"] == 100
    assert found["drawn"]["step_px"] == pytest.approx(64 * 0.6 / 7, abs=0.01) and found["drawn"]["turn_px"] == 0
