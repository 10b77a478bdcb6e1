"""`dvc repro` with a head start: stages that need nothing of each other run in two lanes, side by side.

DVC runs one stage after the other, and a stage that imports, draws or writes leaves the second core idle. Where pieces
are made by one process at a time, as on a GPU, whose memory two stages would have to share, it is `dvc repro` alone.
"""

import os
import subprocess
import sys
from contextlib import ExitStack

from studies.settings import Params
from tav import interrupt

FIRST = ["edit"]  # with all that it takes
LANES = (
    ["ablate", "03_ablation", "control", "06_control"],
    ["peers", "04_baselines", "02_results", "objects", "05_multi_object", "01_method"],
)  # what is left runs after them, alone: of it, `cost` takes times


def reproduce(params: Params) -> None:
    """Runs every stage that is stale; ends the process with DVC's exit code if one fails."""
    first = _dvc(*FIRST)
    from studies.machine import process_count  # two seconds for torch, which DVC need not wait for

    _finish(first)
    if process_count(params) > 1:
        lanes = []
        with interrupt.unwinding(), ExitStack() as stack:
            for row, lane in enumerate(LANES):  # each with its bars in a row of its own
                lanes.append(stack.enter_context(_dvc("--single-item", *lane, TQDM_POSITION=str(row))))
            codes = [lane.wait() for lane in lanes]
        if failed := [code for code in codes if code]:
            sys.exit(failed[0])
    _finish(_dvc())


def _dvc(*arguments: str, **environment: str) -> subprocess.Popen:
    """Starts `dvc repro`."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments]
    return subprocess.Popen(command, env=os.environ | environment)


def _finish(running: subprocess.Popen) -> None:
    with interrupt.unwinding(), running:
        if code := running.wait():
            sys.exit(code)
