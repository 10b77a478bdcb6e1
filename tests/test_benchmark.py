"""All methods on a list of clips: what is kept, what is taken over, and what is left alone."""

import json
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from studies import benchmark
from tav.__main__ import main
from tav.config import load_params
from tests.tiny_clip import save_clip

EDITS = {"object": "a circle is moving"}


@pytest.fixture
def listed(workplace, set_params):
    """A folder with a list of two clips and two peers to run on them."""
    save_clip(Path("clip"))
    clip = load_params().clips["square"].model_dump(mode="json") | {"edits": EDITS}
    YAML(typ="safe").dump({"clips": {"one": clip, "two": clip | {"caption": "a square"}}}, Path("list.yaml"))
    set_params({"score.clip_model": "clip", "baselines": {"per-frame": {}, "sdedit": {"strength": 0.5}}})
    set_params({"benchmark": {"run": True, "clips": "list.yaml"}})
    return workplace


def test_every_method_is_scored_on_every_clip_of_the_list(listed):
    assert main(["benchmark"]) == 0
    scores = pd.read_csv("reports/benchmark/scores.csv")
    assert scores.groupby("clip").size().to_dict() == {"one": 5, "two": 5}
    assert {"Tune-A-Video", "per-frame", "sdedit", "the source clip itself"} < set(scores.method)
    assert scores["text alignment"].notna().all()
    kept = json.loads(Path("reports/benchmark/settings.json").read_text())
    assert kept == benchmark.made_with(load_params())


def test_an_interrupted_run_keeps_the_clips_that_were_done_and_ends_with_the_same_bytes(listed):
    assert main(["benchmark"]) == 0
    whole = Path("reports/benchmark/scores.csv").read_bytes()
    first, second = sorted(Path(".state/benchmark").iterdir())
    second.unlink()
    before = first.stat().st_mtime_ns
    assert main(["benchmark"]) == 0
    assert Path("reports/benchmark/scores.csv").read_bytes() == whole
    assert first.stat().st_mtime_ns == before and second.exists()


def test_a_changed_setting_takes_nothing_over(listed, set_params):
    assert main(["benchmark"]) == 0
    set_params({"edit.guidance_scale": 3.0})
    assert main(["benchmark"]) == 0
    assert len(list(Path(".state/benchmark").iterdir())) == 4


def test_unless_asked_nothing_is_run_and_what_was_found_stays(listed, set_params):
    Path("reports/benchmark").mkdir(parents=True)
    Path("reports/benchmark/scores.csv").write_text("kept")
    set_params({"benchmark.run": False})
    assert main(["benchmark"]) == 0
    assert Path("reports/benchmark/scores.csv").read_text() == "kept" and not Path(".state").exists()


def test_a_list_that_is_missing_is_said_in_one_line(listed, set_params, capsys):
    set_params({"benchmark.clips": "nowhere.yaml"})
    assert main(["benchmark"]) == 2
    assert "nowhere.yaml does not exist: benchmark.clips names a list of clips" in capsys.readouterr().err
