"""A dvc.lock that was cut off, with the real git and DVC: it is noticed, said in a line, and DVC works again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from publish.__main__ import main
from publish.lock import mend_lock
from tav.errors import InputError

PIPELINE = """\
stages:
  one:
    cmd: echo 1 > one
    outs: [one]
  two:
    cmd: cp one two
    deps: [one]
    outs: [two]
"""


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)


def git(*arguments: str) -> str:
    identity = "-c", "user.name=a", "-c", "user.email=a@b"
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A pipeline of two stages that has run and is committed."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        dvc("init", "-q")
        dvc("config", "core.autostage", "true")
        Path("dvc.yaml").write_text(PIPELINE)
        assert dvc("repro").returncode == 0
        git("add", "-A")
        git("commit", "-qm", "a run")
    return folder


@pytest.fixture
def lock(project, tmp_path, monkeypatch):
    """dvc.lock of a copy of that pipeline, which is the current folder."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "project"))
    return Path("dvc.lock")


def cuts(text: str) -> dict[str, str]:
    digest = text.index("md5: ") + len("md5: 0123")
    return {
        "no whole YAML": text[: text.index("hash: md5") + len("hash")],
        "whole YAML without keys": text[: text.rindex("    cmd")],
        "half a digest": text[:digest],
        "half a word": text[:10],
        "nothing": "",
        "something else": "- a list\n",
        "a conflict": f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n",
    }


@pytest.mark.parametrize("kind", cuts("hash: md5 md5: 012345678    cmd"))
def test_a_lock_that_is_cut_off_is_replaced_by_the_committed_one_in_one_line(lock, capsys, kind):
    whole = lock.read_text()
    lock.write_text(cuts(whole)[kind])
    git("add", "dvc.lock")  # as DVC does
    assert main(["lock"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("dvc.lock was broken (") and said.count("\n") == 1 and "the committed one is back" in said
    assert lock.read_text() == whole and git("status", "--porcelain") == ""


def test_dvc_works_again_after_that_and_did_not_before(lock):
    lock.write_text(cuts(lock.read_text())["whole YAML without keys"])
    assert dvc("repro").returncode != 0
    mend_lock()
    done = dvc("repro")
    assert done.returncode == 0 and "Running stage" not in done.stdout


def test_a_whole_lock_or_none_is_left_as_it_is(lock, capsys):
    newer = lock.read_text().replace("two", "three")
    lock.write_text(newer)
    mend_lock()
    assert lock.read_text() == newer
    lock.unlink()
    mend_lock()
    assert not lock.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("without", ["git", "a repository", "a commit", "a whole commit"])
def test_without_a_committed_lock_a_broken_one_is_removed(lock, capsys, monkeypatch, without):
    folder = Path.cwd()
    lock.write_text(lock.read_text()[:40])
    if without == "git":
        monkeypatch.setenv("PATH", "")
    elif without == "a repository":
        dvc("config", "core.no_scm", "true")
        Path(".git").rename("elsewhere")
    elif without == "a commit":
        git("update-ref", "-d", "HEAD")
    else:
        git("commit", "-qam", "a broken lock")
    mend_lock()
    monkeypatch.undo()
    said = capsys.readouterr().out
    assert not list(folder.glob("dvc.lock")) and "it is removed" in said and said.count("\n") == 1


def test_a_git_that_cannot_write_is_named(lock):
    Path(".git/index.lock").touch()
    lock.write_text("")
    with pytest.raises(InputError, match=r"git cannot put it back: .*index.lock"):
        mend_lock()
