"""What a change costs after a whole run: seconds of what `make reproduce` runs, its stages, and the pieces it makes.

    python -m benchmarks.changes                 # all changes, into benchmarks/results/changes.csv
    python -m publish readme                     # the table of README.md from it
    python -m benchmarks.changes prompt margin   # some of them, printed only

Runs in a copy of the project with its results, pieces and DVC cache, which a whole run has to have left; the project
stays as it is. Every change is made to the project as that run left it, and taken back by a run that is not timed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from ruamel.yaml import YAML

from benchmarks.cost import RESULTS, machine
from studies.store import FOLDER, RECORD
from tav import interrupt

LEFT_OUT = (".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache")
PROMPT = "a pencil drawing of a bus in space"


def settings(change: Callable[[dict], None]) -> Callable[[], None]:
    """A change of params.yaml, which keeps its comments."""

    def edit() -> None:
        yaml = YAML()
        yaml.width = 4096
        params = yaml.load(Path("params.yaml"))
        change(params)
        yaml.dump(params, Path("params.yaml"))

    return edit


def replaced(path: str, pattern: str, by: str) -> Callable[[], None]:
    """A change of the first place in a file that a regular expression finds."""

    def edit() -> None:
        text, count = re.subn(pattern, by, Path(path).read_text(), count=1, flags=re.MULTILINE)
        assert count, f"{path} has no {pattern}"
        Path(path).write_text(text)

    return edit


def first_clip(params: dict) -> dict:
    return next(iter(params["clips"].values()))


def one_more_clip(params: dict) -> None:
    """The first clip again, from a later frame on."""
    entry = first_clip(params)
    source = {**entry["source"], "start": entry["source"]["start"] + 1}
    params["clips"]["one-more"] = {**entry, "source": source}


CHANGES = {  # name -> what README says of it, and how it is made
    "prompt": ("one more edit prompt", settings(lambda p: first_clip(p)["edits"].update({"one-more": PROMPT}))),
    "variant": (
        "one more variant of the ablation",
        settings(lambda p: p["ablation"].update({"one-more": {"inflate": {"norm": "frame"}}})),
    ),
    "measure": ("a function of a measure", replaced("measures/motion.py", "^STILL = 0.1", "STILL = 0.11")),
    "margin": (
        "a margin of the protocol",
        replaced("measures/protocol.yaml", "^  edited_in_motion: 0.4$", "  edited_in_motion: 0.45"),
    ),
    "notebook": ("the text of a notebook", replaced("notebooks/02_results.py", "^# ## Limits$", "# ## Limits of this")),
    "clip": ("one more clip", settings(one_more_clip)),
    "comment": ("a comment in the method", replaced("tav/model.py", "^import re$", "# one more comment\nimport re")),
    "nothing": ("nothing at all", lambda: None),
}


@contextmanager
def copy_of_project() -> Iterator[Path]:
    """A copy of this folder, which is the current one for a while."""
    project = Path.cwd()
    with interrupt.unwinding(), TemporaryDirectory(dir=project.parent) as folder:
        copy = Path(folder, project.name)
        shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        os.chdir(copy)
        subprocess.run(["git", "init", "-q"], check=True)
        try:
            yield copy
        finally:
            os.chdir(project)


def repro() -> list[str]:
    """Runs the stages that are stale, as `make reproduce` does; returns those that were executed."""
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "publish", "reproduce"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:])
    return list(dict.fromkeys(re.findall(r"^Running stage '(.+)'", done.stdout, re.MULTILINE)))  # inputs runs twice


def pieces() -> set[Path]:
    return set(FOLDER.glob(f"*/*/{RECORD}"))


def measure(name: str) -> list[dict]:
    """Makes a change, and takes it back: two rows, of which the second is timed only for a setting."""
    what, change = CHANGES[name]
    sources = [path for folder in ("notebooks", "tav", "measures") for path in Path(folder).glob("*.py")]
    before = {path: path.read_bytes() for path in [*sources, Path("params.yaml"), Path("measures/protocol.yaml")]}
    change()
    rows = [timed(what)]
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)
    if name == "variant":
        return [*rows, timed("a setting put back (that variant taken out)")]
    repro()
    return rows


def timed(what: str) -> dict:
    made, start = pieces(), time.perf_counter()
    ran = repro()
    seconds = round(time.perf_counter() - start, 1)
    return {"change": what, "seconds": seconds, "pieces": len(pieces() - made), "stages": " ".join(ran)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=f"of {', '.join(CHANGES)}; by default all")
    options = parser.parse_args()
    if unknown := set(options.changes) - set(CHANGES):
        parser.error(f"no change {', '.join(sorted(unknown))}: there are {', '.join(CHANGES)}")
    whole, rows = not options.changes, []
    with copy_of_project():
        repro()
        for name in options.changes or CHANGES:
            rows += measure(name)
            print(rows[-1], flush=True)
            if whole:  # at once: it takes half an hour
                pd.DataFrame(rows).assign(machine=machine("cpu")["device"]).to_csv(RESULTS / "changes.csv", index=False)
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
