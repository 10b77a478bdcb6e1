"""Pieces that are made in processes side by side: the same bytes, and errors as of one process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from studies.__main__ import main
from studies.settings import load_params
from studies.stages import edits_of
from studies.store import Missing, finished_only
from tests import tiny

ROOT = Path(__file__).parents[2]
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


NEVER_DONE = """
import os, time
from pathlib import Path
from studies.ahead import make_ahead
from studies.settings import load_params
from studies.store import Store

def make(name):
    Store().take("frames", {"name": name}, (), lambda folder: sleep(name))

def sleep(name):
    Path(f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(600)

make_ahead(load_params(), make, [("a",), ("b",)])
"""


def test_when_one_process_is_killed_the_others_end_and_memory_is_said_to_be_too_little(two_clips, set_params):
    set_params({"processes": 2})
    environment, files = os.environ | {"PYTHONPATH": str(ROOT)}, [Path("a.pid"), Path("b.pid")]
    started = subprocess.Popen([sys.executable, "-c", NEVER_DONE], env=environment, stderr=subprocess.PIPE, text=True)
    while not all(file.exists() and file.read_text() for file in files):
        assert started.poll() is None
        time.sleep(0.1)
    os.kill(int(files[0].read_text()), signal.SIGKILL)
    assert "MemoryError: one of 2 processes was killed" in started.communicate(timeout=20)[1]
    assert not Path(f"/proc/{files[1].read_text()}").exists()


def test_processes_end_when_the_one_that_started_them_is_killed(two_clips, set_params):
    set_params({"processes": 2})
    environment, files = os.environ | {"PYTHONPATH": str(ROOT)}, [Path("a.pid"), Path("b.pid")]
    started = subprocess.Popen([sys.executable, "-c", NEVER_DONE], env=environment)
    while not all(file.exists() and file.read_text() for file in files):
        assert started.poll() is None
        time.sleep(0.1)
    started.kill()
    started.wait()
    processes = [int(file.read_text()) for file in files]
    for _ in range(100):
        if not any(Path(f"/proc/{process}").exists() for process in processes):
            return
        time.sleep(0.1)
    raise AssertionError(f"{processes} are left")


def test_a_process_that_is_killed_is_too_little_memory(two_clips, set_params, capsys, monkeypatch):
    set_params({"processes": 2})
    monkeypatch.setattr("studies.stages.edits_of", tiny.kill_this_process)
    assert main(["edit"]) == 4
    assert "out of memory: set processes to 1, " in capsys.readouterr().err
