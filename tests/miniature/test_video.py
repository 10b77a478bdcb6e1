import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from measures.judge import Judge
from miniature import clips, video
from miniature import fit as loop
from miniature.control import Captioned
from miniature.unet import scheduler
from miniature.world import OBJECTS, TRAINED, TRAINING_VARIANTS, draw, parse
from tests.miniature.test_control import CPU, PUBLISHED, tiny_models, tiny_unet

SETTINGS = dict(pictures=48, batch=16, learning_rate=1e-3, warmup=2, average=0.9, seed=5, save_every=1, shards=1,
                empty=0.1, warm=False, before={})  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Encoded once for all tests here."""
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def models(tmp_path, monkeypatch, shards):
    monkeypatch.setattr(video, "SHARD", 8)
    monkeypatch.setattr(loop, "STATE", tmp_path / "state")
    loop.STATE.mkdir()
    (loop.STATE / "video").symlink_to(shards)
    return tiny_models(tmp_path / "models")


def noisy_clips():
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 16, 16), torch.tensor([20, 800]), torch.randn(2, 32, 128)


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
    assert json.loads((models / video.FOLDER / "training.json").read_text())["pictures"] == SETTINGS["pictures"]


def test_the_published_folder_is_a_motion_adapter_that_the_stock_pipeline_samples_with(models):
    video.train({**SETTINGS, "pictures": 16}, models, CPU)
    weights = load_file(models / video.FOLDER / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    prompts = ["a cartoon of a fox jumping in the snow", "a 3d render of a car turning on the road"]
    frames = video.sample(models, prompts, num_frames=8, steps=2, seed=3)
    assert frames.shape == (2, 8, 3, 64, 64) and 0 <= frames.min() and frames.max() <= 1
    adapter = MotionAdapter.from_pretrained(models / video.FOLDER, torch_dtype=torch.float32)
    pipe = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    alone = pipe(prompts[1], num_frames=8, height=64, width=64, num_inference_steps=2, guidance_scale=3.0,
                 generator=torch.Generator().manual_seed(4), output_type="pt").frames  # fmt: skip
    torch.testing.assert_close(frames[1:], alone, atol=1e-4, rtol=0)


def test_sampling_removes_noise_as_training_added_it(models):
    video.build(tiny_unet()).save_pretrained(models / video.FOLDER)
    adapter = MotionAdapter.from_pretrained(models / video.FOLDER)
    sampling, training = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter).scheduler, scheduler()
    assert type(sampling) is type(training) and sampling.config.prediction_type == "v_prediction"
    assert torch.equal(sampling.alphas_cumprod, training.alphas_cumprod)


def test_a_shard_holds_its_clips_and_their_captions(models):
    data = Captioned(video.encode(1, models, CPU), ["latents"], models, CPU)
    rng = np.random.default_rng([video.SEED, 0])
    drawn = np.stack([[draw(scene) for scene in video.random_clip(rng)] for _ in range(8)])
    vae = video.AutoencoderKL.from_pretrained(PUBLISHED / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        decoded = vae.decode(data.parts["latents"].float().flatten(0, 1)).sample / 2 + 0.5
    shown = torch.from_numpy(drawn).flatten(0, 1).permute(0, 3, 1, 2) / 255
    assert data.parts["latents"].shape == (8, 8, 4, 16, 16) and mse_loss(decoded, shown) < 0.01
    assert mse_loss(decoded, shown.roll(8, 0)) > 0.03  # another clip's


def test_training_clips_show_training_objects_and_places_and_say_their_motion():
    rng = np.random.default_rng(2)
    for motion, word in clips.WORDS.items():
        for _ in range(4):
            frames = video.random_clip(rng, motion)
            said = parse(frames[0].caption)
            kind = OBJECTS[frames[0].object].kind
            assert said["motion"] == (word if isinstance(word, str) else word[kind])
            assert said["object"] in TRAINED and frames[0].variant < TRAINING_VARIANTS
            assert said["count"] == (2 if motion == "cross" else 1)
            assert len(frames) == 8 and len({frame.things for frame in frames}) > 4
            assert len({frame.caption for frame in frames}) == 1


@pytest.mark.skipif(not (PUBLISHED / "judge").exists(), reason="no judge is published")
def test_the_judge_reads_drawn_clips_as_one_thing_that_moves(models, monkeypatch):
    monkeypatch.setattr(video, "EACH", 1)
    monkeypatch.setattr(video, "STEPS", 2)
    video.train({**SETTINGS, "pictures": 16}, models, CPU)
    found = video.measure(models, CPU, Judge.load(PUBLISHED / "judge", "cpu"))
    assert found["drawn"]["right"] > 80 > found["sampled"]["right"]
    assert found["drawn"]["motion"] > 60 > found["sampled"]["motion"]
    assert found["drawn"]["turn_px"] < found["drawn"]["step_px"]
