"""The store of finished pieces: each is made once, whole or not at all, and found again by what it depends on.

A piece is a folder of files, .pieces/<kind>/<key>. Its key is a digest of everything it is made from: what its maker
reads (settings, texts, digests of other pieces, of models and of clips), the maker's code and the libraries' versions.
piece.json in it says all of that, and the digest of the files; its time is when the piece was last used.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from studies.code import digest_of_code
from studies.digests import digest_of_files
from studies.results import alone_in
from tav.errors import InputError, loading

FOLDER, UNFINISHED, RECORD = Path(".pieces"), "unfinished", "piece.json"
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch")


_MAKING = ContextVar("making", default=True)


class Missing(LookupError):
    """A piece that is not there, where none may be made."""


@contextmanager
def finished_only() -> Iterator[None]:
    """Has stores raise Missing for a while instead of making a piece."""
    before = _MAKING.set(False)
    try:
        yield
    finally:
        _MAKING.reset(before)


def about_to_make(kind: str) -> None:
    """Raises Missing where nothing may be made."""
    if not _MAKING.get():
        raise Missing(kind)


class Piece(NamedTuple):
    """A finished piece: where its files are, and their digest, which what is made from it depends on."""

    folder: Path
    digest: str


class Store:
    """A folder of pieces, which any number of processes may use at once."""

    def __init__(self, folder: str | Path = FOLDER):
        self.folder = Path(folder)

    def find(self, kind: str, needs: Mapping, code: tuple[Callable | str, ...]) -> Piece | None:
        """The piece of these needs, if it was made; it counts as used now."""
        record = self._place(kind, needs, code) / RECORD
        if not record.is_file():
            return None
        os.utime(record)
        with loading(record, f"delete {record.parent}, it is made again"):
            written = json.loads(record.read_text())
            if not isinstance(written, dict) or not isinstance(written["digest"], str):
                raise ValueError("it is no record of a piece")
            return Piece(record.parent, written["digest"])

    def take(self, kind: str, needs: Mapping, code: tuple[Callable | str, ...], make: Callable[[Path], None]) -> Piece:
        """The piece of these needs; where there is none, `make` writes its files into a folder.

        needs: all that the files depend on beside code, as JSON has it. code: the functions and classes that make them,
        see `digest_of_code`. A killed `make` finds what it left in its folder when it is called again; of two processes
        that want the same piece, one makes it and the other waits.
        """
        place = self._place(kind, needs, code)
        unfinished = self.folder / UNFINISHED / f"{kind}-{place.name}"
        while not (piece := self.find(kind, needs, code)):
            about_to_make(kind)
            with alone_in(unfinished):
                if (place / RECORD).exists():  # finished by another process a moment ago
                    continue
                unfinished.mkdir(exist_ok=True)
                (unfinished / RECORD).unlink(missing_ok=True)  # of a kill just before the end
                make(unfinished)
                record = {"needs": needs, "digest": digest_of_files(unfinished)}
                (unfinished / RECORD).write_text(json.dumps(record, indent=1) + "\n")
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)  # what a killed `prune` left there
                unfinished.rename(place)
        return piece

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Per kind, how many pieces there are and how many bytes they take; what is unfinished is a kind of its own."""
        kinds = sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []
        return {kind.name: (sum(1 for path in kind.iterdir() if path.is_dir()), _bytes(kind)) for kind in kinds}

    def prune(self, most: int) -> int:
        """Deletes what nobody is making, and the pieces that were not used for longest, until `most` bytes are left.

        Returns the number of pieces that were deleted.
        """
        for unfinished in [path for path in (self.folder / UNFINISHED).glob("*") if path.is_dir()]:
            with suppress(Timeout), alone_in(unfinished, wait=False):
                shutil.rmtree(unfinished, ignore_errors=True)  # it may have been finished a moment ago
        pieces = sorted((record.stat().st_mtime, record.parent) for record in self.folder.glob(f"*/*/{RECORD}"))
        left, deleted = sum(_bytes(piece) for _, piece in pieces), 0
        for _, piece in pieces:
            if left <= most:
                break
            left -= _bytes(piece)
            (piece / RECORD).unlink()  # first, so that what a kill leaves behind is no piece
            shutil.rmtree(piece)
            deleted += 1
        return deleted

    def _place(self, kind: str, needs: Mapping, code: tuple[Callable | str, ...]) -> Path:
        asked = {"needs": needs, "code": digest_of_code(*code), "libraries": _versions()}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self.folder / kind / key[:24]


@cache
def _versions() -> list[str]:
    return [version(name) for name in LIBRARIES]


def show(store: Store | None = None) -> None:
    """Prints how many pieces of each kind there are, and what they take."""
    sizes = (store or Store()).sizes()
    for kind, (count, size) in sizes.items():
        print(f"{kind:12} {count:6} {size / 1e6:10.1f} MB")
    print(f"{'all':12} {sum(c for c, _ in sizes.values()):6} {sum(s for _, s in sizes.values()) / 1e6:10.1f} MB")


def prune(size: str, store: Store | None = None) -> None:
    """Deletes pieces until they take `size`, such as 2GB, 300MB or 0; see `Store.prune`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GB|MB|KB|B)?", size.strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"{size} is no size: give one such as 2GB, 300MB or 0")
    most = int(Decimal(match[1]) * UNITS[(match[2] or "B").upper()])
    print(f"{(store or Store()).prune(most)} pieces deleted")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
