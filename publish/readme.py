"""The generated parts of README.md and docs/: claims from reports/, costs from benchmarks/results."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks import tables
from measures.evidence import VERDICTS, expected, needed
from publish.findings import PAPERS, counted, grounds, main_claims, measured, standing
from publish.marks import read_marked, write_marked
from studies.benchmark import FILES, kept
from studies.results import reading
from studies.settings import Params

CLAIMS = Path("reports/metrics/claims.json")
COMMAND = "python -m publish readme"
ASKED = {  # by what `benchmark.parts` asks for
    "peers": "the method and its peers (sections 2 and 4)",
    "ablation": "its variants by two seeds (section 3)",
    "full_ablation": "further variants on every third clip (section 3)",
    "control": "control (section 6)",
    "objects": "several things (section 5)",
}


def write_readme(params: Params) -> None:
    """Write every generated part of README.md and docs/ between its marks.

    No stage's work: DVC takes away what a stage writes before it runs.
    """
    for page, name, text in parts(params):
        write_marked(page, name, text)


def outdated(params: Params) -> list[str]:
    """The parts that say something else than reports/ and benchmarks/results do."""
    return [
        f"{page} says something else about {name}: run `{COMMAND}`"
        for page, name, text in parts(params)
        if read_marked(page, name) != text
    ]


def parts(params: Params) -> Iterator[tuple[str, str, str]]:
    """Every generated part: its page, the name of its marks, its text."""
    with reading(CLAIMS):
        claims = json.loads(CLAIMS.read_text())
        if not isinstance(claims, list):
            raise ValueError("it is no list")
    yield "README.md", "findings", findings(claims, kept("scores", params)[0])
    yield "README.md", "list", the_list(params)
    yield "README.md", "claims of the paper", of_paper(claims)
    yield "README.md", "claims", counts(claims)
    yield "README.md", "times", tables.times()
    yield "README.md", "changes", tables.changes()
    yield "README.md", "speed", tables.speed()
    yield "docs/claims.md", "claims", every_claim(claims)
    yield "docs/memory-and-speed.md", "options", tables.options()
    yield "docs/memory-and-speed.md", "full size", tables.full_size()
    yield "docs/memory-and-speed.md", "memory", tables.peak_memory()
    yield "docs/memory-and-speed.md", "released", tables.beside_released()
    yield "docs/memory-and-speed.md", "expected", tables.expected()


def findings(claims: list[dict], scores: pd.DataFrame) -> str:
    """What was found: sentences on all claims, on the method beside others and on each claim that is named."""
    named = [f"{row['claim']}: **{row['verdict']}** ({grounds(row)})." for row in main_claims(claims)]
    return "".join(f"- {line}\n" for line in filter(None, [counted(claims), standing(scores), *named]))


def the_list(params: Params) -> str:
    """Which parts of the whole list of clips were run with these settings, and what verdicts rest on otherwise."""
    run, left = [], []
    for what, words in ASKED.items():
        rows = kept(FILES[what][0], params)[0]
        count = f"{words}: {rows['clip'].nunique()} clips and {rows.groupby(['clip', 'edit']).ngroups} edits"
        (run if len(rows) else left).append(count if len(rows) else words)
    text = f"Verdicts rest on the whole list of clips for {'; '.join(run)}.\n\n" if run else ""
    if left:
        text += (
            f"Not run yet: {'; '.join(left)}. "
            "Verdicts there are of the clips that a run makes by default, and most are undecided; "
            "what only the list can tell is not asked. "
            "A verdict near its bound may change when the other claims of its section are asked beside it.\n"
        )
    return text


def of_paper(claims: list[dict]) -> str:
    """The paper's own claims, each with its one measure and verdict."""
    rows = [("claim of the paper", "measure", "value", "expected", "p", "verdict"), ("---",) * 6]
    for row in main_claims(claims, PAPERS):
        cells = row["claim"], row["measure"], measured(row), expected(row), row.get("p", "")
        rows.append((*cells, f"**{row['verdict']}**"))
    return _table(rows)


def counts(claims: list[dict]) -> str:
    """How many claims of each section got which verdict."""
    shown = [verdict for verdict in VERDICTS if verdict != "negligible" or any(r["verdict"] == verdict for r in claims)]
    rows = [("section", "claims and checks", *shown), ("---",) * (2 + len(shown))]
    for section, own in _sections(claims).items():
        verdicts = Counter(row["verdict"] for row in own)
        page = f"[{section}](reports/notebooks/{section}.ipynb)"
        rows.append((page, len(own), *(verdicts[verdict] or "" for verdict in shown)))
    return _table(rows)


def every_claim(claims: list[dict]) -> str:
    """A heading and a table for each section, a row for each claim."""
    text = []
    for section, own in _sections(claims).items():
        rows = [("claim", "measure", "value", "expected", "n", "p", "verdict"), ("---",) * 7]
        for row in own:
            more = f" ({needed(row)})" if "needed" in row else ""
            cells = row["claim"], row["measure"], measured(row), expected(row), row.get("n", ""), row.get("p", "")
            rows.append((*cells, f"**{row['verdict']}**{more}"))
        text.append(f"## [{section}](../reports/notebooks/{section}.ipynb)\n\n{_table(rows)}")
    return "\n".join(text)


def _sections(claims: list[dict]) -> dict[str, list[dict]]:
    names = dict.fromkeys(row["section"] for row in claims)
    return {name: [row for row in claims if row["section"] == name] for name in names}


def _table(rows: list[tuple]) -> str:
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
