"""What the sections claim and by which measure: protocol.yaml, which was fixed before tuned models were scored."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

import pandas as pd
from ruamel.yaml import YAML
from scipy import stats

from measures.evidence import Interval, decide, settled
from measures.tables import CAPTION, SOURCE, over_clips, paired, range_of

CONDITIONS = {
    "edges": "edges",
    "mask": "masks",
    "pose": "keypoints",
    "depth": "depth maps",
    "openpose": "body keypoints",
}
SET_ON = "The judge's bound on naming an object was set on edited frames of the clips of params.yaml (docs/claims.md)"
ALONG = {"things": "per thing more", "hidden": "per tenth hidden"}  # what a slope is over


def worth(method: str) -> str:
    """The measure by which a method's settings are chosen, by its name in params.yaml: the edit and the motion at once,
    so that neither doing nothing nor forgetting the source pays; of one that never sees the source, the edit alone."""
    return "edit success" if method == "text-to-video" else "edited in motion"


@dataclass(frozen=True)
class Claim:
    """One claim: `measure` of the method `more`, above that of `than` if one is named, is at least `at_least`.

    by: what the measure's slope is over, beyond the source's own; see `ALONG`. smallest: an effect below it does not
    matter. edits: those it is asked of, by their names, beside what is scored by a clip's own caption; clips: those of
    one kind of motion, or of seen or unseen objects; all if empty. third: its methods are run on every third clip of
    the list.

    A table that a claim of some clips is asked of has columns `group` and `seen` (a bool of the clip's object), and
    where slopes are asked `things` and `hidden`: how many a clip has, and the mean over them and over the frames that
    are read of the part that cannot be seen.
    """

    claim: str
    measure: str
    more: str = ""
    than: str = ""
    by: str = ""
    at_least: float = 0.0
    smallest: float = 0.0
    edits: tuple[str, ...] = ()
    clips: str = ""
    third: bool = False

    @property
    def unit(self) -> str:
        """Its measure's; empty where it has none."""
        return _protocol()["units"].get(self.measure, "")

    def asks(self) -> set[str]:
        """The methods that it is about."""
        return {self.more, self.than} - {""}

    def asked_of(self, scores: pd.DataFrame) -> pd.DataFrame | None:
        """The rows of a table that it is about; None where the table does not say which of its clips are meant."""
        if self.edits:
            scores = scores[scores["edit"].isin([*self.edits, CAPTION])]
        if self.clips:
            column = "seen" if "seen" in self.clips else "group"
            if column not in scores:
                return None
            scores = scores[scores[column] == (self.clips == "seen" if column == "seen" else self.clips)]
        return scores.assign(missed=1 - scores["recall"]) if self.measure == "missed" and "recall" in scores else scores

    def values(self, scores: pd.DataFrame) -> pd.DataFrame | None:
        """What a table, a row per method and edit, says of it: a row per edit, with `clip` and the measure.

        Of a claim with `by` a row per clip, with what is beyond the source's own, which is the judge's, and the number
        of things or the tenths of them that are hidden. None where the table holds no such methods, measure or clips.
        """
        scores = self.asked_of(scores)
        if scores is None or self.measure not in scores or not self.asks() <= set(scores["method"]):
            return None
        if self.by:
            return self._along(scores)
        of = scores[scores["method"].isin(self.asks())]
        values = paired(of, self.measure, self.more, self.than) if self.than else of.dropna(subset=self.measure)
        return values if len(values) else None

    def _along(self, scores: pd.DataFrame) -> pd.DataFrame | None:
        if self.by not in scores:
            return None
        means = scores.groupby(["method", "clip"])[self.measure].mean()
        if SOURCE not in means.index:
            return None
        along = scores.groupby("clip")[self.by].first() * (10 if self.by == "hidden" else 1)
        beyond = (means[self.more] - means[SOURCE]).dropna().to_frame().join(along).dropna().reset_index()
        return beyond if len(beyond) else None

    def found(self, values: pd.DataFrame) -> Interval | None:
        """The mean of its `values` with an interval over clips, or the slope of a straight line through them with
        Student's, the clips being the sample; None where they are alike or fewer than three."""
        if not self.by:
            return over_clips(values, self.measure, range_of(self.measure, differs=bool(self.than)))
        if len(values) < 3 or values[self.by].nunique() < 2 or values[self.measure].nunique() < 2:
            return None
        line = stats.linregress(values[self.by], values[self.measure])
        reach = stats.t.ppf(0.975, len(values) - 2) * line.stderr
        return Interval(line.slope, line.slope - reach, line.slope + reach, len(values), 2)

    def row(self, value: Interval | None, where: str = "", of: int | None = None) -> dict:
        """Its row of evidence. where: on which clips, to be said of what was measured; of how many of them, where it is
        asked of some."""
        text = self.measure[0].upper() + self.measure[1:]
        text += f": {self.more} minus {self.than}" if self.than else f" of {self.more}"
        text += f" beyond the judge's own, {ALONG[self.by]}" if self.by else ""
        text += f", edits of {' and '.join(self.edits)}" * bool(self.edits)
        text += f", {where}" * bool(where)
        text += (f", {self.clips}" if of is None else f" ({of} {self.clips})") * bool(self.clips)
        return decide(self.claim, text, value, at_least=self.at_least, unit=self.unit, smallest=self.smallest)


def claims(section: str, peers: Iterable[str] = (), kinds: Iterable[str] = ()) -> dict[str, Claim]:
    """The claims of a section by their keys; of peers, by their names in tables, and kinds of control each its own."""
    rules, found, known = _protocol(), {}, {"peer": list(peers), "kind": list(kinds)}
    for key, fields in rules["sections"][section].items():
        for words in _each(key, known):
            filled = {name: text.format(**words) if isinstance(text, str) else text for name, text in fields.items()}
            bound = _bound(fields.get("at_least", 0.0))
            filled |= {"at_least": bound, "edits": tuple(fields.get("edits", ()))}
            filled["smallest"] = rules["smallest"][fields["measure"]] if bound == 0 else 0.0
            found[re.sub("[^a-z0-9]+", "_", key.format(**words).lower())] = Claim(**filled)
    return found


def sections() -> list[str]:
    """The sections' names, in the order of the paper's questions."""
    return list(_protocol()["sections"])


def margins() -> dict[str, float]:
    """What is enough, by its name, where a claim is no comparison."""
    return dict(_protocol()["margins"])


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
        rows[key] = claim.row(None)
        if values is not None:
            rows[key] = claim.row(claim.found(values), where, values["clip"].nunique())
    return rows


def without(
    asked: Mapping[str, Claim], rows: Mapping[str, dict], tables: Mapping[str, pd.DataFrame], clips: Collection[str]
) -> str:
    """Which verdicts of `rows` are others without `clips`, those of params.yaml, on which the judge was set.

    tables: as `rows` were asked of them; the last is of these clips alone, and those before it are asked again. In a
    sentence or two; empty where they tell nothing.
    """
    *before, _ = tables
    fewer = {where: tables[where][~tables[where]["clip"].isin(clips)] for where in before}
    left = settled(answers(asked, fewer))
    told = {key: row["verdict"] for key, row in left.items() if row["value"] is not None}
    changed = [f"{asked[key].claim}: {verdict}, not {rows[key]['verdict']}" for key, verdict in told.items()
               if verdict != rows[key]["verdict"]]  # fmt: skip
    listed = f": {'; '.join(changed)}" if changed else ""
    if not told:
        return ""
    return f"{SET_ON}. Without these {len(clips)} clips {len(changed)} of {len(told)} verdicts are others{listed}."


def _each(key: str, known: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """The words that take the place of a key's {peer} and {kind}."""
    names = [name for name in known if f"{{{name}}}" in key]
    for chosen in product(*(known[name] for name in names)):
        words = dict(zip(names, chosen, strict=True))
        yield words | {"condition": CONDITIONS.get(words.get("kind", ""), words.get("kind", ""))}


def _bound(bound: float | str) -> float:
    """A number, or that of a margin, or of what may be lost."""
    if not isinstance(bound, str):
        return float(bound)
    return -margins()[bound[1:]] if bound.startswith("-") else margins()[bound]


@cache
def _protocol() -> dict:
    return YAML(typ="safe").load((files("measures") / "protocol.yaml").read_text())
