"""Evidence: means with intervals over clips, verdicts on claims, and the rows that say so."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit  # of Student's t; scipy.stats takes a second to import

VERDICTS = {"holds": "hold", "fails": "fail", "negligible": "are negligible", "undecided": "are undecided"}
WOULD = {"holds": "hold", "fails": "fail", "negligible": "be negligible"}  # what more clips would find
FEW = 8  # claims, at most, that are told one by one
FEWEST = 10  # clips of which an effect can be called negligible: fewer may be alike by chance
LEVEL = 0.05  # of a section's claims together, and of an interval


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % interval; the bounds are nan where there is only one clip.

    n: how many clips (or laps) it is over; 0 where that is not known. fitted: the numbers that were fitted to them, of
    a mean one, of a straight line two.
    """

    mean: float
    low: float
    high: float
    n: int = 0
    fitted: int = 1

    @property
    def freedom(self) -> int:
        """Student's degrees of freedom."""
        return self.n - self.fitted

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
        return Interval(mean, math.nan, math.nan, 1)
    drawn = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    n = len(values)
    wider = math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975) / ndtri(0.975)
    return Interval(mean, mean - wider * (mean - float(low)), mean + wider * (float(high) - mean), n)


def decide(
    claim: str,
    measure: str,
    value: float | Interval | None,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    unit: str = "",
    smallest: float = 0.0,
) -> dict:
    """One row of evidence: the claim, what was measured, what was expected, and the verdict.

    A number holds or fails. An interval holds if all of it is within the bounds, fails if none of it is, and is
    undecided in between; so is a mean without an interval (one clip), and a value of None, which nothing measured. An
    interval of no width that only touches its bound is undecided too: [0, 0] is no evidence of a gain.
    smallest: the smallest effect that matters. An interval over FEWEST clips or more that is nowhere as far as that
    from zero is negligible, whatever side it is on.
    The row's p is two-sided and against the one bound, as the interval is: it would touch the bound at the level p.
    """
    mean, low, high = value[:3] if isinstance(value, Interval) else [math.nan if value is None else value] * 3
    row = {"claim": claim, "measure": measure, "value": _rounded(mean), "interval": None, "unit": unit}
    row |= {"expected": _expected(at_least, at_most, unit), "verdict": "undecided"}
    touches = False
    if isinstance(value, Interval) and not math.isnan(low):
        row["interval"] = [_rounded(low), _rounded(high)]
        touches = low == high and (low == at_least) != (high == at_most)
        if value.freedom > 0 and math.isinf(at_least) != math.isinf(at_most):
            row |= _tested(value, at_most if math.isinf(at_least) else at_least)
            row["side"] = "holds" if at_least <= mean <= at_most else "fails"
    if smallest:
        row["smallest"] = smallest
    if high < at_least or low > at_most:  # a bound that is nan is on no side
        row["verdict"] = "fails"
    elif at_least <= low and high <= at_most and not touches:
        row["verdict"] = "holds"
    if smallest and row.get("n", 0) >= FEWEST and -smallest < low <= high < smallest and low < high:
        row["verdict"] = "negligible"
    return row


def _tested(value: Interval, bound: float) -> dict:
    """How many clips (or laps) there are, and Student's p of their mean against a bound, which the interval faces."""
    reach = value.mean - value.low if bound < value.mean else value.high - value.mean
    t = stdtrit(value.freedom, 1 - LEVEL / 2) * _ratio(abs(value.mean - bound), reach)
    return {"n": value.n, "freedom": value.freedom, "p": float(2 * stdtr(value.freedom, -t))}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf * bool(part)


def settled(rows: Mapping[str, dict]) -> dict[str, dict]:
    """The rows of a section as they stand when all are asked together: each p after Holm.

    A claim that holds or fails alone and not beside the others is undecided. Negligible is each for itself. An
    undecided one is given the n, of clips or laps of the same spread, that would decide it if its mean and the others
    stay as they are, and the verdict it `would` have.
    """
    rows = {name: dict(row) for name, row in rows.items()}
    tested = sorted((row for row in rows.values() if "p" in row), key=lambda row: row["p"])
    least = 0.0
    for number, row in enumerate(tested):
        share = LEVEL / (len(tested) - number)
        alone, row["p"] = row["p"], max(least, min(1.0, row["p"] * (len(tested) - number)))
        least = row["p"]
        if row["verdict"] in ("holds", "fails") and row["p"] > LEVEL:
            row["verdict"] = "undecided"
        if row["verdict"] == "undecided" and 0 < alone:
            row |= _needed(row, alone, share)
        row["p"] = float(f"{row['p']:.2g}")
        del row["freedom"], row["side"]
    return rows


def _needed(row: dict, p: float, share: float) -> dict:
    """Of how many clips p would be the share; with a smallest effect, or the interval be within it."""
    n, freedom, (low, high) = row["n"], row["freedom"], row["interval"]
    t, needed = -stdtrit(freedom, p / 2), {}

    def quantile(many: int, of: float) -> float:
        return stdtrit(freedom + many - n, of)

    if t > 0:
        needed[row["side"]] = _least(n, lambda many: t * math.sqrt(many / n) >= quantile(many, 1 - share / 2))
    room = row.get("smallest", 0) - abs(row["value"])
    if room > 0:
        reach = max(high - row["value"], row["value"] - low) / quantile(n, 1 - LEVEL / 2)
        within = _least(n, lambda many: reach * math.sqrt(n / many) * quantile(many, 1 - LEVEL / 2) < room)
        needed["negligible"] = max(FEWEST, within)
    if not needed:
        return {}
    would = min(needed, key=needed.get)
    return {"needed": max(n + 1, int(float(f"{needed[would]:.2g}"))), "would": would}


def _least(n: int, enough: Callable[[int], bool]) -> int:
    """The least number above n that is enough, as all above it are."""
    most = n + 1
    while not enough(most):
        n, most = most, 2 * most
    while most - n > 1:
        middle = (n + most) // 2
        n, most = (n, middle) if enough(middle) else (middle, most)
    return most


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
        f"{row['measure']} is {row['value']:.4g}{unit}{interval}; expected {expected(row)}."
        f"{f' It {needed(row)}, if the mean stays.' if 'needed' in row else ''}"
    )


def needed(row: dict) -> str:
    """What an undecided row would come to, and of how many clips or laps."""
    return f"would {WOULD[row['would']]} with an n of about {row['needed']:,}"


def expected(row: dict) -> str:
    """What was asked of a row's value, and from where on an effect matters."""
    return f"{row['expected']}, {row['smallest']:g} to matter" if "smallest" in row else row["expected"]


def answer(rows: Mapping[str, dict]) -> str:
    """What a section found, a line per verdict: its claims, or how many there are if they are more than a few."""
    lines = []
    for verdict in VERDICTS:
        claims = list(dict.fromkeys(row["claim"] for row in rows.values() if row["verdict"] == verdict))
        if claims:
            named = f"{len(claims)} of {len({row['claim'] for row in rows.values()})} claims"
            lines.append(f"- **{verdict.capitalize()}:** {'; '.join(claims) if len(claims) <= FEW else named}.")
    return "**Answer**\n\n" + ("\n".join(lines) or "- Nothing was asked.")


def write_metrics(path: str | Path, rows: Mapping[str, dict]) -> None:
    """Write rows of evidence by their short names as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
