"""Pieces that are made in processes side by side: the same bytes, and errors as of one process."""

import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from studies.__main__ import main
from studies.settings import load_params
from studies.stages import edits_of
from studies.store import Missing, finished_only
from tests import tiny

VERBS = ("tune", "invert", "edit", "ablate", "peers", "control", "objects")


@pytest.fixture
def two_clips(workplace, set_params):
    """Two clips, so that there is something to make side by side, and an environment without bars."""
    threads = torch.get_num_threads()
    shutil.copy("square.mp4", "other.mp4")
    clip = load_params().clips["square"].model_dump()
    clips = {name: clip | {"source": clip["source"] | {"path": f"{name}.mp4", "start": start}}
             for start, name in enumerate(("square", "other"))}  # fmt: skip
    YAML(typ="safe").dump({"clips": clips}, Path("several.yaml"))
    set_params({"clips": clips, "objects": "several.yaml", "ablation": {"own": {"inflate": {"attention": "own"}}},
                "peers": {"per-frame": {}, "sdedit": {}}})  # fmt: skip
    yield workplace
    torch.set_num_threads(threads)


def files(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_every_stage_leaves_what_one_process_with_one_thread_leaves(two_clips, set_params):
    torch.set_num_threads(1)
    assert [main([verb]) for verb in VERBS] == [0] * len(VERBS)
    alone = files("results")
    for folder in ("results", ".pieces"):
        shutil.rmtree(folder)
    set_params({"processes": 2})
    assert [main([verb]) for verb in VERBS] == [0] * len(VERBS)
    assert files("results") == alone


def test_what_is_finished_is_found_without_a_process(two_clips, set_params, monkeypatch):
    params = load_params()
    with finished_only(), pytest.raises(Missing):
        edits_of(params, "square")
    assert not list(Path(".pieces").glob("*/*"))
    assert main(["edit"]) == 0
    set_params({"processes": 2})
    monkeypatch.setattr("studies.ahead.ProcessPoolExecutor", None)
    assert main(["edit"]) == 0


def test_bad_input_in_a_process_is_one_line(two_clips, set_params, capsys):
    Path("other.mp4").write_bytes(b"no video")
    set_params({"processes": 2})
    assert main(["edit"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: other.mp4 cannot be read as a video") and said.count("\n") == 1


def test_a_process_that_is_killed_is_too_little_memory(two_clips, set_params, capsys, monkeypatch):
    set_params({"processes": 2})
    monkeypatch.setattr("studies.stages.edits_of", tiny.kill_this_process)
    assert main(["edit"]) == 4
    assert "out of memory: set processes to 1, " in capsys.readouterr().err
