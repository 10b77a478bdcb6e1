"""Ctrl-C ends a command with one line and exit code 130, from its imports on, which can take seconds."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LINE = "interrupted: what is finished is kept, run the same command again\n"


def run(main: Callable[[], int | None]) -> int:
    """Runs a command's `main`, and ends the process if Ctrl-C is pressed meanwhile; returns what `main` does, or 0."""
    watch()
    try:
        return main() or 0
    except KeyboardInterrupt:  # out of `unwinding`
        _end()


def watch_imports() -> None:
    """Watches from here on if the package that calls this is imported for a command, `python -m package`.

    Python has -m in the place of the command's path until it has found it.
    """
    if sys.argv[0] == "-m":
        watch()


def watch() -> None:
    """Ends the process at the next Ctrl-C.

    At once and not by an exception, which an import in C reports as another one, and a destructor as ignored. What
    commands write is whole or not there, as after a kill.
    """
    signal.signal(signal.SIGINT, _end)


@contextmanager
def unwinding() -> Iterator[None]:
    """Lets Ctrl-C, and a kill that can be heard, leave the block as KeyboardInterrupt, so that its processes and
    temporary folders are taken away."""
    heard = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, signal.default_int_handler) for kind in heard]
    try:
        yield
    finally:
        for kind, handler in zip(heard, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def held() -> Iterator[None]:
    """Holds Ctrl-C back until the end of the block; processes that start in it never hear of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Ends this process, one of several side by side, within a second after the one that started it was killed.

    SIGTERM ends it at once, as whoever started it, `unwinding`, may need it to.
    """

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    threading.Thread(target=wait, daemon=True).start()


def _end(*_) -> None:
    with suppress(RuntimeError, OSError):  # it may be in the middle of a write, or nobody reads it
        sys.stdout.flush()
    line_end = "\n" if os.isatty(2) else ""  # of a progress bar
    os.write(2, f"{line_end}{LINE}".encode())
    os._exit(130)
