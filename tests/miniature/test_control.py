import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import load_file
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel

from measures.conditions import CENTRE, HAND, HEAD
from miniature import control, unet, vae
from miniature import fit as loop
from miniature.scenes import BARE, Renderer, names, random_scenes
from miniature.text import build_tokenizer

CPU, STAGES, POOL = torch.device("cpu"), list(control.FOLDERS), 24
SETTINGS = dict(pictures=24, batch=8, learning_rate=1e-3, warmup=2, average=0.9, seed=5, save_every=1, pool=POOL,
                empty=0.3)  # fmt: skip


def tiny_unet():
    """The UNet's plan in a small width."""
    torch.manual_seed(0)
    small = dict(block_out_channels=(8, 16, 24), norm_num_groups=4, attention_head_dim=2, cross_attention_dim=16)
    return UNet2DConditionModel.from_config({**unet.build().config, **small}).eval()


def tiny_models(folder):
    """A pipeline of small random models in the published format."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    small = {**vae.build().config, "block_out_channels": (8, 8, 8), "norm_num_groups": 4, "scaling_factor": 0.7}
    AutoencoderKL.from_config(small).save_pretrained(folder / "vae")
    last = len(tokenizer) - 1
    text = CLIPTextConfig(vocab_size=last + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=32, bos_token_id=last - 1, eos_token_id=last,
                          pad_token_id=last)  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    unet.publish(tiny_unet(), folder)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of tiny models, and what was drawn and encoded once for all tests here."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_models(folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "STATE", folder)
        control.prepare(POOL, folder / "models", CPU)
    return folder


@pytest.fixture
def models(tmp_path, monkeypatch, shared):
    monkeypatch.setattr(control, "STEPS", 2)
    monkeypatch.setattr(loop, "STATE", tmp_path / "state")
    loop.STATE.mkdir()
    for path in shared.glob("*.safetensors"):
        (loop.STATE / path.name).symlink_to(path)
    (tmp_path / "models").mkdir()
    for part in (shared / "models").iterdir():
        (tmp_path / "models" / part.name).symlink_to(part)
    return tmp_path / "models"


def drawn(seed, n):
    """Scenes, and what is drawn of them, with grain."""
    scenes = random_scenes(np.random.default_rng(seed), n)
    return scenes, Renderer()(scenes, torch.Generator().manual_seed(seed))


def inputs(count=8):
    torch.manual_seed(1)
    text, condition = torch.randn(count, 32, 16), torch.rand(count, 3, 64, 64)
    return torch.randn(count, 8, 16, 16), torch.full((count,), 600), text, condition


@pytest.mark.parametrize("stage", ["edges", "mask"])
def test_a_new_controlnet_changes_nothing(stage):
    frozen = tiny_unet()
    noisy, times, text, condition = inputs()
    with torch.no_grad():
        led = control.predict(frozen, control.build(stage, frozen), noisy, times, text, condition, stage)
        torch.testing.assert_close(led, frozen(noisy, times, text).sample, atol=1e-6, rtol=0)


def test_the_adapters_features_have_the_shapes_of_the_unets_levels():
    features = control.build("pose", tiny_unet())(torch.rand(2, 3, 64, 64))
    assert [tuple(feature.shape) for feature in features] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4)]


@pytest.mark.parametrize("stage", STAGES)
def test_training_fits_a_batch_and_leaves_the_unet_alone(stage):
    frozen = tiny_unet().requires_grad_(False)
    model = control.build(stage, frozen)
    noisy, times, text, condition = inputs()
    target = condition.mean(1, keepdim=True)[..., ::4, ::4].expand_as(noisy)  # what only the condition tells
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(12):
        value = mse_loss(control.predict(frozen, model, noisy, times, text, condition, stage), target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in frozen.parameters())


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
    folder = models / control.FOLDERS[stage]
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    (T2IAdapter if stage == "pose" else ControlNetModel).from_pretrained(folder)
    scenes, shown = drawn(0, 2)
    condition = control.conditions(scenes, shown.pictures, shown.visible)[stage]
    pictures, again, free = (
        control.Sampler(models, CPU, which)(scenes.captions(), drawn=condition if which else None)
        for which in (stage, stage, None)
    )
    assert pictures.shape == (2, 3, 64, 64) and pictures.isfinite().all() and torch.equal(pictures, again)
    assert not torch.equal(pictures, free)


def test_training_for_some_seconds_counts_what_comes_before(models, monkeypatch):
    given = []
    monkeypatch.setattr(control, "fit", lambda *how: given.append(how[-1]) or how[1])
    control.train("mask", SETTINGS, models, CPU, seconds=500)
    control.train("mask", SETTINGS, models, CPU, seconds=0.001)
    control.train("mask", SETTINGS, models, CPU)
    assert 400 < given[0] < 500 and given[1:] == [1.0, None]


def test_half_of_the_scenes_are_frames_of_clips_and_all_show_objects_of_training():
    scenes = control.training_scenes(np.random.default_rng(1), 40)
    assert len(scenes) == 40 and len(control.training_scenes(np.random.default_rng(1), 1)) == 1
    frames = scenes[20:]
    assert all((frames.drawing[n : n + 4, 0] == frames.drawing[n, 0]).all() for n in range(0, 20, 4))
    assert {thing.object for n in range(40) for thing in scenes.things(n)} <= set(names(seen=True))


def test_emptied_captions_are_the_empty_prompt(models):
    data = control.load("pose", control.prepare(POOL, models, CPU), models, CPU)
    latents, condition, text = data.batch(64, 0.3, torch.Generator().manual_seed(3))
    empty = (text == data.states[-1]).all(-1).all(-1)
    assert latents.shape == (64, 8, 16, 16) and condition.shape == (64, 64, 64, 3) and condition.dtype == torch.uint8
    assert 5 < empty.sum() < 35 and len(data.states) == len(set(data.row.tolist())) + 1


def test_conditions_belong_to_the_encoded_pictures(models):
    path = control.prepare(POOL, models, CPU)
    scenes = control.training_scenes(np.random.default_rng([control.SEED, 7, 0]), POOL)
    shown = Renderer()(scenes)
    grainy = Renderer()(scenes, torch.Generator().manual_seed(control.SEED))
    expected = control.conditions(scenes, grainy.pictures, shown.visible)
    for stage in STAGES:
        data = control.load(stage, path, models, CPU)
        assert (data.parts[1] != expected[stage]).float().mean() < 0.01  # a pool's pictures are rounded
    coder = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        latents = coder.encode(grainy.pictures * 2 - 1).latent_dist.mode() * coder.config.scaling_factor
    torch.testing.assert_close(data.parts[0].float(), latents, atol=0.05, rtol=0.05)


def test_edges_run_along_the_mask_and_grain_makes_none():
    scenes, shown = drawn(5, 16)
    flat = control.conditions(scenes, Renderer()(scenes).pictures, shown.visible)["edges"]
    found = control.conditions(scenes, shown.pictures, shown.visible)
    shares = []
    for edges, mask in zip(found["edges"].numpy(), found["mask"].numpy(), strict=True):
        border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        shares.append((cv2.dilate(edges, np.ones((3, 3), np.uint8)) > 0)[border].mean())
    assert np.mean(shares) > 0.75 and set(found["edges"].unique().tolist()) == {0, 255}
    assert abs((found["edges"] > 0).sum() / (flat > 0).sum() - 1) < 0.1


def test_the_mask_is_where_things_are_seen():
    scenes, shown = drawn(4, 24)
    lone = np.nonzero((scenes.count == 1) & (scenes.front == BARE) & (shown.share[:, 0].numpy() > 0.95))[0]
    for number in lone:
        rows, columns = np.nonzero(control.mask(shown.visible)[number].numpy())
        x, y = scenes.pose[number, 0, :2]
        assert abs(columns.mean() / 64 - x) < 0.1 and abs(rows.mean() / 64 - y) < 0.1
    assert len(lone) > 5


@pytest.mark.parametrize("facing, angle, up, ahead", [
    (1, 0, (32, 16), (48, 32)), (-1, 0, (32, 16), (16, 32)),
    (1, 90, (48, 32), (32, 48)), (-1, 90, (48, 32), (32, 16)), (1, -90, (16, 32), (32, 16)),
])  # fmt: skip
def test_key_points_tell_place_size_angle_and_facing(facing, angle, up, ahead):
    scenes = random_scenes(np.random.default_rng(0), 1)
    pose, faces = scenes.pose.copy(), scenes.facing.copy()
    pose[0, 0, :4], faces[0, 0] = (0.5, 0.5, 0.5, angle), facing
    found = control.pose(scenes.with_(pose=pose, facing=faces, count=np.array([1])))[0].numpy()
    assert not found[:8].any() and not found[:, :8].any()
    for (x, y), colour in (((32, 32), CENTRE), (up, HEAD), (ahead, HAND)):
        assert np.abs(found[y, x].astype(int) - colour).max() <= 40, (x, y)


def test_key_points_outside_the_frame_are_left_out():
    scenes = random_scenes(np.random.default_rng(0), 2)
    pose = scenes.pose.copy()
    pose[:, 0, :4] = (0.0, 0.5, 0.5, 0.0), (1.5, 0.5, 0.3, 0.0)
    inside, outside = control.pose(scenes.with_(pose=pose, count=np.array([1, 1])))
    assert inside.any() and not outside.any()


class Knowing:
    """A judge that finds what is drawn of one thing in no style: at the centre, whatever it is shown."""

    def read(self, pictures):
        return self

    mask = torch.ones(4, 64, 64)
    names = {"facing": ["left"] * 4}

    things = torch.tensor([0.5, 0.5, 0.6, 0.0, 0.0, 0.0]).expand(4, 1, 6)


def test_every_stage_is_measured_beside_none_and_what_was_drawn(models, monkeypatch):
    monkeypatch.setattr(control, "SAMPLES", 4)
    for stage in STAGES:
        control.train(stage, {**SETTINGS, "pictures": 8}, models, CPU)
    found = control.measure(models, CPU, Knowing())
    assert found.keys() == {*STAGES, "none", "drawn"}
    assert all(figures == found["none"] for figures in found.values())  # the judge says the same of everything
    assert 0 < found["none"]["iou"] < 1 and 0 < found["none"]["centre_px"] < 30
