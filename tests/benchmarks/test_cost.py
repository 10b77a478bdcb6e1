"""What the method costs, measured on a tiny model: the counts and fits are known values, the times only exist."""

import json

import pandas as pd
import pytest
import torch

from benchmarks.cost import (
    CHANNELS,
    STEPS,
    alone,
    attend,
    attention_layer,
    cost,
    exponents,
    fits,
    measure,
    multiply_adds,
    scaled,
    shape,
)
from studies.settings import load_params
from tav.model import ATTENTION


@pytest.mark.parametrize(
    ("kind", "keys"), [("own", 25), ("first", 25), ("sparse-causal", 2 * 25), ("full", 3 * 25)]
)  # of 3 frames of 25 tokens
def test_every_query_meets_the_keys_that_its_attention_reads_in_both_products(kind, keys):
    assert multiply_adds(kind, frames=3, tokens=25) == 2 * CHANNELS * (3 * 25) * keys


def test_the_layer_that_is_timed_is_that_of_an_inflated_model():
    torch.manual_seed(0)
    x = torch.randn(3, 4, CHANNELS)
    layer = attention_layer("sparse-causal", 3)
    changed = torch.cat([x[:2], x[2:] + 1])  # no frame but the last, whose queries they are, reads the last
    assert torch.equal(layer(x)[:2], layer(changed)[:2])
    full = attention_layer("full", 3)
    assert not torch.equal(full(x)[:2], full(changed)[:2])


def test_the_exponents_of_power_laws_are_found_repeat_by_repeat():
    frames = [4, 8, 16]
    values = [[3 * m, 0.1 * m**2, 5 * m**1.5] for m in frames]
    assert exponents(frames, values) == [1, 2, 1.5]


def test_growth_is_fitted_to_the_largest_counts_and_memory_to_what_a_step_adds():
    def measured(m):
        seconds = 7 if m == 2 else 0.01 * m  # the smallest is off, and not among the last three
        return {"seconds": [seconds, 2 * seconds], "before": 0.5, "peak": 0.5 + 0.001 * m**2}

    found = fits({m: measured(m) for m in (2, 4, 8, 16)})
    assert found["seconds"] == pytest.approx([1, 1]) and found["memory"] == pytest.approx([2])
    assert fits({4: measured(4)}) == {}


def test_settings_grow_by_whole_frames_and_by_eights_of_pixels(workplace, set_params):
    set_params({"clip.num_frames": 5, "clip.size": [24, 40]})
    params = load_params()
    assert shape(scaled(params)) == (5, 24, 40)
    assert shape(scaled(params, frames=1 / 4)) == (1, 24, 40)
    assert shape(scaled(params, frames=1 / 16)) == (1, 24, 40)
    assert shape(scaled(params, side=3 / 4)) == (5, 16, 32)


def test_a_step_is_timed_lap_by_lap_and_its_memory_is_above_what_was_held(workplace):
    found = measure("sampling step", load_params())
    assert len(found["seconds"]) == 6 and min(found["seconds"]) > 0 and found["loading"] > 0
    assert found["peak"] >= found["before"] > 0
    assert found["machine"]["backend"] == "cpu" and found["machine"]["torch"] == torch.__version__


def test_a_speed_option_changes_the_numbers_format_and_order(workplace):
    params = load_params()
    for step in ("tuning step", "inversion step"):
        found = measure(step, params.changed(tune={"mixed_precision": "bf16"}), False, torch.bfloat16)
        assert min(found["seconds"]) > 0


def test_attention_is_timed_in_turns_after_a_first_one_that_does_not_count():
    grid = [("own", 2), ("full", 3)]
    found = attend("cpu", grid, tokens=4, laps=2)
    assert list(found["seconds"]) == grid
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found["seconds"].values())


def ask_for_too_much():
    return torch.empty(2**60, dtype=torch.uint8)


def test_what_memory_does_not_suffice_for_is_none_and_another_error_is_raised():
    assert alone(ask_for_too_much) is None
    with pytest.raises(KeyError):
        alone(attend, "cpu", [("no such attention", 2)], 4, 1)


def test_the_stage_writes_every_step_and_every_series(workplace, set_params):
    set_params({"clip.num_frames": 2, "clip.size": 16})
    (workplace / "cost").mkdir()
    cost(load_params(), workplace / "cost")
    steps, tuning, layer = (pd.read_csv(f"cost/{name}.csv") for name in ("steps", "tuning", "attention"))
    assert list(steps["step"]) == ["loading the model", *STEPS]
    assert list(steps["times"]) == [1, 1, 1, 3, 2, 2, 1]
    sizes = {(1, 16, 16), (2, 16, 16), (4, 16, 16), (8, 16, 16), (2, 8, 8), (2, 24, 24), (2, 32, 32)}
    for _, group in tuning.groupby("attention"):
        assert set(group[["frames", "height", "width"]].itertuples(index=False, name=None)) == sizes
    assert set(layer["attention"]) == set(ATTENTION) and set(layer["tokens"]) == {64}
    assert (tuning["seconds"] > 0).all() and (layer["seconds"] > 0).all() and (steps["seconds"] > 0).all()
    record = json.loads((workplace / "cost/cost.json").read_text())
    assert record["clip"] == [2, 16, 16] and record["device"] and record["threads"] == torch.get_num_threads()
    assert len(record["exponents"]["seconds, tuning step, full"]) == record["laps"]
    assert len(record["exponents"]["seconds, attention layer, sparse-causal"]) == record["laps"]
    assert len(record["exponents"]["memory, tuning step, sparse-causal"]) == 1
