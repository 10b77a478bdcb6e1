import json
from pathlib import Path

import numpy as np
import pytest
import torch

from measures.judge import Judge
from miniature.captioner import caption, measure, name_motion, truths
from miniature.clips import DATA, WORDS
from miniature.world import Scene, draw, parse

MODELS = Path("models/miniature")


def path_of(truth):
    """What a perfect judge reads off a clip: x, y, size, spread and angle per frame."""
    things = np.array(truth["frames"])
    mean = things.mean(1)
    spread = np.linalg.norm(things[..., :2] - mean[:, None, :2], axis=2).mean(1)
    return np.stack([mean[:, 0], mean[:, 1], mean[:, 2], spread, mean[:, 3]], 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_true_path_of_every_clip_gets_its_word_even_with_a_pixel_of_noise(stride):
    rng = np.random.default_rng(1)
    for file in truths():
        truth = json.loads(file.read_text())
        path = path_of(truth)[::stride]
        for noise in (0, 0.01):
            shaken = path + noise * rng.normal(size=path.shape) * [1, 1, 1, 1, 200]
            assert name_motion(shaken, truth["kind"]) == parse(truth["caption"])["motion"], file.stem


def test_a_frame_in_which_nothing_is_seen_is_passed_over():
    truth = json.loads((DATA / "clips" / "fox-bouncing.json").read_text())
    path = path_of(truth)
    path[5] = np.nan
    assert name_motion(path, "animal") == "bouncing"
    assert name_motion(np.full((8, 5), np.nan), "animal") is None


def test_what_stands_still_gets_no_word():
    rng = np.random.default_rng(2)
    path = np.array([0.4, 0.5, 0.6, 0.0, 10.0]) + 0.005 * rng.normal(size=(8, 5))
    assert name_motion(path, "vehicle") is None


def test_the_word_of_a_straight_path_depends_on_what_moves():
    path = np.stack([np.linspace(0.3, 0.7, 8), *np.full((4, 8), 0.5)], 1) * [1, 1, 1, 0, 0]
    assert {kind: name_motion(path, kind) for kind in WORDS["straight"]} == WORDS["straight"]


def test_a_still_clip_is_captioned_without_motion():
    scene = Scene("lion", "cartoon", "beach", ((0.5, 0.55, 0.6, 0.0),), None, 2001)
    frames = torch.from_numpy(draw(scene)).permute(2, 0, 1)[None].repeat(4, 1, 1, 1) / 255
    assert caption(frames, Judge.load(MODELS / "judge", "cpu")) == "a cartoon of a lion on the beach"


def test_captions_of_the_clips_are_mostly_right():
    shares = measure(MODELS, torch.device("cpu"))
    assert shares["all"] >= 80 and min(shares.values()) == shares["all"]
    assert min(shares[part] for part in ("object", "style", "place", "count")) >= 92
