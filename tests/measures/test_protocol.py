"""What is claimed, by which measure, and what verdicts come to when claims are asked together."""

import json
import math

import pandas as pd
import pytest

from measures.evidence import Interval, answer, decide, evidence, settled
from measures.protocol import Claim, answers, claims, together
from measures.tables import METHOD, RANGES
from studies.settings import load_params

SECTIONS = ("02_results", "03_ablation", "04_baselines", "05_multi_object", "06_control")


def gain(mean: float, reach: float, clips: int = 42) -> Interval:
    return Interval(mean, mean - reach, mean + reach, clips - 1)


def scores(clips: int, **methods: list[float]) -> pd.DataFrame:
    rows = [
        {"method": method.replace("_", " "), "clip": f"clip-{clip}", "edit": "place", "edit success": values[clip]}
        for method, values in methods.items()
        for clip in range(clips)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_claim_names_a_measure_with_a_range_and_bounds_that_there_are(section):
    params = load_params()
    asked = claims(section, params.margins.model_dump(), params.control)
    measured = {*RANGES, "PSNR", "count error", "identity error"}
    assert asked and {claim.measure for claim in asked.values()} <= measured
    for claim in asked.values():
        assert math.isfinite(claim.at_least) and (claim.at_least == 0 or claim.smallest == 0)
        assert claim.by or claim.more
        assert len(claim.claim) <= 90  # one line of a figure, beside the verdict


def test_claims_of_a_control_are_asked_of_every_kind_and_speak_of_it():
    asked = claims("06_control", load_params().margins.model_dump(), ["mask", "scribble"])
    assert set(asked) == {f"{part}_{kind}_{what}" for kind in ("mask", "scribble") for part, what in
                          (("other", "centre_error"), ("other", "mask_overlap"), ("own", "edit_success"))}  # fmt: skip
    assert "another clip's masks" in asked["other_mask_centre_error"].claim
    assert asked["own_scribble_edit_success"].at_least == -0.1 and asked["own_scribble_edit_success"].more == "scribble"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (gain(0.01, 0.03), "negligible"),
        (gain(0.02, 0.01), "negligible"),  # surely more, and too little to matter
        (gain(0.04, 0.03), "holds"),  # more, and it may matter
        (gain(-0.2, 0.1), "fails"),
        (gain(0.0, 0.0), "undecided"),
        (gain(0.03, 0.04), "undecided"),
    ],
)
def test_an_effect_that_is_surely_small_is_negligible(value, verdict):
    assert decide("more", "gain", value, at_least=0, smallest=0.05)["verdict"] == verdict


def test_p_is_where_the_interval_would_touch_the_bound():
    assert decide("more", "gain", gain(1.0, 1.0), at_least=0)["p"] == pytest.approx(0.05)
    assert decide("less", "gain", gain(1.0, 0.5), at_most=2)["p"] < 0.05 < decide("", "", gain(1, 2), at_least=0)["p"]
    assert decide("more", "gain", gain(1.0, 0.0), at_least=0)["p"] == 0
    assert "p" not in decide("between", "gain", gain(1.0, 0.5), at_least=0, at_most=2)


def test_claims_that_are_asked_together_need_more_evidence_each():
    alone = decide("more", "gain", gain(1.0, 0.95), at_least=0)
    assert alone["verdict"] == "holds" and settled({"one": alone})["one"]["verdict"] == "holds"
    others = {f"other {number}": decide("more", "gain", gain(0.1, 1.0), at_least=0) for number in range(3)}
    strong = decide("more", "gain", gain(1.0, 0.3), at_least=0)
    found = settled({"weak": alone, "strong": strong} | others)
    assert found["weak"]["verdict"] == "undecided" and found["strong"]["verdict"] == "holds"
    assert found["weak"]["p"] == pytest.approx(4 * alone["p"], rel=0.1)  # Holm: the strongest is done with
    assert alone["verdict"] == "holds"  # what was given is left as it was
    json.dumps(found, allow_nan=False)


def test_an_undecided_claim_says_how_many_clips_would_decide_it():
    row = settled({"one": decide("more", "gain", gain(0.5, 1.0), at_least=0)})["one"]
    assert row["verdict"] == "undecided" and row["needed"] == 170  # an interval of half the width: four times as many
    assert evidence(row).endswith("An n of about 170 would decide it, if the mean stays.")
    small = settled({"one": decide("more", "gain", gain(0.01, 0.08), at_least=0, smallest=0.05)})["one"]
    assert small["needed"] == 170  # to lie within the smallest effect needs fewer than to leave zero
    assert "needed" not in settled({"one": decide("more", "gain", gain(1.0, 0.5), at_least=0)})["one"]


def test_a_claim_takes_the_first_table_that_can_tell():
    claim = Claim("more", "edit success", METHOD, "other", smallest=0.05)
    few, many = scores(2, **{METHOD: [1, 1], "other": [0, 0]}), scores(4, **{METHOD: [1] * 4, "other": [0.5] * 4})
    found = answers({"a": claim}, {"all": many, "few": few})["a"]
    assert found["value"] == 0.5 and found["measure"].endswith("above that of other, all")
    without = many[many["method"] == METHOD]
    assert answers({"a": claim}, {"all": without, "few": few})["a"]["value"] == 1
    nowhere = answers({"a": claim}, {"all": without})["a"]
    assert nowhere["value"] is None and nowhere["verdict"] == "undecided"


def test_an_answer_names_the_claims_of_each_verdict_or_counts_them():
    def row(claim: str, mean: float) -> dict:
        return decide(claim, "gain", gain(mean, 0.5), at_least=0)

    assert answer({"a": row("ST-Attn helps", 1), "b": row("Tuning helps", -1)}).splitlines()[2:] == [
        "- **Holds:** ST-Attn helps.", "- **Fails:** Tuning helps."
    ]  # fmt: skip
    assert "- **Holds:** 9 of 9 claims." in answer({str(number): row(f"claim {number}", 1) for number in range(9)})
    assert answer({}).endswith("Nothing was asked.")


def test_claims_that_were_asked_later_take_nothing_from_those_before_them():
    rows = {name: decide(name, name, gain(0.06, 0.03), 0) for name in ("a", "b")}
    first, later = Claim("a", "x", "ours"), Claim("b", "x", "ours", asked="later")
    alone = settled({"a": rows["a"]})["a"]
    assert together(rows, {"a": first, "b": first})["a"]["p"] == pytest.approx(2 * alone["p"], rel=0.1)
    assert list(together(rows, {"b": later, "a": first})) == ["a", "b"]
    assert together(rows, {"a": first, "b": later})["a"] == alone
