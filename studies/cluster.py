"""One task per clip on Ray (the extra `ray`): the GPUs of this machine, or of a cluster that shares this folder."""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from studies.settings import Params
from tav.errors import InputError, one_line


def each(function: Callable, params: Params, names: list[str]) -> Iterator[tuple[str, object]]:
    """Runs function(params, name) for every name as a task of Ray, and yields (name, result) as tasks end.

    `params.benchmark.ray` is `local` or the address of a cluster, whose machines must have this folder at the same path
    and the same environment. A task has a GPU of its own if there are any, else as many cores as this process has CPU
    threads; it has that many threads, so that its result is that of this process. If its worker dies it runs again, up
    to `params.benchmark.retries` times and on another machine if its own is gone. A task that fails does not stop the
    others: its error is raised last.
    Raises InputError if Ray is not installed or not reached, or a worker dies too often.
    """
    # When memory ends, Ray kills a worker and, unless told before its import, starts the task again without end.
    os.environ["RAY_task_oom_retries"] = str(params.benchmark.retries)
    try:
        import ray  # an extra
    except ImportError as error:
        raise InputError('benchmark.ray needs Ray: `pip install ".[ray]"`, or set it to ""') from error
    _connect(ray, params.benchmark.ray)
    try:
        threads, has_gpu = torch.get_num_threads(), params.device != "cpu" and "GPU" in ray.cluster_resources()
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if not has_gpu and threads > most:
            raise InputError(f"a task takes {threads} CPU threads, a machine has {most:.0f}: set OMP_NUM_THREADS")
        needs = {"num_gpus": 1, "num_cpus": 1} if has_gpu else {"num_gpus": 0, "num_cpus": threads}
        task = ray.remote(max_retries=params.benchmark.retries, **needs)(_task)
        pending = {task.remote(os.getcwd(), threads, function, params, name): name for name in names}
        failed = []
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            name = pending.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                error.cause.__cause__ = error  # which tells where it happened
                failed.append(error.cause)
                continue
            except ray.exceptions.RayError as error:
                failed.append(
                    InputError(f"{name} did not end, with {params.benchmark.retries} retries: {one_line(error)}")
                )
                continue
            yield name, result
        if failed:
            raise failed[0]
    finally:
        ray.shutdown()


def _connect(ray, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        quiet["include_dashboard"] = False
    modules = {"env_vars": {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}}
    try:
        if match := re.fullmatch(r"([\w.-]+):(\d+)", address):  # Ray itself waits for minutes
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        ray.init(address, runtime_env=modules, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray at {address} ({one_line(error)}): start it, or set benchmark.ray to local") from error


def _task(folder: str, threads: int, function: Callable, params: Params, name: str):
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not on this machine: Ray's machines have to share the folder at one path")
    os.chdir(folder)
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(threads)
    return function(params, name)
