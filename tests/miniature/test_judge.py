import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from measures.judge import SIDE, Judge, places
from miniature import fit as loop
from miniature import judge
from miniature.world import OBJECTS, TRAINED, Scene, masks

MODELS = Path("models/miniature")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(3)
    return [judge.scene(rng) for _ in range(400)]


def test_the_judge_learns_all_objects_wherever_clips_put_them(scenes):
    assert {scene.object for scene in scenes} == set(OBJECTS) > set(TRAINED)
    single = np.array([scene.things[0] for scene in scenes if scene.count == 1])
    low, high = single.min(0), single.max(0)
    assert low[0] < 0.02 and high[0] > 0.98 and low[1] < 0.35 and high[1] > 0.7
    assert low[2] < 0.37 and high[2] > 0.8 and low[3] < -40 and high[3] > 40
    pairs = [scene.things for scene in scenes if scene.count == 2]
    assert min(abs(a[0] - b[0]) for a, b in pairs) < 0.05 and max(abs(a[0] - b[0]) for a, b in pairs) > 0.4


def test_its_places_are_not_those_of_other_models_or_of_the_measurement(scenes):
    variants = {scene.variant for scene in scenes}
    assert min(variants) >= 1000 and variants.isdisjoint(judge.FRESH)


def test_every_pixel_knows_the_thing_it_shows():
    things = ((0.3, 0.5, 0.4, 10.0), (0.6, 0.5, 0.4, -10.0))
    scene = Scene("pig", "cartoon", "sea", things, None, 1000)
    truth = judge.render([scene, Scene("bus", "line", "road", things[:1])])
    left, right = masks(scene)
    for number, mask in enumerate((left, right)):
        assert (truth["owner"][0].numpy()[mask > 0.5] == number).all()
    assert np.abs(truth["seen"][0].numpy() / 255 - (left + right)).max() < 0.01
    np.testing.assert_allclose(truth["things"][0, :2], things, rtol=1e-6)
    assert [judge.ANSWERS[q][n] for q, n in zip(judge.ANSWERS, truth["answers"][1], strict=True)] == [
        "bus", "line", "road", "1"]  # fmt: skip


def test_maps_that_say_the_truth_cost_least():
    scene = Scene("fox", "3d", "grass", ((0.4, 0.5, 0.6, 20.0),))
    truth = judge.render([scene])
    goal = torch.tensor(scene.things[0])
    offset = goal[:2, None, None] - places(SIDE)
    flat = torch.ones(1, SIDE, SIDE)
    right = torch.cat([truth["seen"] / 255 * 40 - 20, offset, goal[2] * flat, goal[3].deg2rad() * flat])[None]
    least = judge.finding(right, truth)
    for number in range(5):
        wrong = right.clone()
        wrong[:, number] += 0.1 if number else -10
        assert judge.finding(wrong, truth) > 1.2 * least + 0.05


def test_a_softened_picture_still_shows_the_scene():
    vae = AutoencoderKL.from_pretrained(MODELS / "vae", torch_dtype=torch.float32)
    rng = np.random.default_rng(4)
    sharp = judge.render([judge.scene(rng) for _ in range(16)])["pictures"]
    soft, again = (judge.soften(vae, sharp, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(soft, again) and soft.shape == sharp.shape
    error = (soft.float() - sharp.float()).square().mean((1, 2, 3))
    noise = 10 * torch.log10(255**2 / error)
    assert 14 < noise.min() and noise.mean() < 27  # dB: worse than the autoencoder itself, better than another scene


def test_augmented_pictures_keep_their_things_in_place():
    rng = np.random.default_rng(6)
    truth = judge.render([judge.scene(rng) for _ in range(12)])
    drawn = truth["pictures"] / 255
    changed = judge.augment(drawn, torch.Generator().manual_seed(7))
    assert changed.shape == drawn.shape and 0 <= changed.min() and changed.max() <= 1
    assert 0.005 < (changed - drawn).abs().mean() < 0.15
    for before, after in zip(drawn, changed, strict=True):
        assert np.corrcoef(before.mean(0).flatten(), after.mean(0).flatten())[0, 1] > 0.8


def test_training_publishes_a_judge_and_interrupted_training_the_same_one(tmp_path, monkeypatch):
    settings = {"pictures": 12, "batch": 4, "learning_rate": 1e-3, "warmup": 1, "average": 0.9, "seed": 5,
                "save_every": 1, "shards": 1, "warm": False, "before": {}}  # fmt: skip
    monkeypatch.setattr(judge, "SHARD", 64)
    read = []
    for run, limits in (("whole", [float("inf")]), ("pieces", [-1.0, float("inf")])):
        shutil.copytree(MODELS / "vae", tmp_path / run / "vae")
        monkeypatch.setattr(loop, "STATE", tmp_path / run / "state")
        for limit in limits:
            judge.train(settings, tmp_path / run, torch.device("cpu"), limit)
        weights = sorted((tmp_path / run / "judge").rglob("*.safetensors"))
        read.append([path.read_bytes() for path in weights])
        assert sum(path.stat().st_size for path in weights) < 2 * 3e6
    assert len(read[0]) == 2 and read[0] == read[1]
    published = Judge.load(tmp_path / "whole" / "judge", "cpu")
    assert published.answers == judge.ANSWERS
    assert judge.compare(published, torch.rand(2, 3, 64, 64), judge.render([judge.scene(np.random.default_rng(0))] * 2))


def test_the_published_judge_reads_fresh_pictures():
    figures = judge.measure(MODELS, torch.device("cpu"), count=200)
    for kind in ("renderings", "reconstructions"):
        assert figures[kind]["object"] > 92 and figures[kind]["count"] > 94
        assert figures[kind]["style"] > 97 and figures[kind]["place"] > 97
        assert figures[kind]["centre_mean"] < 2 and figures[kind]["angle_mean"] < 8 and figures[kind]["iou"] > 0.7
