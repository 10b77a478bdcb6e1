"""How claims about tuned models will be decided in this world: protocol.yaml, fixed before one was scored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML
from scipy import stats

from measures import protocol
from measures.evidence import Interval
from measures.protocol import CONDITIONS, _bound
from measures.tables import SOURCE, over_clips, range_of

FILE = Path(__file__).with_name("protocol.yaml")
SHARES = "edited in motion", "identity kept", "recall", "missed", "swaps"  # measures of this world in [0, 1]


@dataclass(frozen=True)
class Claim(protocol.Claim):
    """A claim about some of the edits and clips: `edits` by their names, `clips` by motion or seen; all if empty.

    third: its methods are run on every third clip of the list. A table that it is asked of has columns `edit`, `group`
    and `seen` (a bool of the clip's object), and where slopes are asked `things` and `hidden`: how many a clip has, and
    the mean over them and over the frames that are read of the part that cannot be seen.
    """

    edits: tuple[str, ...] = ()
    clips: str = ""
    third: bool = False

    def asked_of(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that it is about."""
        if self.edits:
            scores = scores[scores["edit"].isin(self.edits)]
        if self.clips:
            right = scores["seen"] == (self.clips == "seen") if "seen" in self.clips else scores["group"] == self.clips
            scores = scores[right]
        return scores.assign(missed=1 - scores["recall"]) if self.measure == "missed" and "recall" in scores else scores

    def values(self, scores: pd.DataFrame) -> pd.DataFrame | None:
        """As of any claim; of one with `by` a row per clip, with what is beyond the source's own, which is the judge's,
        and the number of things or the tenths of them that are hidden."""
        scores = self.asked_of(scores)
        values = super().values(scores)
        if not self.by or values is None:
            return values
        own = scores[scores["method"] == SOURCE].groupby("clip")[self.measure].mean()
        beyond = (values.groupby("clip")[self.measure].mean() - own).dropna()
        along = scores.groupby("clip")[self.by].first() * (10 if self.by == "hidden" else 1)
        beyond = beyond.to_frame().join(along).reset_index()
        return beyond if len(beyond) else None

    def found(self, values: pd.DataFrame) -> Interval | None:
        """The mean of its `values` with an interval over clips, or the slope of a straight line through them with
        Student's, the clips being the sample; None where they are alike or fewer than three."""
        if self.by:
            if len(values) < 3 or values[self.by].nunique() < 2 or values[self.measure].nunique() < 2:
                return None
            line = stats.linregress(values[self.by], values[self.measure])
            reach = stats.t.ppf(0.975, len(values) - 2) * line.stderr
            return Interval(line.slope, line.slope - reach, line.slope + reach, len(values) - 2)
        within = (0.0, 1.0) if self.measure in SHARES else range_of(self.measure)
        if self.than:
            within = within[0] - within[1], within[1] - within[0]
        return over_clips(values, self.measure, within)


def claims(section: str, peers: Iterable[str] = (), kinds: Iterable[str] = ()) -> dict[str, Claim]:
    """The claims of a section by their keys; of peers and of kinds of control each its own."""
    rules = YAML(typ="safe").load(FILE)
    found, known = {}, {"peer": list(peers), "kind": list(kinds)}
    for key, fields in rules["sections"][section].items():
        for words in _each(key, known):
            filled = {name: text.format(**words) if isinstance(text, str) else text for name, text in fields.items()}
            bound = _bound(fields.get("at_least", 0.0), rules["margins"])
            filled |= {"at_least": bound, "edits": tuple(fields.get("edits", ()))}
            filled["smallest"] = rules["smallest"][fields["measure"]] if bound == 0 else 0.0
            found[key.format(**words)] = Claim(**filled)
    return found


def _each(key: str, known: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """The words that take the place of a key's {peer} and {kind}."""
    names = [name for name in known if f"{{{name}}}" in key]
    for chosen in product(*(known[name] for name in names)):
        words = dict(zip(names, chosen, strict=True))
        yield words | {"condition": CONDITIONS.get(words.get("kind", ""), words.get("kind", ""))}


def sections() -> list[str]:
    """The sections' names, in the order of the paper's questions."""
    return list(YAML(typ="safe").load(FILE)["sections"])
