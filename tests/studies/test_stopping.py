"""Tuning that ends when a clip is learnt."""

import json
from pathlib import Path

import pytest
import torch

from studies.__main__ import main
from studies.settings import load_params
from studies.stopping import EVERY, PATIENCE, Learnt, held_error, preview, until
from tav import load_pipeline, tune
from tests import tiny, tiny_clip


@pytest.fixture
def by_measure(workplace, set_params, monkeypatch):
    """Settings under which tuning ends at the second step, as nothing that it gains is enough."""
    tiny_clip.save_clip(Path("clip"))
    monkeypatch.setattr("studies.stopping.EVERY", 1)
    monkeypatch.setattr("studies.stopping.LEAST", 2.0)
    set_params({"score.clip_model": "clip", "tune.steps": 9, "tune.stop": "measure"})


def steps_of_tuning() -> int:
    return len(Path("results/tune/square/losses.csv").read_text().splitlines()) - 1


def test_a_pipeline_can_stop_by_measure_and_its_weights_are_others(by_measure, set_params):
    assert main(["tune"]) == 0 and steps_of_tuning() == PATIENCE
    set_params({"tune.stop": "steps"})
    assert main(["tune"]) == 0 and steps_of_tuning() == 9
    set_params({"tune.stop": "measure"})
    by_now = len(list(Path(".pieces/weights").iterdir()))
    assert main(["tune"]) == 0 and steps_of_tuning() == PATIENCE and by_now == 2


def test_what_is_watched_is_an_input_of_stopping_by_measure_alone(by_measure, set_params):
    prompt = load_params().clips["square"].first_edit
    assert main(["inputs"]) == 0
    assert json.loads(Path("results/inputs/clips.json").read_text())["square"]["watched"] == prompt
    set_params({"tune.stop": "steps"})
    assert main(["inputs"]) == 0
    assert "watched" not in json.loads(Path("results/inputs/clips.json").read_text())["square"]


@pytest.fixture
def pipe(tiny_model):
    pipe = load_pipeline(tiny_model, num_frames=4)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def checks_until_learnt(errors: list[float], alignments: list[float]) -> int | None:
    """After how many checks Learnt ends; the first error is the one before tuning."""
    error, alignment = iter(errors), iter(alignments)
    learnt = Learnt(lambda: next(error), lambda: next(alignment))
    return next((number for number in range(1, len(errors)) if learnt()), None)


def test_it_ends_when_the_error_falls_no_more():
    falls = [1.0, 0.6, 0.4, 0.3]
    assert checks_until_learnt([*falls, 0.3, 0.299, 0.298], [20.0] * 6) == 3 + PATIENCE
    assert checks_until_learnt([1 - 0.05 * step for step in range(10)], [20.0] * 9) is None


def test_it_ends_when_what_the_prompt_asks_is_forgotten():
    falls = [1 - 0.05 * step for step in range(10)]
    assert checks_until_learnt(falls, [20, 22, 21, 19, 19, 19, 19, 19, 19]) == 5
    assert checks_until_learnt(falls, [20, 22, 19, 22, 19, 22, 19, 22, 19]) is None


def test_tuning_lowers_the_held_error_and_looking_changes_no_step(pipe, tiny_model):
    posterior = pipe.encode_posterior(tiny.moving_square(4))
    text = "a square is moving"
    before, looked = held_error(pipe, posterior, text, 0), []
    assert before == held_error(pipe, posterior, text, 0)
    losses = []
    for step, loss in tune(pipe, posterior, text, steps=12, learning_rate=3e-3):
        losses.append((step, loss))
        looked.append(preview(pipe, "a circle is moving", posterior.mean.shape, 2.0))
        held_error(pipe, posterior, text, 0)
    assert held_error(pipe, posterior, text, 0) < before
    assert looked[0].shape == (4, 3, 32, 32) and not looked[0].equal(looked[-1])

    plain = load_pipeline(tiny_model, num_frames=4)
    assert losses == list(tune(plain, posterior, text, steps=12, learning_rate=3e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stopped_run_leaves_the_model_as_a_finished_one_does(tiny_model, dtype):
    pipe = load_pipeline(tiny_model, num_frames=4, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    posterior, mixed = pipe.encode_posterior(tiny.moving_square(4)), "no" if dtype == torch.float32 else "bf16"
    answers = iter([False, True])

    def learnt() -> bool:
        held_error(pipe, posterior, "a square", 0)
        preview(pipe, "a circle", posterior.mean.shape, 2.0)
        return next(answers)

    steps = tune(pipe, posterior, "a square", steps=1000, mixed_precision=mixed)
    assert len(list(until(learnt, steps))) == 2 * EVERY
    steps.close()
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {dtype}
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
