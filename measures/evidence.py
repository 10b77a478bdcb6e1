"""Evidence: means with intervals over clips, verdicts on claims, and the rows that say so."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit  # quantiles; scipy.stats takes a second to import


class Interval(NamedTuple):
    """A mean with the bounds of its interval; the bounds are nan where there is only one clip."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        bounds = "" if math.isnan(self.low) else f" ({self.low:{spec}} to {self.high:{spec}})"
        return f"{self.mean:{spec}}{bounds}"


def bootstrap(values: Mapping[str, Sequence[float]], draws: int = 10_000, seed: int = 0) -> Interval:
    """Mean over all (clip, edit) values with its 95 % interval; `values` maps a clip to a value per edit.

    Clips are resampled and bring their edits with them: edits of one clip are not independent evidence. The percentile
    interval is widened as Student's t is over the normal distribution, by the number of clips: of a few, resampling
    alone gives too narrow an interval (the expanded percentile interval of
    Hesterberg, "What Teachers Should Know About the Bootstrap", 2015).
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    sums = np.array([np.sum(edits) for edits in values.values()])
    counts = np.array([len(edits) for edits in values.values()])
    mean = float(sums.sum() / counts.sum())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    n = len(values)
    wider = math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975) / ndtri(0.975)
    return Interval(mean, mean - wider * (mean - float(low)), mean + wider * (float(high) - mean))


def decide(
    claim: str,
    measure: str,
    value: float | Interval | None,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    unit: str = "",
) -> dict:
    """One row of evidence: the claim, what was measured, what was expected, and the verdict.

    A number holds or fails. An interval holds if all of it is within the bounds, fails if none of it is, and is
    undecided in between; so is a mean without an interval (one clip), and a value of None, which nothing measured. An
    interval of no width that only touches its bound is undecided too: [0, 0] is no evidence of a gain.
    """
    mean, low, high = value if isinstance(value, Interval) else [math.nan if value is None else value] * 3
    row = {"claim": claim, "measure": measure, "value": _rounded(mean), "interval": None, "unit": unit}
    row |= {"expected": _expected(at_least, at_most, unit), "verdict": "undecided"}
    touches = False
    if isinstance(value, Interval) and not math.isnan(low):
        row["interval"] = [_rounded(low), _rounded(high)]
        touches = low == high and (low == at_least) != (high == at_most)
    if high < at_least or low > at_most:  # a bound that is nan is on no side
        row["verdict"] = "fails"
    elif at_least <= low and high <= at_most and not touches:
        row["verdict"] = "holds"
    return row


def _expected(at_least: float, at_most: float, unit: str) -> str:
    unit = f" {unit}" if unit else ""
    if math.isinf(at_least) and math.isinf(at_most):
        return "open"
    if at_least == at_most:
        return f"{at_least:g}{unit}"
    if math.isinf(at_most):
        return f"at least {at_least:g}{unit}"
    return f"at most {at_most:g}{unit}" if math.isinf(at_least) else f"{at_least:g} to {at_most:g}{unit}"


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def evidence(row: dict) -> str:
    """The sentence that states one row of evidence."""
    unit = f" {row['unit']}" if row["unit"] else ""
    if row["value"] is None:
        return f"**Undecided:** {row['claim']}. {row['measure']} is not measured."
    interval = f" (95 % interval {row['interval'][0]:.4g} to {row['interval'][1]:.4g})" if row["interval"] else ""
    return (
        f"**{row['verdict'].capitalize()}:** {row['claim']}. "
        f"{row['measure']} is {row['value']:.4g}{unit}{interval}; expected {row['expected']}."
    )


def write_metrics(path: str | Path, rows: Mapping[str, dict]) -> None:
    """Write rows of evidence by their short names as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
