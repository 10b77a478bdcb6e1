"""The folder results/, which the stages fill: every part of it is written whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from tav.errors import loading

RESULTS = Path("results")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its place when it is complete: no result is ever half written.

    Of two processes that write the same folder one waits for the other.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    with alone_in(partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


@contextmanager
def alone_in(folder: Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock on a folder, which ends with the process; Timeout if somebody else has it and nobody waits.

    A folder in which nothing was left is taken away again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f"{folder.name}.lock")
    with FileLock(lock, blocking=wait):
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
            with suppress(OSError):  # Windows deletes no open file; whoever waits for one that is gone makes another
                lock.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that may be there already: a kill leaves the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    partial.replace(path)


@contextmanager
def reading(path: str | Path) -> Iterator[Path]:
    """Turns what is raised while a result is read here into an InputError that says what makes it."""
    with loading(path, make_it(path)):
        yield Path(path)


def make_it(path: str | Path) -> str:
    """Advice to run what makes a result, by the path of the result or of something in it."""
    match Path(path).parts:
        case ("results", "cost", *_):
            command = "python -m benchmarks.cost"
        case ("results", "notebooks", name, *_):
            command = f"python -m publish notebook {name}"
        case ("results", stage, *_):
            command = f"python -m studies {stage}"
        case ("reports", "benchmark", *_):
            command = "git checkout reports/benchmark"
        case ("reports", *_):
            command = "python -m publish report"
        case _:
            return "check the path"
    return f"run `{command}`"


def explain(error: OSError) -> str:
    """What is wrong with a file or folder, as one line that names it and what to do."""
    paths = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not paths:
        return str(error)
    for path in (part for named in paths for part in [*reversed(named.parents), named]):
        if not path.exists() and path.is_symlink():
            return f"{path} is a link to {os.readlink(path)}, which is not there: take it away"
        if path.is_file() and isinstance(error, NotADirectoryError | FileExistsError):
            return f"{path} is a file where a folder should be: move it away"
    if isinstance(error, FileNotFoundError):
        return f"{paths[0]} does not exist: {make_it(paths[0])}"
    return f"{paths[0]}: {error.strerror}"
