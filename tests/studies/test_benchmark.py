"""All methods on a list of clips: what is kept, what is taken over, and what is left alone."""

import json
import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from studies import benchmark
from studies.__main__ import main
from studies.settings import load_params
from studies.tuned import tuned
from tav.clip import read_frames
from tav.errors import InputError
from tests.tiny_clip import save_clip

EDITS = {"object": "a circle is moving"}


@pytest.fixture
def listed(workplace, set_params):
    """A folder with a list of two clips and two peers to run on them."""
    save_clip(Path("clip"))
    clip = load_params().clips["square"].model_dump(mode="json") | {"edits": EDITS}
    YAML(typ="safe").dump({"clips": {"one": clip, "two": clip | {"caption": "a square"}}}, Path("list.yaml"))
    set_params({"score.clip_model": "clip", "baselines": {"per-frame": {}, "sdedit": {"strength": 0.5}}})
    set_params({"benchmark.run": True, "benchmark.clips": "list.yaml"})
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


def test_a_peer_that_cannot_run_is_refused_before_anything_is_tuned(listed, set_params, capsys):
    set_params({"baselines.sdedit": {"strenght": 0.5}})
    assert main(["benchmark"]) == 2
    assert "baselines.sdedit takes guidance_scale, strength, not strenght" in capsys.readouterr().err
    assert not Path(".state").exists()


@pytest.mark.parametrize("noise", ["inverted", "random"])
def test_a_clip_is_edited_here_as_by_the_stages_of_a_clip(workplace, set_params, noise):
    set_params({"edit.noise": noise})
    for verb in ("tune", "invert", "edit"):
        assert main([verb, "square"]) == 0
    params = load_params()
    for (name, edit), frames in benchmark.sample(params, "square", *tuned(params, "square")).items():
        assert (frames - read_frames(f"results/edit/{name}/{edit}")).abs().max() <= 1 / 255 + 1e-6


SCORES = Path("reports/benchmark/scores.csv")


def dies_once(params, name):
    """The work of a clip, whose worker is killed after it, the first time."""
    scores = benchmark.score_clip(params, name)
    if name == "one" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return scores


def dies_always(params, name):
    if name == "one":
        os.kill(os.getpid(), signal.SIGKILL)
    return benchmark.score_clip(params, name)


def refuses(params, name):
    if name == "one":
        raise InputError("one is no clip")
    return pd.DataFrame({"clip": [name]})


def on_ray(monkeypatch, set_params, function, retries=1) -> int:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(benchmark, "score_clip", function)
    set_params({"benchmark.ray": "local", "benchmark.retries": retries})
    return main(["benchmark"])


def test_a_worker_that_is_killed_loses_nothing_and_scores_equal_those_of_a_sequential_run(
    listed, set_params, monkeypatch
):
    assert main(["benchmark"]) == 0
    sequential = SCORES.read_bytes(), Path("reports/benchmark/settings.json").read_bytes()
    for path in Path(".state/benchmark").iterdir():
        path.unlink()
    SCORES.unlink()
    assert on_ray(monkeypatch, set_params, dies_once) == 0
    assert Path("killed").exists()
    assert (SCORES.read_bytes(), Path("reports/benchmark/settings.json").read_bytes()) == sequential


def test_a_worker_that_always_dies_is_said_in_one_line_and_the_other_clips_are_kept(
    listed, set_params, monkeypatch, capsys
):
    assert on_ray(monkeypatch, set_params, dies_always) == 2
    words = capsys.readouterr().err.splitlines()[-1]
    assert words.startswith("error: one did not end, with 1 retries: The worker died")
    assert [path.name.split("-")[0] for path in Path(".state/benchmark").glob("*.csv")] == ["two"]
    assert not SCORES.exists()


def test_bad_input_of_one_clip_is_said_as_it_is_without_ray(listed, set_params, monkeypatch, capsys):
    assert on_ray(monkeypatch, set_params, refuses) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: one is no clip"
    assert len(list(Path(".state/benchmark").glob("two-*.csv"))) == 1


def test_a_cluster_that_is_not_there_and_a_missing_ray_are_said_in_one_line(listed, set_params, monkeypatch, capsys):
    set_params({"benchmark.ray": "127.0.0.1:1"})
    assert main(["benchmark"]) == 2
    assert "no Ray at 127.0.0.1:1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["benchmark"]) == 2
    assert 'pip install ".[ray]"' in capsys.readouterr().err.splitlines()[-1]
