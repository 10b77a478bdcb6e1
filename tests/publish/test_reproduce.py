"""`make reproduce`: the stages in two lanes are the stages of dvc.yaml, in an order that DVC allows."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from publish import reproduce
from studies.settings import load_params
from tests.workspace import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def made_from(stage: str) -> set[str]:
    """The stages that a stage needs, and those that they need."""
    found = set()
    for dependency in STAGES[stage]["deps"]:
        for other, its in STAGES.items():
            made = [next(iter(out)) if isinstance(out, dict) else out for out in its["outs"]]
            if any(Path(dependency).is_relative_to(out) for out in made) and other != stage:
                found |= {other} | made_from(other)
    return found


def test_a_stage_stands_in_its_lane_after_all_that_it_needs():
    first = {stage for wanted in reproduce.FIRST for stage in {wanted} | made_from(wanted)}
    assert {"inputs", "tune", "invert"} < first
    for lane in reproduce.LANES:
        for place, stage in enumerate(lane):
            late = made_from(stage) - first - set(lane[:place]) - {"benchmark"}  # which keeps what was committed
            assert not late, (stage, late)
    both = [stage for lane in reproduce.LANES for stage in lane]
    assert len(both) == len(set(both)) and not first & set(both)
    assert not {"cost", "07_cost", "report"} & set(both)  # times are taken when nothing runs beside


@pytest.fixture
def commands(workplace, monkeypatch):
    """Python with nothing to do in the place of DVC, or killed for a stage named in `failing`; what was asked of it."""
    asked, failing, start = [], [], subprocess.Popen

    def popen(command, env, **options):
        if "dvc" in command:
            asked.append(command[5:])
        ends = "import os; os.kill(os.getpid(), 9)" if set(failing) & set(command) else ""
        return start([sys.executable, "-c", ends], env=env, **options)

    monkeypatch.setattr("publish.reproduce.subprocess.Popen", popen)
    return asked, failing


def test_lanes_run_between_what_both_need_and_what_is_left(commands, set_params):
    set_params({"processes": 2})
    reproduce.reproduce(load_params())
    assert commands[0] == [reproduce.FIRST, *(["--single-item", *lane] for lane in reproduce.LANES), []]


def test_where_one_process_makes_pieces_there_are_no_lanes(commands, set_params):
    set_params({"processes": 1})
    reproduce.reproduce(load_params())
    assert commands[0] == [reproduce.FIRST, []]


@pytest.mark.parametrize(("stage", "runs"), [("edit", 1), ("peers", 3)])
def test_a_stage_that_is_killed_ends_it(commands, set_params, stage, runs):
    set_params({"processes": 2})
    commands[1].append(stage)
    with pytest.raises(SystemExit, match="-9"):
        reproduce.reproduce(load_params())
    assert len(commands[0]) == runs
