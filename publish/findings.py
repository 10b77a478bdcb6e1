"""What a run's claims come to: how many hold, and the few that answer the paper's main questions."""

from collections import Counter

import pandas as pd

from measures.evidence import VERDICTS, expected, needed
from measures.tables import METHOD, REPEATED, SOURCE

CHECKS = {"01_method": "", "07_cost": "multiply_adds"}  # rows that cannot come out otherwise if the code is right, by
# their section and what their names begin with: counted apart
COST = "07_cost"
NAMED = (  # does it edit, what does tuning buy, what does ST-Attn, is it better, where does it fail
    ("02_results", "edited_in_motion"),
    ("03_ablation", "tuning_motion"),
    ("03_ablation", "st_attn"),
    ("04_baselines", "ddim_inversion_frame_by_frame_edited_in_motion"),
    ("05_multi_object", "recall_tuned"),
)
PAPERS = (  # what the paper itself claims, a row each in the README
    ("02_results", "edited_in_motion"),
    ("02_results", "identity_kept"),
    ("03_ablation", "st_attn"),
    ("03_ablation", "inversion_motion"),
    ("03_ablation", "tuning_motion"),
    ("04_baselines", "paper_frame_consistency"),
    ("04_baselines", "paper_text_alignment"),
    ("04_baselines", "paper_video_frame_consistency"),
    ("04_baselines", "paper_video_text_alignment"),
    ("05_multi_object", "recall_number"),
    ("05_multi_object", "recall_occlusion"),
    ("06_control", "other_mask_overlap"),
)


RANKED = "edited in motion", "identity kept", "identity stability", "frame consistency", "text alignment"


def counted(claims: list[dict]) -> str:
    """How many claims got which verdict, in a sentence on edits, one on cost and one on checks; none of what is not."""
    checks = [row for row in claims if is_check(row)]
    others = [row for row in claims if not is_check(row)]
    of = {"on edits": [row for row in others if row["section"] != COST],
          "on cost": [row for row in others if row["section"] == COST]}  # fmt: skip
    said = [f"Of {len(rows)} claims {what}, {_verdicts(rows)}." for what, rows in of.items() if rows]
    said += [f"Of {len(checks)} checks of the method's code, {_verdicts(checks)}."] if checks else []
    return " ".join(said)


def is_check(row: dict) -> bool:
    """Whether a row asks for what has one right answer."""
    return row["section"] in CHECKS and row["name"].startswith(CHECKS[row["section"]])


def _verdicts(rows: list[dict]) -> str:
    verdicts = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{verdicts[verdict]} {words}" for verdict, words in VERDICTS.items() if verdicts[verdict])


def standing(scores: pd.DataFrame) -> str:
    """Where the method comes among the others by each of RANKED, in a sentence; empty where there are no others.

    scores: a row per method and edit, with `clip`; the two trivial methods are left out.
    """
    others = scores[~scores["method"].isin([SOURCE, REPEATED])]
    ranks = others.groupby("method")[[measure for measure in RANKED if measure in scores]].mean().rank(ascending=False)
    if METHOD not in ranks.index or len(ranks) < 2:
        return ""
    places = ", ".join(
        f"{place:.0f}{_ending(place)} by {measure}" for measure, place in ranks.loc[METHOD].dropna().items()
    )
    clips, edits = others["clip"].nunique(), len(others.drop_duplicates(["clip", "edit"]))
    return f"Among {len(ranks)} methods, by means over {edits} edits of {clips} clips, {METHOD} ranks {places}."


def _ending(place: float) -> str:
    return {1: "st", 2: "nd", 3: "rd"}.get(int(place), "th")  # there are fewer than 21 methods


def main_claims(claims: list[dict], names: tuple = NAMED) -> list[dict]:
    """The rows of `names`, those that there are: another params.yaml may have others."""
    found = {(row["section"], row["name"]): row for row in claims}
    return [found[key] for key in names if key in found]


def measured(row: dict) -> str:
    """A row's value with its unit and interval, as tables show it."""
    if row["value"] is None:
        return "not measured"
    unit = f" {row['unit']}" if row["unit"] else ""
    interval = " [{:.4g}, {:.4g}]".format(*row["interval"]) if row["interval"] else ""
    return f"{row['value']:.4g}{unit}{interval}"


def grounds(row: dict) -> str:
    """Why a claim has its verdict, in words for a sentence."""
    measure = row["measure"][0].lower() + row["measure"][1:]
    more = f"; it {needed(row)}" if "needed" in row else ""
    return f"{measure}, is {measured(row)}; expected: {expected(row)}{more}"
