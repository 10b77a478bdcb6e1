"""The folder results/, which the stages fill: every part of it is written whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESULTS = Path("results")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its place when it is complete: no result is ever half written."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
