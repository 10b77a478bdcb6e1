"""How well the diffusion model knows its objects."""

from pathlib import Path

import pytest
import torch

from miniature.classify import right, unsaid
from miniature.judge import FRESH
from miniature.pool import Pool
from miniature.scenes import BARE
from tests.miniature.test_control import tiny_models

MODELS, CPU = Path("models/miniature"), torch.device("cpu")


def test_the_pictures_show_one_whole_thing_and_their_captions_name_nothing_else():
    pool = Pool(64, 3, CPU, layouts=FRESH, draw=unsaid)
    assert (pool.scenes.count == 1).all() and (pool.scenes.front == BARE).all() and (pool.scenes.wears == BARE).all()
    assert pool.share[:, 0].min() > 0.9
    assert all(len(caption.split(" of ")[1].split()) <= 5 for caption in pool.scenes.captions())


def test_a_random_model_is_about_as_good_as_chance(tmp_path):
    found = right(tiny_models(tmp_path), CPU, count=36)
    assert list(found) == ["at time 500", "at time 620", "at time 740", "together"]
    assert all(0 <= share <= 0.3 for share in found.values())


@pytest.mark.skipif(not (MODELS / "unet").exists(), reason="the published model is not here")
def test_the_published_model_tells_more_than_half():
    assert right(MODELS, CPU, count=36)["together"] > 0.5
