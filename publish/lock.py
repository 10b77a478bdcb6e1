"""A dvc.lock that a kill cut off while DVC wrote it: noticed, and the committed one put back."""

import subprocess
from pathlib import Path

from dvc.dvcfile import LOCK_FILE, Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo

from tav.errors import InputError, one_line

LOST = "nothing is lost, as stages that run again find their pieces"


def mend_lock() -> None:
    """Puts the committed dvc.lock in the place of one that is not whole, or removes that if none is committed.

    Says so in one line, and nothing where all is well. Raises InputError if git cannot write.
    """
    if not (reason := _broken()):
        return
    if _git("cat-file", "-e", f"HEAD:./{LOCK_FILE}").returncode == 0:
        # HEAD: DVC stages what it writes, so that the index may hold the broken one
        done = _git("checkout", "HEAD", "--", LOCK_FILE)
        if done.returncode:
            raise InputError(f"{LOCK_FILE} is broken and git cannot put it back: {one_line(done.stderr)}")
        if not _broken():
            print(f"{LOCK_FILE} was broken ({reason}): the committed one is back; {LOST}")
            return
    Path(LOCK_FILE).unlink()
    print(f"{LOCK_FILE} was broken ({reason}) and git has no whole one: it is removed; {LOST}")


def _broken() -> str:
    """What is wrong with dvc.lock; "" if it is whole, or not there, which DVC takes for a first run."""
    path = Path(LOCK_FILE)
    if not path.is_file():
        return ""
    if not path.read_bytes().endswith(b"\n"):  # DVC may be able to read it: a digest can end early
        return "it ends in the middle of a line"
    try:
        Lockfile(Repo(), LOCK_FILE).load()
    except DvcException as error:
        return one_line(error)
    return ""


def _git(*arguments: str) -> subprocess.CompletedProcess:
    """Runs git here; where it is not installed, this fails as where there is no repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 128)
