"""`dvc repro` with a head start: one process imports for all stages, and stages run in two lanes, side by side.

DVC runs one stage after the other, each in a new process: a stage that imports, draws or writes leaves the second core
idle, and importing alone takes seconds. Where pieces are made by one process at a time, as on a GPU, whose memory two
stages would have to share, it is `dvc repro` alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from publish.notebook import KERNEL_ENVIRONMENT
from studies import warm
from studies.settings import Params
from tav import interrupt

FIRST = ["edit", "benchmark"]  # with all that they take
LANES = (
    ["ablate", "03_ablation", "control", "06_control"],
    ["peers", "04_baselines", "02_results", "objects", "05_multi_object", "01_method"],
)  # what is left runs after them, alone: of it, `cost` takes times, in processes of its own
IMPORTED = (  # once for all
    *(f"studies.{stage}" for stage in ("stages", "ablation", "peers", "control", "objects")),
    *("measures.evaluate", "publish.notebook", "publish.report", "ipykernel.kernelapp"),
)


def reproduce(params: Params) -> None:
    """Runs every stage that is stale; ends the process with DVC's exit code if one fails."""
    with interrupt.unwinding(), TemporaryDirectory() as folder:
        can_fork = sys.platform == "linux"  # elsewhere what is imported may not live in a fork
        environment = _where_it_is_warm(Path(folder)) if can_fork else {}
        first = _dvc(*FIRST, **environment)
        from studies.machine import process_count  # two seconds for torch, which DVC need not wait for

        if process_count(params) == 1:
            _finish(first)
            _finish(_dvc())
            return
        with _warm(environment[warm.ADDRESS]) if can_fork else nullcontext():
            _finish(first)
            _run_lanes(environment)
            _finish(_dvc(**environment))


def _run_lanes(environment: dict[str, str]) -> None:
    lanes = []
    with ExitStack() as stack:
        for row, lane in enumerate(LANES):  # each with its bars in a row of its own
            running = _dvc("--single-item", *lane, TQDM_POSITION=str(row), **environment)
            lanes.append(stack.enter_context(running))
        codes = [lane.wait() for lane in lanes]
    if failed := [code for code in codes if code]:
        sys.exit(failed[0])


def _where_it_is_warm(folder: Path) -> dict[str, str]:
    """What has commands and kernels ask a process that listens in `folder`, see `studies.warm`."""
    spec = {"argv": [sys.executable, "-m", warm.__name__, "-f", "{connection_file}"], "language": "python"}
    kernel = folder / "kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps(spec | {"display_name": "Python 3"}))
    return {warm.ADDRESS: str(folder / "address"), "JUPYTER_PATH": str(folder)}


@contextmanager
def _warm(address: str) -> Iterator[None]:
    """The process that imports; it has one thread, as whatever makes pieces or scores them side by side."""
    command = [sys.executable, "-m", warm.__name__, "serve", str(os.getpid()), address, *IMPORTED]
    environment = os.environ | KERNEL_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            yield
        finally:
            server.kill()


def _dvc(*arguments: str, **environment: str) -> subprocess.Popen:
    """Starts `dvc repro`."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments]
    return subprocess.Popen(command, env=os.environ | environment)


def _finish(running: subprocess.Popen) -> None:
    with interrupt.unwinding(), running:
        if code := running.wait():
            sys.exit(code)
