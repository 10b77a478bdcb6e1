"""Commands in forks of one process: they say and return what they do alone, and end with whoever waits for them."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from studies import warm
from tests.workspace import ROOT

JOB = """
import json, os, sys, time

def main(arguments):
    if arguments[0] == "wait":
        open("process", "w").write(str(os.getpid()))
        if not os.fork():  # as pools do
            time.sleep(60)
        time.sleep(60)
    if arguments[0] == "fail":
        raise ValueError("a bug")
    if arguments[0] == "ask":
        from studies import warm
        return int(warm.ask("job", ["7"]) is not None)
    print(json.dumps([arguments, os.getcwd(), os.environ["TEXT"], sys.stdin.read(), os.environ.get("SERVER")]))
    return int(arguments[0])
"""


KERNEL = """
import time
from pathlib import Path

def launch_new_instance():
    Path("started").touch()
    while not Path("stop").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def served(tmp_path):
    """The environment in which commands find a process that has imported `job`."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job/__init__.py").touch()
    (tmp_path / "job/__main__.py").write_text(JOB)
    (tmp_path / "folder").mkdir()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", warm.ADDRESS: str(tmp_path / "address")}
    command = [
        sys.executable,
        "-m",
        "studies.warm",
        "serve",
        str(os.getpid()),
        environment[warm.ADDRESS],
        "job.__main__",
    ]
    with subprocess.Popen(command, env=environment | {"SERVER": "its own"}) as server:
        while not (tmp_path / "address").exists():
            time.sleep(0.01)
        yield environment
        server.kill()


def ask(environment, *arguments, **options) -> subprocess.Popen:
    asked = f"import sys; from studies.warm import ask; sys.exit(ask('job', {list(arguments)}))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", asked], env=environment, **pipes, **options)


def test_a_command_has_its_own_folder_environment_files_and_exit_code(served, tmp_path):
    for code in ("7", "0"):
        job = ask(served | {"TEXT": "ä\n"}, code, "b c", cwd=tmp_path / "folder")
        said, _ = job.communicate("what is typed")
        assert job.returncode == int(code)
        assert json.loads(said) == [[code, "b c"], str(tmp_path / "folder"), "ä\n", "what is typed", None]


def test_a_bug_is_told_as_ever(served):
    job = ask(served, "fail")
    assert "ValueError: a bug" in job.communicate()[1] and job.returncode == 1


def test_a_command_that_is_killed_ends_there_too_with_all_its_processes(served, tmp_path):
    job = ask(served, "wait", cwd=tmp_path)
    while not (tmp_path / "process").exists() or not (tmp_path / "process").read_text():
        time.sleep(0.01)
    worker = psutil.Process(int((tmp_path / "process").read_text()))
    while not (there := worker.children()):
        time.sleep(0.01)
    job.kill()
    assert not psutil.wait_procs([worker, *there], timeout=10)[1]


def test_a_command_in_a_fork_does_not_ask_again(served):
    job = ask(served, "ask")
    job.communicate()
    assert job.returncode == 0


def test_a_kernel_that_is_interrupted_goes_on_and_says_nothing(served, tmp_path):
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel/__init__.py").touch()
    (tmp_path / "ipykernel/kernelapp.py").write_text(KERNEL)
    command = [sys.executable, "-m", "studies.warm", "-f", "connection.json"]
    with subprocess.Popen(command, env=served, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as kernel:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        kernel.send_signal(signal.SIGINT)
        time.sleep(0.2)
        (tmp_path / "stop").touch()
        said = kernel.communicate()[1]
    assert kernel.returncode == 0 and not said


def test_where_nobody_answers_a_command_runs_as_it_always_does(monkeypatch, tmp_path):
    monkeypatch.delenv(warm.ADDRESS, raising=False)
    assert warm.ask("job", []) is None
    monkeypatch.setenv(warm.ADDRESS, str(tmp_path / "nobody"))
    assert warm.ask("job", []) is None


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    start = """import os, subprocess, sys
command = [sys.executable, "-m", "studies.warm", "serve", str(os.getpid()), *sys.argv[1:]]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
print(subprocess.Popen(command, **quiet).pid)"""
    command = [sys.executable, "-c", start, str(tmp_path / "address")]
    started = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    try:
        psutil.Process(int(started.stdout)).wait(10)
    except psutil.NoSuchProcess:
        pass
