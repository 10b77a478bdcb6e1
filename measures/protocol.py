"""What the sections claim and by which measure: protocol.yaml, which was fixed before the results were there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd
from ruamel.yaml import YAML

from measures.evidence import Interval, decide, settled
from measures.tables import over_clips, paired, range_of

CONDITIONS = {
    "edges": "edges",
    "mask": "masks",
    "pose": "keypoints",
    "depth": "depth maps",
    "openpose": "body keypoints",
}


@dataclass(frozen=True)
class Claim:
    """One claim: `measure` of the method `more`, above that of `than` if one is named, is at least `at_least`.

    by: what the measure's slope is over, instead of methods. smallest: an effect below it does not matter.
    asked: first, or later; claims are tested with those of a section that were asked with them.
    """

    claim: str
    measure: str
    more: str = ""
    than: str = ""
    by: str = ""
    at_least: float = 0.0
    unit: str = ""
    smallest: float = 0.0
    asked: str = "first"

    def asks(self) -> set[str]:
        """The methods that it is about."""
        return {self.more, self.than} - {""}

    def values(self, scores: pd.DataFrame) -> pd.DataFrame | None:
        """What a table, a row per method and edit, says of it: a row per edit, with `clip` and the measure.

        None where the table holds no such methods or measure, or none of one clip and edit.
        """
        if self.measure not in scores or not self.asks() <= set(scores["method"]):
            return None
        of = scores[scores["method"].isin(self.asks())]
        values = paired(of, self.measure, self.more, self.than) if self.than else of.dropna(subset=self.measure)
        return values if len(values) else None

    def found(self, values: pd.DataFrame) -> Interval:
        """The mean of its `values` with an interval over clips."""
        return over_clips(values, self.measure, range_of(self.measure, differs=bool(self.than)))

    def row(self, value: Interval | None, where: str = "") -> dict:
        """Its row of evidence. where: on which clips, to be said of what was measured."""
        text = self.measure[0].upper() + self.measure[1:]
        text += f" of {self.more}" * bool(self.more) + f" above that of {self.than}" * bool(self.than)
        text += f", {where}" * bool(where)
        return decide(self.claim, text, value, at_least=self.at_least, unit=self.unit, smallest=self.smallest)


def claims(section: str, margins: Mapping[str, float], kinds: Iterable[str] = ()) -> dict[str, Claim]:
    """The claims of a section by their keys. margins: those of params.yaml. kinds: of control, each its own claims."""
    found, kinds = {}, list(kinds)
    for key, fields in _protocol()["sections"][section].items():
        for kind in kinds if "{kind}" in key else [""]:
            words = {"kind": kind, "condition": CONDITIONS.get(kind, kind)}
            filled = {name: text.format(**words) for name, text in fields.items() if isinstance(text, str)}
            bound = _bound(fields.get("at_least", 0.0), margins)
            small = _protocol()["smallest"].get(fields["measure"], 0.0) if bound == 0 else 0.0
            found[key.format(**words)] = Claim(**filled | {"at_least": bound, "smallest": small})
    return found


def first_to_tell(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> tuple[str, pd.DataFrame | None]:
    """The first of the tables, by what their clips are, that holds what a claim is about, and its values there."""
    found = ((where, claim.values(table)) for where, table in tables.items())
    return next(((where, values) for where, values in found if values is not None), ("", None))


def answers(asked: Mapping[str, Claim], tables: Mapping[str, pd.DataFrame]) -> dict[str, dict]:
    """A row of evidence for every claim, from the first of the tables that can tell.

    Their verdicts are each for itself: see `measures.evidence.settled`.
    """
    rows = {}
    for key, claim in asked.items():
        where, values = first_to_tell(claim, tables)
        rows[key] = claim.row(claim.found(values) if where else None, where)
    return rows


def together(rows: Mapping[str, dict], asked: Mapping[str, Claim]) -> dict[str, dict]:
    """The rows of a section as they stand when those that were asked at once are tested together, see `settled`."""
    found = {}
    for time in dict.fromkeys(claim.asked for claim in asked.values()):
        found |= settled({key: row for key, row in rows.items() if asked[key].asked == time})
    return {key: found[key] for key in rows}


def _bound(bound: float | str, margins: Mapping[str, float]) -> float:
    """A number, or that of a margin, or of what may be lost."""
    if not isinstance(bound, str):
        return float(bound)
    return -margins[bound[1:]] if bound.startswith("-") else margins[bound]


@cache
def _protocol() -> dict:
    return YAML(typ="safe").load((files("measures") / "protocol.yaml").read_text())
