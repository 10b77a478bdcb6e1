"""The tables of README.md, written from reports/."""

import json
from collections import Counter
from pathlib import Path

from publish.marks import write_marked
from publish.report import measured
from studies.settings import Params

VERDICTS = ("holds", "fails", "undecided")


def write_readme(params: Params, readme: str | Path = "README.md", out: str | Path = "reports") -> None:
    """Write the claims of claims.json between the marks of README.

    No stage's work: DVC takes away what a stage writes before it runs.
    """
    claims = json.loads((Path(out) / "metrics" / "claims.json").read_text())
    write_marked(readme, "claims", claims_table(claims))


def claims_table(claims: list[dict]) -> str:
    """The rows of claims.json as Markdown: how many of each section hold, and, folded, every one of them."""
    names = dict.fromkeys(row["section"] for row in claims)
    sections = {name: [row for row in claims if row["section"] == name] for name in names}
    counts = [("section", "claims", *VERDICTS), ("---",) * 5]
    for section, rows in sections.items():
        verdicts = Counter(row["verdict"] for row in rows)
        page = f"[{section}](reports/notebooks/{section}.ipynb)"
        counts.append((page, len(rows), *(verdicts[verdict] or "" for verdict in VERDICTS)))
    table = [("section", "claim", "measure", "value", "expected", "verdict"), ("---",) * 6]
    for section, rows in sections.items():
        table += [
            (section, row["claim"], row["measure"], measured(row), row["expected"], f"**{row['verdict']}**")
            for row in rows
        ]
    shown, every = ("".join(f"| {' | '.join(map(str, row))} |\n" for row in part) for part in (counts, table))
    return f"{shown}\n<details><summary>Every claim and what was measured</summary>\n\n{every}\n</details>\n"
