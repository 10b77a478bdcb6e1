from functools import partial

import numpy as np
import pytest
import torch

from measures.score import ClipScorer, text_alignment
from miniature import contrastive
from miniature import fit as loop
from miniature.pool import Pool
from miniature.scenes import objects
from miniature.text import build_tokenizer

CPU = torch.device("cpu")
SETTINGS = {"pictures": 8, "pool": 16, "batch": 4, "learning_rate": 1e-3, "warmup": 1, "average": 0.9, "seed": 5,
            "save_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    drawn = Pool(256, 1, CPU, draw=partial(contrastive.half_plain, list(objects())))
    return contrastive.Captioned(drawn, 1, build_tokenizer())


def test_in_every_second_batch_things_and_attributes_decide(data):
    alike = 0
    for number in range(60):
        chosen = data.choose(np.random.default_rng(number), 8)
        assert len(chosen) == 8
        alike += len(set(zip(data.pool.scenes.style[chosen], data.pool.scenes.place[chosen], strict=True))) == 1
    assert 20 <= alike <= 40


def test_a_caption_is_true_of_its_picture_and_of_those_that_show_the_same(data):
    chosen = np.arange(256)
    same, scenes = data.true(chosen), data.pool.scenes
    assert same.diagonal().all() and not same.all()
    for i, j in zip(*np.nonzero(same.numpy()), strict=True):
        assert scenes.style[i] == scenes.style[j] and scenes.place[i] == scenes.place[j]
        assert scenes.count[i] == scenes.count[j]


@pytest.mark.parametrize("which", ["text", "clip"])
def test_training_publishes_what_libraries_load(which, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STATE", tmp_path / "state")
    contrastive.train(which, SETTINGS, tmp_path, CPU)
    if which == "clip":
        scorer = ClipScorer(tmp_path / "clip", "cpu")
        frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert -100 <= text_alignment(scorer.embed_frames(frames), scorer.embed_prompt("a cartoon of a dog")) <= 100
    else:
        assert (tmp_path / "text_encoder" / "model.safetensors").exists() and (tmp_path / "tokenizer").is_dir()
