"""What a run's claims come to: how many hold, and the few that answer the paper's main questions."""

from collections import Counter

VERDICTS = {"holds": "hold", "fails": "fail", "negligible": "are negligible", "undecided": "are undecided"}
CHECKS = "01_method"  # what it asks cannot come out otherwise if the code is right: counted apart
NAMED = (  # does it edit, what does tuning buy, what does ST-Attn, is it better
    ("02_results", "edit_success"),
    ("03_ablation", "no_tuning"),
    ("03_ablation", "own_frame_attention"),
    ("04_baselines", "plug_and_play_motion"),
)


def counted(claims: list[dict]) -> str:
    """How many claims got which verdict, in two sentences."""
    checks = [row for row in claims if row["section"] == CHECKS]
    others = [row for row in claims if row["section"] != CHECKS]
    verdicts = Counter(row["verdict"] for row in others)
    count = ", ".join(f"{verdicts[verdict]} {words}" for verdict, words in VERDICTS.items() if verdicts[verdict])
    held = sum(row["verdict"] == "holds" for row in checks)
    return f"Of {len(others)} claims, {count}. Of {len(checks)} checks of the method's code, {held} hold."


def main_claims(claims: list[dict]) -> list[dict]:
    """The rows of `NAMED`, those that there are: another params.yaml may have others."""
    found = {(row["section"], row["name"]): row for row in claims}
    return [found[key] for key in NAMED if key in found]


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
    return f"{measure}: {measured(row)}; expected: {row['expected']}"
