"""Pieces made ahead of whoever collects them, in processes side by side: a small model leaves the second core idle."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from studies.machine import bars, process_count
from studies.settings import Params
from studies.store import Missing, finished_only
from tav import interrupt


def make_ahead(params: Params, make: Callable, jobs: Sequence[tuple]) -> None:
    """Runs make(*job) for those of the jobs whose pieces are not all there, `params.processes` at once.

    make: a function of a module that takes pieces from the store. Where there is one process, on a GPU, or for a single
    job, nothing is done: whoever collects the pieces makes them. Each process has one thread, this one too if there may
    be more, so that a piece does not depend on how many were made beside it.
    Raises what `make` raises, and MemoryError if a process is killed.
    """
    count = process_count(params)
    if count == 1:
        return
    torch.set_num_threads(1)
    missing = [job for job in jobs if not _is_finished(make, job)]
    if len(missing) < 2:
        return
    # A fork has everything imported; nothing was computed here, so that no thread is missing in it.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = min(count, len(missing))
    with interrupt.unwinding(), ProcessPoolExecutor(workers, context, _begin) as pool:
        with interrupt.held():  # else it may come when there is a process that nobody knows yet
            running = [pool.submit(make, *job) for job in missing]
        try:
            for done in tqdm(as_completed(running), f"{workers} processes", len(running), **bars()):
                done.result()
        except BrokenProcessPool as error:
            raise MemoryError(f"one of {workers} processes was killed") from error
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # which would be waited for
                child.kill()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    torch.set_num_threads(1)
    interrupt.end_with_parent()


def _is_finished(make: Callable, job: tuple) -> bool:
    try:
        with finished_only():
            make(*job)
    except Missing:
        return False
    return True
