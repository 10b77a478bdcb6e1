"""Whether what a clone shows is what it makes: one line a check.

The committed scores of the benchmark are what the verdicts rest on. Every default run makes the clips of params.yaml
again, so that their scores have to come out as the committed ones, but for what another processor's rounding does.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from publish.findings import measured
from publish.lock import mend_lock
from publish.readme import CLAIMS, outdated
from studies.benchmark import KEPT, made_with
from studies.results import reading
from studies.settings import Params
from tav.errors import InputError

MADE_AGAIN = {  # parts of the benchmark: by which notebook a default run scores some of their clips again
    "scores": "04_baselines",
    "ablation": "03_ablation",
    "control": "06_control",
    "objects": "05_multi_object",
}
TOLERANCES = {  # of a method's mean over the clips: what rounding moved it by on another processor, and as much again
    "frame consistency": 0.6,  # points, of the multistep solver, whose rounding grows the most
    "text alignment": 0.85,  # points, of one edited frame repeated: an eighth of the frames, and so the most
    "edited in motion": 0.05,  # both of the following at once
    "edit success": 0.05,  # read off single frames, of which a few are near the judge's line
    "identity stability": 0.1,  # pairs of frames: one frame read otherwise changes several pairs
    "identity kept": 0.1,  # of two edits in three
    "motion correlation": 0.05,  # a path is a mean over frames and things
}


def verify(params: Params) -> None:
    """Prints one line per check; raises InputError if one fails. A broken dvc.lock is mended first.

    What is committed of a benchmark is compared; where nothing is, that is said.
    """
    mend_lock()
    checks = {"dvc.lock is of these settings, sources and inputs": check_lock}
    if any(KEPT.glob("*.csv")):
        checks["the clips made again score as the committed benchmark says"] = check_scores
        checks["the committed benchmark was made with these settings and measures"] = lambda: check_settings(params)
    else:
        print("none no scores of the whole list of clips are committed that those of this run could be compared with")
    checks["README, docs, report and claims agree"] = lambda: check_claims(params)
    failed = sum(not _passes(name, check) for name, check in checks.items())
    if failed:
        raise InputError(f"{failed} of {len(checks)} checks failed, see above: `make reproduce` makes all anew")


def _passes(name: str, check: Callable[[], Iterable[str]]) -> bool:
    try:
        problems = list(check())
    except InputError as error:
        problems = [str(error)]
    print(f"{'FAIL' if problems else 'ok  '} {name}{': ' if problems else ''}{'; '.join(problems)}")
    return not problems


def check_lock() -> list[str]:
    """The stages that `dvc repro` would run, beside `inputs`, which always runs; results need not be here."""
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        return [" ".join(done.stdout.split()[-30:])]
    stale = [stage for stage in re.findall(r"Running stage '(.+)'", done.stdout) if stage != "inputs"]
    return [f"stale: {', '.join(stale)}"] if stale else []


def check_scores(notebooks: Path = Path("results/notebooks"), kept: Path = KEPT) -> list[str]:
    """Where a method's mean over the clips of params.yaml differs from the committed one by more than its tolerance, of
    the parts that are committed."""
    problems = []
    for part, notebook in MADE_AGAIN.items():
        again, committed = notebooks / notebook / "scores.csv", kept / f"{part}.csv"
        if committed.is_file():
            problems += _off(again, committed) if again.is_file() else [f"{again} is not here"]
    return problems


def _off(again: Path, committed: Path) -> list[str]:
    with reading(again):
        made = pd.read_csv(again)
    with reading(committed):
        listed = pd.read_csv(committed)
    keys = [key for key in ("method", "seed", "clip", "edit") if key in made and key in listed]
    both = made.merge(listed, on=keys, suffixes=("", " committed"))
    if not len(both):
        return [f"no clip of {again} is in {committed}"]
    problems = []
    for measure, tolerance in TOLERANCES.items():
        if measure not in both or f"{measure} committed" not in both:
            continue
        means = both.groupby("method")[[measure, f"{measure} committed"]].mean()
        off = (means[measure] - means[f"{measure} committed"]).abs()
        problems += [
            f"{measure} of {method} is off by {value:.3g}, allowed are {tolerance} ({committed.stem})"
            for method, value in off[off > tolerance].items()
        ]
    return problems


def check_settings(params: Params, kept: Path = KEPT / "settings.json") -> list[str]:
    """What the committed benchmark was made with that is another now."""
    if not kept.is_file():
        return [f"{kept} is not here"]
    with reading(kept):
        then, now = json.loads(kept.read_text()), made_with(params)
    return [f"{key} differs" for key in now if then.get(key) != now[key]]


def check_claims(params: Params, report: str | Path = "reports/index.html") -> list[str]:
    """Where README, docs/, the report's page or a section's own file says something else than claims.json."""
    if not CLAIMS.is_file():
        return [f"{CLAIMS} is not here"]
    problems = outdated(params)
    claims = json.loads(CLAIMS.read_text())
    with reading(report):
        page = Path(report).read_text()
    problems += [f"{report} does not show {row['name']}" for row in claims if measured(row) not in page]
    for section in dict.fromkeys(row["section"] for row in claims):
        rows = {row["name"]: row for row in claims if row["section"] == section}
        with reading(CLAIMS.parent / f"{section}.json") as path:
            own = json.loads(path.read_text())
        if {name: {"section": section, "name": name, **row} for name, row in own.items()} != rows:
            problems.append(f"{CLAIMS.parent / section}.json differs")
    return problems
