"""Tables of scored edits, a row per method and edit: what goes into them, and what they say of the methods."""

import math
from collections import UserDict
from collections.abc import Collection, Iterable, Mapping

import pandas as pd
from torch import Tensor

from measures.evidence import Interval, bootstrap
from tav.clip import read_frames

METHOD = "Tune-A-Video"
SOURCE = "the source clip itself"
REPEATED = "one edited frame, repeated"
CAPTION = "caption"  # in place of an edit: what is scored by the clip's own caption
SHARES = (
    "edit success",
    "edited in motion",
    "identity stability",
    "identity kept",
    "recall",
    "missed",
    "swaps",
    "mask overlap",
)
ERRORS = (
    "centre error",
    "size error",
    "angle error",
    "phase error",
    "camera error",
    "background change",
    "warp error",
    "FF-alpha",
    "Semantic",
)
RANGES = {  # what a measure can be: no interval goes beyond
    **dict.fromkeys(SHARES, (0, 1)),
    **dict.fromkeys(ERRORS, (0, math.inf)),
    **dict.fromkeys(("motion correlation", "motion fidelity"), (-1, 1)),
    **dict.fromkeys(("frame consistency", "text alignment"), (-100, 100)),
    "frame accuracy": (0, 100),
    "FF-beta": (0, 2),
}


class Stored(UserDict):
    """Frames f 3 h w in [0, 1], read from the folders in `data` when asked for: 32 frames of 512 pixels are 100 MB."""

    def __getitem__(self, key: tuple) -> Tensor:
        return read_frames(self.data[key])


def trivial(edits: Mapping[tuple[str, str], Tensor], source) -> dict[str, dict[tuple[str, str], Tensor]]:
    """The two methods that do nothing: the source clip itself, and the middle frame of each edit repeated."""
    return {
        SOURCE: {pair: source(pair[0]) for pair in edits},
        REPEATED: {pair: frames[len(frames) // 2].clone().expand_as(frames) for pair, frames in edits.items()},
    }


def means(scores: pd.DataFrame, measures: Iterable[str]) -> dict[str, dict[str, Interval]]:
    """Per measure and method the mean over edits with its interval over clips; edits without a value are left out."""
    return {
        measure: {method: over_clips(group, measure) for method, group in scores.groupby("method", sort=False)}
        for measure in measures
    }


def paired(scores: pd.DataFrame, measure: str, method: str, other: str) -> pd.DataFrame:
    """What `method` has more than `other` of a measure, edit by edit, of the same seed if there are several.

    A row per pair, with `clip` and the measure; what only one of the two has is left out.
    """
    pairs = scores.set_index([key for key in ("method", "seed", "clip", "edit") if key in scores])[measure]
    return (pairs[method] - pairs[other]).rename(measure).reset_index().dropna(subset=measure)


def averaged(scores: pd.DataFrame, groups: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """A row per group, seed, clip and edit: the mean over a group's methods, missing where one of them has no value."""
    keys = [key for key in ("seed", "clip", "edit") if key in scores]
    numbers = scores.set_index([*keys, "method"]).select_dtypes("number")
    of = {group: numbers[numbers.index.isin(methods, level="method")] for group, methods in groups.items()}
    sums = {group: of[group].groupby(keys).sum(min_count=len(groups[group])) for group in groups}
    return pd.concat([(sums[group] / len(groups[group])).reset_index().assign(method=group) for group in groups])


def gains(scores: pd.DataFrame, measure: str, method: str, other: str) -> Interval:
    """The mean of what `method` has more than `other` of a measure, see `paired`, with its interval over clips."""
    return over_clips(paired(scores, measure, method, other), measure, range_of(measure, differs=True))


def range_of(measure: str, differs: bool = False) -> tuple[float, float]:
    """What a measure can be, or a difference of two of its values."""
    least, most = RANGES.get(measure, (-math.inf, math.inf))
    return (least - most, most - least) if differs else (least, most)


def over_clips(scores: pd.DataFrame, measure: str, within: tuple[float, float] | None = None) -> Interval:
    """The mean of a measure with an interval that resamples clips, each with its edits (and seeds).

    within: what bounds the interval, by default the measure's own range.
    """
    taken = scores.reindex(columns=["clip", measure]).dropna()
    least, most = within or range_of(measure)
    mean, low, high, n, _ = bootstrap({clip: list(values) for clip, values in taken.groupby("clip")[measure]})
    return Interval(mean, max(low, least), min(high, most), n)  # a bound that is nan stays so
