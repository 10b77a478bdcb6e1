"""The files of benchmarks/results as Markdown, for README and docs/: `python -m publish readme` writes them there."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks import memory, released

RESULTS = Path(__file__).parent / "results"
NOT_YET = "Not measured yet: `{}` writes this table's numbers.\n"


def changes(results: Path = RESULTS) -> str:
    """What a change of params.yaml or of the sources costs, as benchmarks/changes.py measured it."""
    file = results / "changes.csv"
    if not file.is_file():
        return NOT_YET.format("python -m benchmarks.changes")
    rows = pd.read_csv(file, keep_default_na=False)
    cells = [(row.change, f"{row.seconds:.0f}", row.pieces, row.stages) for row in rows.itertuples()]
    note = f"Measured on {rows['machine'].iloc[0]}, after a whole run and with nothing beside it."
    return _table(("change", "seconds", "pieces made", "stages that ran"), cells, note)


def times(results: Path = RESULTS) -> str:
    """The minutes of the Makefile's commands: times.csv, whose rows (command, minutes, machine) are typed."""
    file = results / "times.csv"
    if not file.is_file():
        return (
            "Not timed yet since the pipeline was last rebuilt. Before that, `make reproduce` took 28 minutes and "
            "`make test` 10, on two idle cores.\n"
        )
    rows = pd.read_csv(file)
    lines = []
    for machine, part in rows.groupby("machine", sort=False):
        taken = ", ".join(f"`{row.command}` {row.minutes:.0f} min" for row in part.itertuples())
        lines.append(f"On {machine}, idle but for this: {taken}.\n")
    return "".join(lines)


def peak_memory(results: Path = RESULTS) -> str:
    """Memory over frames and pixels at full size, a table per machine."""
    return _all("memory", results, lambda rows: memory.table(rows) + "\n", "python -m benchmarks.memory")


def full_size(results: Path = RESULTS) -> str:
    """What every step takes at full size, a table per machine."""
    return _all("full-size", results, _steps, "python -m benchmarks.full_size CLIP")


def _steps(rows: pd.DataFrame) -> str:
    modes = ["mode"] if rows["mode"].nunique() > 1 or rows["frames"].nunique() > 1 else []
    cells = [
        (row["step"], *(f"{row[m]}, {row['frames']} frames" for m in modes), row["steps"], f"{row['seconds']:.1f}",
         _number(row["seconds per step"]), f"{_number(row['peak GB'])} GB")
        for _, row in rows.dropna(subset="seconds").iterrows()
    ]  # fmt: skip
    first = rows.iloc[0]
    clip = f"{first['frames']} frames of {first['size']}x{first['size']} of {first['clip']}, {first['mode']}"
    note = f"Measured on {first['device']}, torch {first['torch']}" + ("." if modes else f": {clip}.")
    return _table(("step", *modes, "UNet steps", "seconds", "seconds of a step", "peak memory"), cells, note)


def beside_released(results: Path = RESULTS) -> str:
    """The released implementation's steps and ours, a table per machine."""
    return _all("released", results, _ratios, "python -m benchmarks.released")


def speed(results: Path = RESULTS) -> str:
    """Of the same, only the released code as its script runs, and the defaults here, in half precision too."""
    shown = ["released", "here", "here, bf16"]
    return _all("released", results, lambda rows: _ratios(rows[rows["code"].isin(shown)]),
                "python -m benchmarks.released")  # fmt: skip


def _ratios(rows: pd.DataFrame) -> str:
    found = released.ratios(rows)
    columns = {"tune": "tuning step", "invert": "inversion step", "edit": "edit step"}
    clips = {"same work": "a whole clip, same work", "as run": "as each is run"}
    cells = [
        (f"{row['frames']} of {row['size']}x{row['size']}", row["code"],
         *(_beside(row, column, f"{row[column]:.2f} s") for column in columns),
         *(_beside(row, clip, _duration(row[clip])) for clip in clips),
         _beside(row, "peak GB", f"{row['peak GB']:.1f} GB"))
        for _, row in found.iterrows()
    ]  # fmt: skip
    first = rows.iloc[0]
    note = f"Measured on {first['device']}, torch {first['torch']}; whole clips are computed from their steps."
    return _table(("frames", "code", *columns.values(), *clips.values(), "peak memory, tuning"), cells, note)


def _beside(row: pd.Series, column: str, value: str) -> str:
    """A number and, in brackets, what it is of the released code's; "too much memory" where there is none."""
    if pd.isna(row[column]):
        return "too much memory"
    ratio = row[f"{column}, ratio"]
    return f"{value} ({ratio:.2f})" if row["code"] != "released" and not pd.isna(ratio) else value


def expected(results: Path = RESULTS) -> str:
    """What GPUs that nobody has measured would take: what benchmarks/expected.py computed, less what is measured."""
    file = results / "expected.csv"
    if not file.is_file():
        return NOT_YET.format("python -m benchmarks.expected DEVICE")
    measured = " ".join(pd.concat([read(kind, results) for kind in ("full-size", "released")])["device"].unique())
    rows = pd.read_csv(file)
    rows = rows[[gpu.split(",")[0] not in measured for gpu in rows["gpu"]]]
    if rows.empty:
        return "All of these GPUs were measured.\n"
    cells = []
    for row in rows.itertuples():
        times = [_duration(seconds) for seconds in (row.tuning, row.inversion, row.edit)]
        mode = "none fits" if pd.isna(row.mode) else row.mode
        cells.append((row.gpu, f"{row.frames} frames", mode, f"{row.memory:.0f} GB", *times))
    header = ("GPU", "clip", "mode", "memory", "tuning, 500 steps", "inversion", "an edit")
    passes, steps, share = rows.iloc[0][["forward, TFLOP", "tuning with checkpointing, TFLOP", "share"]]
    work = f"{passes:.0f} TFLOP for a pass of 32 frames of 512x512 and {steps:.0f} for a tuning step with checkpointing"
    return _table(header, cells, f"All of it is **computed**: {work}, at {share:.0%} of the GPU's published peak.")


def options(results: Path = RESULTS) -> str:
    """The miniature's steps under every speed option, a table per machine."""
    tables = []
    for file in sorted(results.glob("*-miniature-*.json")):
        found = json.loads(file.read_text())
        columns = list(next(iter(found["options"].values())))
        cells = [(name, *(f"{row[column]:.3g}" for column in columns)) for name, row in found["options"].items()]
        clip = f"{found['frames']} frames of {found['size']} pixels"
        note = f"Measured on {found['device']}, torch {found['torch']}: {clip}."
        tables.append(_table(("option", *columns), cells, note))
    return "\n".join(tables) or NOT_YET.format("python -m benchmarks.cost --options")


def read(kind: str, results: Path) -> pd.DataFrame:
    """The rows of all machines of a kind, such as "memory"; without any, a table of no device."""
    files = sorted(results.glob(f"{kind}-*.csv"))
    return pd.concat([pd.read_csv(file) for file in files]) if files else pd.DataFrame({"device": []})


def _all(kind: str, results: Path, table, command: str) -> str:
    rows = read(kind, results)
    return "\n".join(table(part) for _, part in rows.groupby("device")) or NOT_YET.format(command)


def _table(header: Sequence[str], cells: Iterable[Sequence], note: str) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, ("---",) * len(header), *cells)]
    return "\n".join([*lines, "", note, ""])


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    if pd.isna(seconds):
        return ""
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"
