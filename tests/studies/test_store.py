"""The store of pieces: what finds one again, what survives a kill, and two processes that want the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import Timeout

from studies import store as module
from studies.results import alone_in, replacing
from studies.store import Store, prune, show

SLOW = """
import sys, time
from pathlib import Path
from studies.store import Store

def make(folder):
    with open("made", "a") as file:
        file.write("x")
    (folder / "half").write_text("half")
    time.sleep(float(sys.argv[1]))
    (folder / "whole").write_text("whole")

print(Store("pieces").take("kind", {"of": 1}, (), make).digest)
"""


def write(text):
    return lambda folder: (folder / "text").write_text(text)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store("pieces")


def start(seconds: float) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(seconds)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_piece_is_made_once_and_found_by_what_it_needs(store):
    first = store.take("kind", {"prompt": "a"}, (write,), write("one"))
    assert store.take("kind", {"prompt": "a"}, (write,), write("two")) == first
    assert (first.folder / "text").read_text() == "one"
    others = [("kind", {"prompt": "b"}, (write,)), ("other", {"prompt": "a"}, (write,)), ("kind", {"prompt": "a"}, ())]
    for kind, needs, code in others:
        assert store.find(kind, needs, code) is None
    assert store.take("kind", {"prompt": "b"}, (write,), write("one")).digest == first.digest


def test_a_maker_that_fails_leaves_nothing_and_is_called_again(store):
    def fail(folder):
        raise ValueError

    with pytest.raises(ValueError):
        store.take("kind", {}, (), fail)
    assert store.find("kind", {}, ()) is None and not list(Path("pieces/unfinished").iterdir())
    assert store.take("kind", {}, (), write("made"))


def test_a_killed_maker_leaves_no_piece_but_what_it_had_written(store):
    maker = start(60)
    while not list(Path("pieces").rglob("half")) if Path("pieces").exists() else True:
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert store.find("kind", {"of": 1}, ()) is None
    found = []
    store.take("kind", {"of": 1}, (), lambda folder: found.append((folder / "half").exists()))
    assert found == [True]


def test_what_a_killed_prune_left_is_made_again(store):
    piece = store.take("kind", {}, (), write("one"))
    (piece.folder / module.RECORD).unlink()  # the first thing that it deletes
    assert store.find("kind", {}, ()) is None
    assert (store.take("kind", {}, (), write("two")).folder / "text").read_text() == "two"


def test_of_two_processes_that_want_the_same_piece_one_makes_it(store):
    makers = [start(1.0) for _ in range(3)]
    digests = {maker.communicate()[0] for maker in makers}
    assert len(digests) == 1 and Path("made").read_text() == "x"
    assert not list(Path("pieces/unfinished").iterdir())


def test_the_pieces_that_were_not_used_for_longest_go_first(store, capsys):
    pieces = [store.take("kind", {"number": number}, (), write("x" * 1000)) for number in range(3)]
    for age, piece in enumerate(reversed(pieces)):
        os.utime(piece.folder / module.RECORD, (1000 - age, 1000 - age))
    store.find("kind", {"number": 0}, ())  # used again: now the youngest
    show(store)
    assert "kind              3" in capsys.readouterr().out
    prune("1.5KB", store)
    assert capsys.readouterr().out == "2 pieces deleted\n"
    assert [store.find("kind", {"number": number}, ()) is not None for number in range(3)] == [True, False, False]


def test_what_is_being_made_is_not_pruned(store):
    maker = start(2)
    while not list(Path("pieces").rglob("half")) if Path("pieces").exists() else True:
        time.sleep(0.01)
    store.prune(0)
    assert maker.communicate()[0] and store.find("kind", {"of": 1}, ())
    assert store.prune(0) == 1 and store.find("kind", {"of": 1}, ()) is None


def test_a_record_of_a_kill_just_before_the_end_changes_no_digest(store):
    undisturbed = Store("other").take("kind", {}, (), write("one")).digest

    def leave_a_record(folder):
        (folder / module.RECORD).write_text("{}")
        raise SystemExit

    with pytest.raises(SystemExit):
        store.take("kind", {}, (), leave_a_record)
    assert store.take("kind", {}, (), write("one")).digest == undisturbed


def test_any_number_of_bytes_is_a_size(store, capsys):
    store.take("kind", {}, (), write("one"))
    prune(f"{'9' * 400}GB", store)
    assert capsys.readouterr().out == "0 pieces deleted\n"


def test_a_result_is_written_by_one_process_at_a_time(store):
    with replacing(Path("results")) as folder, pytest.raises(Timeout), alone_in(folder, wait=False):
        pass
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["results"]
