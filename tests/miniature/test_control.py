import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from measures.conditions import CENTRE, HAND, HEAD, condition, draw_pose
from measures.judge import Judge
from measures.truth import read_truth
from miniature import control
from miniature import fit as loop
from miniature.clips import scenes
from miniature.world import background, draw, masks, random_scene
from studies.settings import load_params
from tav.clip import read_clip

CPU, PUBLISHED, STAGES = torch.device("cpu"), Path("models/miniature"), list(control.FOLDERS)
SETTINGS = dict(pictures=24, batch=8, learning_rate=1e-3, warmup=2, average=0.9, seed=5, save_every=1, shards=1,
                empty=0.3, warm=False, before={})  # fmt: skip


def tiny_unet():
    """The published UNet's plan in a small width."""
    torch.manual_seed(0)
    config = {**UNet2DConditionModel.load_config(PUBLISHED / "unet"), "block_out_channels": (8, 16, 16)}
    return UNet2DConditionModel.from_config({**config, "norm_num_groups": 4, "attention_head_dim": 2}).eval()


def tiny_models(folder):
    """The published pipeline with a small random UNet in it."""
    folder.mkdir()
    for part in ("vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        (folder / part).symlink_to((PUBLISHED / part).resolve())
    tiny_unet().save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Encoded once for all tests here."""
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def models(tmp_path, monkeypatch, shards):
    monkeypatch.setattr(control, "SHARD", 64)
    monkeypatch.setattr(control, "STEPS", 2)
    monkeypatch.setattr(loop, "STATE", tmp_path / "state")
    loop.STATE.mkdir()
    (loop.STATE / "control").symlink_to(shards)
    return tiny_models(tmp_path / "models")


def inputs(count=8):
    torch.manual_seed(1)
    text, condition = torch.randn(count, 32, 128), torch.rand(count, 3, 64, 64)
    return torch.randn(count, 4, 16, 16), torch.full((count,), 600), text, condition


@pytest.mark.parametrize("stage", ["edges", "mask"])
def test_a_new_controlnet_changes_nothing(stage):
    unet = tiny_unet()
    noisy, times, text, condition = inputs()
    with torch.no_grad():
        led = control.predict(unet, control.build(stage, unet), noisy, times, text, condition, stage)
        torch.testing.assert_close(led, unet(noisy, times, text).sample, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_training_fits_a_batch_and_leaves_the_unet_alone(stage):
    unet = tiny_unet().requires_grad_(False)
    model = control.build(stage, unet)
    noisy, times, text, condition = inputs()
    target = condition.mean(1, keepdim=True)[..., ::4, ::4].expand_as(noisy)  # what only the condition tells
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(12):
        value = mse_loss(control.predict(unet, model, noisy, times, text, condition, stage), target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in unet.parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_training_publishes_the_same_bytes(models, stage):
    published = []
    for limits in ([float("inf")], [-1.0, float("inf")]):
        for limit in limits:
            control.train(stage, SETTINGS, models, CPU, limit)
        published.append((models / control.FOLDERS[stage] / "diffusion_pytorch_model.safetensors").read_bytes())
        for path in loop.STATE.glob("*.pt"):
            path.unlink()
    assert published[0] == published[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_published_folder_is_half_as_wide_and_runs_in_the_stock_pipeline(models, stage):
    control.train(stage, SETTINGS, models, CPU)
    weights = load_file(models / control.FOLDERS[stage] / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(2)]
    drawn = torch.from_numpy(np.stack([control.conditions(scene, draw(scene))[stage] for scene in scenes]))
    pictures, again, free = (
        control.sample(models, which, [scene.caption for scene in scenes], drawn, CPU) for which in (stage, stage, None)
    )
    assert pictures.shape == (2, 3, 64, 64) and pictures.isfinite().all() and torch.equal(pictures, again)
    assert not torch.equal(pictures, free)


def test_new_weights_of_the_unet_start_another_run(models):
    control.train("mask", SETTINGS, models, CPU)
    runs = {path.name for path in loop.STATE.glob("*.pt")}
    torch.manual_seed(9)
    UNet2DConditionModel.from_config(tiny_unet().config).save_pretrained(models / "unet")
    control.train("mask", SETTINGS, models, CPU)
    assert len(runs) == 1 and len({path.name for path in loop.STATE.glob("*.pt")} - runs) == 1


def test_emptied_captions_are_the_empty_prompt(models):
    paths = control.encode(1, models, CPU)
    data = control.Captioned(paths, ["latents", "pose"], models, CPU)
    latents, drawn, text = data.batch(np.random.default_rng(3), 64, 0.3)
    empty = (text == data.text[-1]).all(-1).all(-1)
    assert latents.shape == (64, 4, 16, 16) and drawn.shape == (64, 64, 64, 3) and drawn.dtype == torch.uint8
    assert 5 < empty.sum() < 35 and len(data.text) == len(set(data.row.tolist())) + 1


def test_conditions_in_a_shard_belong_to_its_pictures(models):
    data = control.Captioned(control.encode(1, models, CPU), ["latents", *STAGES], models, CPU)
    rng = np.random.default_rng([control.SEED, 0])
    scenes = [control.training_scene(rng) for _ in range(64)]
    pictures = [draw(scene) for scene in scenes]
    for stage in STAGES:
        expected = np.stack([control.conditions(*pair)[stage] for pair in zip(scenes, pictures, strict=True)])
        assert np.array_equal(data.parts[stage].numpy(), expected)
    vae = control.AutoencoderKL.from_pretrained(PUBLISHED / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        decoded = vae.decode(data.parts["latents"].float()).sample / 2 + 0.5
    assert mse_loss(decoded, control.as_input(torch.from_numpy(np.stack(pictures)))) < 0.01


def test_the_mask_is_where_the_picture_differs_from_its_empty_place():
    rng = np.random.default_rng(4)
    for _ in range(12):
        scene = replace(random_scene(rng), style="cartoon")
        empty = cv2.resize(background(scene.place, scene.style, scene.variant), (64, 64), interpolation=cv2.INTER_AREA)
        differs = np.abs(draw(scene).astype(int) - empty).sum(-1) > 24
        mask = control.mask(masks(scene)) > 0
        assert (mask & differs).sum() / (mask | differs).sum() > 0.8
        if scene.count == 1:
            rows, columns = np.nonzero(mask)
            x, y = scene.things[0][:2]
            assert abs(columns.mean() / 64 - x) < 0.08 and abs(rows.mean() / 64 - y) < 0.08


def test_edges_run_along_the_mask():
    rng, shares = np.random.default_rng(5), []
    for _ in range(12):
        scene = random_scene(rng)
        drawn = control.conditions(scene, draw(scene))
        border = cv2.morphologyEx(drawn["mask"], cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        shares.append((cv2.dilate(drawn["edges"], np.ones((3, 3), np.uint8)) > 0)[border].mean())
        assert set(np.unique(drawn["edges"])) == {0, 255}
    assert np.mean(shares) > 0.8


@pytest.mark.parametrize(
    "angle, up, right", [(0, (32, 16), (48, 32)), (90, (48, 32), (32, 48)), (-90, (16, 32), (32, 16))]
)
def test_keypoints_tell_place_size_and_angle(angle, up, right):
    drawn = draw_pose(((0.5, 0.5, 0.5, angle),))
    assert not drawn[:8].any() and not drawn[:, :8].any()
    for (x, y), colour in (((32, 32), CENTRE), (up, HEAD), (right, HAND)):
        assert np.abs(drawn[y, x].astype(int) - colour).max() <= 40, (x, y)


def test_the_keypoints_turn_as_the_picture_turns():
    scene, drawn = replace(random_scene(np.random.default_rng(6)), object="wizard", style="cartoon"), {}
    for angle in (0, 90):
        turned = replace(scene, things=((0.5, 0.5, 0.7, angle),))
        drawn[angle] = control.mask(masks(turned)) > 0, draw_pose(turned.things).astype(int)
    for number, most in ((0, 0.03), (1, 2)):  # a quarter clockwise
        assert np.abs(np.rot90(drawn[0][number], -1).astype(int) - drawn[90][number]).mean() < most
        assert np.abs(np.rot90(drawn[0][number]).astype(int) - drawn[90][number]).mean() > 2 * most


def test_keypoints_outside_the_frame_are_left_out():
    assert draw_pose(((0.0, 0.5, 0.5, 0.0), (1.2, 0.5, 0.3, 0.0))).any()
    assert not draw_pose(((1.5, 0.5, 0.3, 0.0),)).any()


def test_the_conditions_of_a_clip_are_those_that_its_scenes_had_in_training():
    path, clip = Path("data/clips/fox-running.mp4"), json.loads(Path("data/clips/fox-running.json").read_text())
    frames, truth = (read_clip(path, 8, 64, stride=2) + 1) / 2, read_truth(path, 8, 64, stride=2)
    drawn = [control.conditions(scene, draw(scene)) for scene in list(scenes(clip))[:16:2]]
    differs = {}
    for kind in STAGES:
        trained = control.as_input(torch.from_numpy(np.stack([each[kind] for each in drawn]))) > 0.5
        shown = condition(kind, frames, truth, load_params().conditions.model_dump()) > 0.5
        differs[kind] = (trained ^ shown).sum().item() / trained.sum().item()
    assert differs["pose"] == 0 and differs["mask"] < 0.04  # masks are kept in one bit, frames are compressed
    assert differs["edges"] < 0.2


@pytest.mark.skipif(not (PUBLISHED / "judge").exists(), reason="no judge is published")
def test_the_judge_finds_drawn_things_where_they_are(models, monkeypatch):
    monkeypatch.setattr(control, "SAMPLES", 6)
    for stage in STAGES:
        control.train(stage, {**SETTINGS, "pictures": 8}, models, CPU)
    found = control.measure(models, CPU, Judge.load(PUBLISHED / "judge", "cpu"))
    assert found.keys() == {*STAGES, "none", "drawn"}
    assert found["drawn"]["iou"] > 0.8 and found["drawn"]["centre_px"] < 4 < found["none"]["centre_px"]
