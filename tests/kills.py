"""Kills commands at random moments, runs them again, and compares what they leave with an undisturbed run.

    python -m tests.kills --kills 100                                  # every command, and prints what came of it
    python -m tests.kills --kills 100 --page docs/kills.md             # and writes the table of that page
    python -m tests.kills --kills 4 "studies inputs" "studies tune"    # these, each after those before it

The pipeline runs on a tiny model in a folder of its own: first undisturbed, which is committed, and then with another
seed, so that every command makes something new in the place of something old. A command is killed with its children, by
SIGKILL, SIGTERM or Ctrl-C (SIGINT), at a moment drawn evenly from the time that it takes. The exit code is 1 if Ctrl-C
gives more than its line, or if a command that is run again fails or leaves other bytes.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from publish.marks import write_marked
from tav.interrupt import LINE
from tests.workspace import CLIP, NOTEBOOKS, Workspace

VERBS = ("inputs", "tune", "invert", "edit", "ablate", "peers", "control", "objects", "benchmark")
COMMANDS = [
    "dvc repro edit",
    *(f"studies {verb}" for verb in VERBS),
    *(f"publish notebook {name}" for name in NOTEBOOKS),
    "publish report",
    "studies prune 0",
]
MADE, LOCK = ("results", "reports", ".pieces"), "dvc.lock"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=COMMANDS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before", nargs="*", default=[], help="stages of the run that is committed; all by default")
    parser.add_argument("--page", type=Path, help="a page whose marked part `kills` gets the table")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = kill(Path(folder), options.commands, options.kills, options.seed, options.before)
    if options.page:
        write_marked(options.page, "kills", table(rows, options.seed))
    print(table(rows, options.seed))
    return int(any(row["wrong"] for row in rows.values()))


def kill(folder: Path, commands: list[str], kills: int, seed: int, stages: list[str]) -> dict[str, Counter]:
    """Kills the commands in turn, `kills` times; per command how often by which signal, and what was found after it.

    stages: those of the run that is committed; none: all. A command that ended before its moment does not count.
    """
    workspace, draw = Workspace(folder / "workspace"), random.Random(seed)
    YAML(typ="safe").dump({"clips": {"one": CLIP}}, workspace.folder / "data/evaluation.yaml")
    workspace.settings["benchmark"] |= {"run": True}
    workspace.repro(*stages)
    subprocess.run(["git", "add", LOCK], cwd=workspace.folder, check=True)
    identity = "-c", "user.name=kills", "-c", "user.email="
    subprocess.run(["git", *identity, "commit", "-qm", "The run before"], cwd=workspace.folder, check=True)
    workspace.settings["tune"]["seed"] += 1

    before, after, seconds = {command: folder / command for command in commands}, {}, {}
    for command in commands:
        copy(workspace.folder, before[command])
        started = time.monotonic()
        assert run(workspace, command) == 0, workspace.output
        after[command], seconds[command] = left(workspace), time.monotonic() - started
        if command.startswith("dvc"):  # else the verbs after it would find everything made
            copy(before[command], workspace.folder)

    rows = {command: Counter() for command in commands}
    while (done := sum(row["kills"] for row in rows.values())) < kills:
        command, by = commands[done % len(commands)], draw.choice(SIGNALS)
        copy(before[command], workspace.folder)
        running = workspace.start(*command.split())
        try:
            running.communicate(timeout=draw.uniform(0, seconds[command]))
            continue
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, by)
            said = running.communicate()[0]
        listened = running.returncode != -signal.SIGINT  # else Python did not yet, or no more
        ended = said.endswith(LINE) if listened else "Traceback" not in said
        unclean = by is signal.SIGINT and not command.startswith("dvc") and not ended
        run(workspace, "publish lock")
        mended = workspace.output.count("\n")
        code = run(workspace, command)
        differing = sorted({name for name, _ in left(workspace).items() ^ after[command].items()})
        wrong = bool(code or differing or unclean)
        rows[command].update({"kills": 1, by.name: 1, "mended": mended, "wrong": wrong})
        found = f"WRONG {code} {differing} {workspace.output[-2000:]} {said[-2000:]}" if wrong else "same bytes"
        print(f"{command}, {by.name}{', lock mended' * mended}: {found}", flush=True)
    return rows


def run(workspace: Workspace, command: str) -> int:
    """Runs a command to its end and returns its exit code."""
    running = workspace.start(*command.split())
    workspace.output = running.communicate()[0]
    return running.returncode


def copy(source: Path, target: Path) -> None:
    """Puts what commands make, of one folder, in the place of what another has of it; DVC forgets what it ran."""
    shutil.rmtree(target / ".dvc/cache/runs", ignore_errors=True)
    for name in MADE:
        shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    shutil.copy(source / LOCK, target / LOCK)


def left(workspace: Workspace) -> dict[str, bytes]:
    """What a command left: the bytes of results and reports, what dvc.lock says, and which pieces there are."""
    lock = YAML(typ="safe").load(workspace.folder / LOCK)
    pieces = {path.relative_to(workspace.folder).as_posix(): b"" for path in workspace.folder.glob(".pieces/*/*")}
    return workspace.files("results", "reports") | {LOCK: json.dumps(lock, sort_keys=True).encode()} | pieces


def table(rows: dict[str, Counter], seed: int) -> str:
    """What was found, as Markdown: a row per command and one for all."""
    columns = ("kills", *(by.name for by in SIGNALS), "mended", "wrong")
    lines = ["| command | kills | by SIGKILL | by SIGTERM | by Ctrl-C | dvc.lock mended | went wrong |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for name, row in (rows | {"all": sum(rows.values(), Counter())}).items():
        lines.append(f"| {f'`{name}`' if name in rows else name} | {' | '.join(str(row[c]) for c in columns)} |")
    return "\n".join(lines) + f"\n\nSeed {seed}.\n"


if __name__ == "__main__":
    sys.exit(main())
