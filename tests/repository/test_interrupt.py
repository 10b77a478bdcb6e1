"""Ctrl-C, really sent to commands that run: one line, exit code 130, and nothing that goes on without them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tav.interrupt import LINE

ROOT = Path(__file__).parents[2]
SLOW = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
out = "results"

# %%
import time
from pathlib import Path

Path("at-work").touch()
time.sleep(300)
"""


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment, **pipes)


def interrupted(running: subprocess.Popen, by: signal.Signals = signal.SIGINT) -> str:
    """What an interrupted command says on stderr: by Ctrl-C with all its group, as a terminal does, else alone."""
    (os.killpg if by == signal.SIGINT else os.kill)(running.pid, by)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130, said
    return said


def wait_for(running: subprocess.Popen, what) -> None:
    while not what():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "command, module",
    [
        ("studies tune", "pydantic"),
        ("studies tune", "torch.nn"),
        ("publish report", "numpy"),
        ("benchmarks.cost", "numpy"),
        ("benchmarks.search", "torch.nn"),
        ("footage tgve", "requests"),
    ],
)
def test_ctrl_c_while_a_command_imports_is_one_line(workplace, command, module):
    running = start(*command.split(), PYTHONPROFILEIMPORTTIME="1")
    for line in running.stderr:
        if line.split("|")[-1].strip().startswith(module):
            break
    said = interrupted(running).splitlines(keepends=True)
    assert [line for line in said if not line.startswith("import time:")] == [LINE]


def test_ctrl_c_while_a_clip_is_tuned_is_one_line_and_the_next_run_goes_on_from_there(workplace, set_params):
    set_params({"tune.steps": 60})
    running = start("studies", "tune")
    wait_for(running, lambda: list(Path(".pieces/unfinished").rglob("state.safetensors")))
    assert interrupted(running) == LINE
    assert not Path("results/tune").exists() and list(Path(".pieces/unfinished").rglob("state.safetensors"))


def test_ctrl_c_in_a_notebook_is_one_line_and_its_kernel_ends(workplace):
    Path("notebooks").mkdir()
    Path("notebooks/slow.py").write_text(SLOW)
    running = start("publish", "notebook", "slow")
    wait_for(running, Path("at-work").exists)
    kernels = psutil.Process(running.pid).children(recursive=True)
    assert interrupted(running) == LINE
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    assert not Path("results/notebooks/slow/slow.ipynb").exists()


def test_ctrl_c_in_a_measurement_is_one_line_and_its_process_ends(workplace):
    running = start("benchmarks.cost")
    process = psutil.Process(running.pid)
    # the server of processes, their tracker, and one process
    wait_for(running, lambda: len(process.children(recursive=True)) > 2)
    children = process.children(recursive=True)
    assert interrupted(running) == LINE
    assert not psutil.wait_procs(children, timeout=10)[1] and not list(Path("results").glob("cost"))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_end_of_the_smoke_run_that_is_heard_takes_its_folder_away(workplace, tmp_path, by):
    for name in ("notebooks", "dvc.yaml"):
        Path(name).symlink_to(ROOT / name)
    Path("data").mkdir()
    shutil.move("square.mp4", "data/square.mp4")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("square.mp4", "data/square.mp4"))
    Path("elsewhere").mkdir()
    running = start("publish", "smoke", TMPDIR=str(tmp_path / "elsewhere"))
    for line in running.stdout:
        if line.startswith("ok   inputs"):
            break
    assert list(Path("elsewhere").glob("tmp*"))
    assert interrupted(running, by) == LINE
    assert not list(Path("elsewhere").glob("tmp*"))
