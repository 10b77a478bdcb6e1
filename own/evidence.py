"""What keeping the background, stopping early and windows change, clip by clip.

    python -m own.evidence         # an hour of one core with the miniature; goes on where it was stopped

Backgrounds on the clips of the benchmark, whose edits of the object alone they take; the rest on those of params.yaml.

Every edit of every clip is made both ways and scored; rows are in benchmarks/results/own.csv, verdicts in
docs/own-clips.md. What is smaller than a bound here does not matter, and the bounds were set before the run.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch.nn.functional import max_pool2d

from benchmarks.cost import RESULTS
from benchmarks.full_size import of_key, recorded, write_rows
from benchmarks.tables import NOT_YET
from measures.clips import ClipEntry
from measures.evidence import Interval, decide
from measures.tables import gains, over_clips
from measures.truth import truth_beside
from own.method import OwnMethod
from own.windows import windows
from publish.findings import measured
from publish.marks import write_marked
from studies.benchmark import made_with
from studies.command import ended
from studies.method import Method
from studies.scores import Scores
from studies.settings import Params, load_params
from studies.store import Piece
from tav import interrupt
from tav.clip import read_frames

FILE, PAGE = RESULTS / "own.csv", Path("docs/own-clips.md")
STEPS = 500  # of tuning that stopping is compared with: the paper's
FRAMES, WINDOW, OVERLAP = 16, 8, 3
SMALL = 0.05  # of edit success and of identity stability, shares of frames
KEY = ("part", "how", "clip", "edit", "settings")  # the last: a digest of what they were made with


class Job(NamedTuple):
    """An edit of a clip, made in one of the ways that are compared; `make` takes its piece from the store."""

    how: str
    clip: str
    edit: str
    method: Method
    make: Callable[[], Piece]


def background(params: Params) -> Iterator[Job]:
    """Edits of objects, as the pipeline makes them and inside of masks."""
    method = OwnMethod(params)
    for name, entry in params.clips.items():
        what, thing = (entry, entry.edits["object"]), _thing(entry)
        truth = truth_beside(entry.source, params.clip.num_frames, params.clip.size)
        drawn = max_pool2d(truth.mask.float(), 9, 1, 4)[:, None]  # an outline someone drew roughly
        yield Job("plain", name, "object", method, partial(method.edit, *what))
        yield Job("words", name, "object", method, partial(method.edit_inside, *what, words=thing))
        yield Job("mask", name, "object", method, partial(method.edit_inside, *what, mask=drawn))


def stopping(params: Params) -> Iterator[Job]:
    """All edits after STEPS steps of tuning, and after as many of them as a clip needs."""
    params = params.changed(tune={"steps": STEPS, "stop": "steps"})
    yield from _edits("fixed", Method(params))
    yield from _edits("until learnt", Method(params.changed(tune={"stop": "measure"})))


def longer(params: Params) -> Iterator[Job]:
    """All edits of clips of FRAMES frames, see `_long`, in one window and in windows of WINDOW."""
    yield from _edits("one window", Method(params))
    yield from _edits("windows", OwnMethod(params, window=WINDOW, overlap=OVERLAP))


PARTS = {"background": background, "stopping": stopping, "longer": longer}


def _long(params: Params) -> Params:
    """The same clips with FRAMES frames, over the same stretch."""
    clips = {
        name: entry.model_copy(update={"source": entry.source.model_copy(update={"stride": 1})})
        for name, entry in params.clips.items()
    }
    return params.changed(clip={"num_frames": FRAMES}).model_copy(update={"clips": clips})


def _edits(how: str, method: Method) -> Iterator[Job]:
    for name, entry in method.params.clips.items():
        for edit, prompt in entry.edits.items():
            yield Job(how, name, edit, method, partial(method.edit, entry, prompt))


def _thing(entry: ClipEntry) -> str:
    """The word in which the caption and the prompt of an edit of the object differ first."""
    pairs = zip(entry.caption.split(), entry.edits["object"].split(), strict=False)
    return next(here for here, there in pairs if here != there and here not in ("a", "an"))


def measure(params: Params) -> pd.DataFrame:
    """The rows of every part; what is in the file already is not made again, and what other settings made goes."""
    made = hashlib.sha256(json.dumps(made_with(params), sort_keys=True).encode()).hexdigest()[:16]
    for part, make in PARTS.items():
        match part:
            case "background":
                settings = params.with_clips(params.benchmark.clips)
            case "longer":
                settings = _long(params)
            case _:
                settings = params
        method = Method(settings)
        scores = Scores(settings, lambda name, m=method, s=settings: read_frames(m.source(s.clips[name]).folder))
        for job in make(settings):
            key = dict(zip(KEY, (part, job.how, job.clip, job.edit, made), strict=True))
            rows = [row for row in recorded(FILE) if row["settings"] == made]
            if any(of_key(row, key) for row in rows):
                continue
            frames, weights = read_frames(job.make().folder), job.method.weights(settings.clips[job.clip])
            steps = len((weights.folder / "losses.csv").read_text().splitlines()) - 1
            row = key | {"steps": steps, "seam": seam(frames) if part == "longer" else math.nan}
            write_rows(FILE, [*rows, row | scores.score(job.clip, job.edit, frames)])
            print(*key.values(), flush=True)
    return pd.read_csv(FILE)


def seam(frames: torch.Tensor) -> float:
    """How much neighbours differ where one window fades into the next, by how much they do elsewhere."""
    of = windows(len(frames), WINDOW, OVERLAP)
    fades = {frame for one, other in zip(of, of[1:], strict=False) for frame in range(other[1] - 1, one[-1] + 1)}
    differ = frames.diff(dim=0).abs().mean((1, 2, 3))
    inside = torch.tensor([frame in fades for frame in range(len(differ))])
    return float(differ[inside].mean() / differ[~inside].mean())


def claims(rows: pd.DataFrame) -> list[dict]:
    """Every claim with its verdict, from all rows."""

    rows = rows.rename(columns={"how": "method"})

    def gain(part: str, how: str, than: str, what: str) -> Interval:
        return gains(rows[rows["part"] == part], what, how, than)

    def value(part: str, how: str, what: str) -> Interval:
        return over_clips(rows[(rows["part"] == part) & (rows["method"] == how)], what)

    found = []
    for how, who in (("words", "A mask from the word that is edited"), ("mask", "A mask that is given")):
        change, success = (gain("background", how, "plain", what) for what in ("background change", "edit success"))
        found += [
            decide(f"{who} keeps the background", "Background change minus that without a mask", change, at_most=-1.0),
            decide(f"{who} costs no edit", "Edit success, gained over none", success, at_least=-SMALL),
        ]
    stopped = value("stopping", "until learnt", "steps")
    found.append(decide(f"Stopping saves a third of {STEPS} steps", "Steps", stopped, at_most=STEPS * 2 / 3))
    for what in ("edit success", "identity stability", "motion correlation"):
        stop = gain("stopping", "until learnt", "fixed", what)
        found.append(decide(f"Stopping costs no {what}", f"{what.capitalize()}, gained", stop, at_least=-SMALL))
    consistency = gain("longer", "windows", "one window", "frame consistency")
    success = gain("longer", "windows", "one window", "edit success")
    seams = value("longer", "windows", "seam")
    return [
        *found,
        decide("Windows cost no frame consistency", "Frame consistency, gained", consistency, at_least=-1.0),
        decide("Windows cost no edit success", "Edit success, gained", success, at_least=-SMALL),
        decide("Seams are not seen", "Difference of neighbours at seams, by elsewhere", seams, at_most=1.25),
    ]


def page() -> str:
    """What the page says: every claim, or that nothing is measured yet."""
    return table(claims(pd.read_csv(FILE))) if FILE.is_file() else NOT_YET.format("python -m own.evidence")


def table(found: list[dict]) -> str:
    """The claims as lines of a page."""
    lines = ["| claim | measure | found | expected | |\n", "|---|---|---|---|---|\n"]
    for row in found:
        cells = row["claim"], row["measure"], measured(row), row["expected"], f"**{row['verdict']}**"
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    return ended(_measure_and_write)


def _measure_and_write() -> None:
    measure(load_params())
    write_marked(PAGE, "evidence", page())


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
