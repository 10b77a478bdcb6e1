"""The rules for claims in this world, which were fixed before a tuned model was scored."""

import math

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from measures.evidence import settled
from world import protocol
from world.clips import DATA
from world.moves import GROUPS

PEERS = ["Per-frame editing", "TokenFlow"]
KINDS = ["edges", "mask", "pose"]
TABLE = {"clip": "clip-0", "edit": "place", "group": "path", "seen": True}
ALL = {(section, key): claim for section in protocol.sections()
       for key, claim in protocol.claims(section, PEERS, KINDS).items()}  # fmt: skip


def table(clips: int = 12, **measures: dict[str, float]) -> pd.DataFrame:
    """A row per method, clip and edit; a measure is its method's number and a little of the clip's own."""
    rows = [
        TABLE | {"clip": f"clip-{clip}", "edit": edit, "method": method, "seen": clip % 2 == 0}
        | {measure: values[method] + 0.001 * (clip % 3) for measure, values in measures.items()}
        for method in next(iter(measures.values()))
        for clip in range(clips)
        for edit in ("object", "place", "style")
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("where", ALL)
def test_a_claim_has_one_measure_a_finite_bound_and_an_effect_that_matters(where):
    claim = ALL[where]
    assert math.isfinite(claim.at_least) and (claim.smallest > 0) == (claim.at_least == 0)
    assert claim.more or claim.by
    assert len(claim.claim) <= 90 and "{" not in claim.claim + claim.more + claim.than


def test_claims_name_edits_and_clips_that_the_lists_have():
    clips = YAML(typ="safe").load(DATA / "evaluation.yaml")["clips"].values()
    edits = {name for facts in clips for name in facts["edits"]}
    groups = {*GROUPS, "walk", "seen", "unseen"}
    for claim in ALL.values():
        assert set(claim.edits) <= edits and claim.clips in groups | {""}
        if claim.measure == "identity kept":
            assert set(claim.edits) == {"place", "style"}


def test_a_claim_about_some_edits_and_clips_is_asked_of_those_alone():
    scores = table(**{"identity kept": {"Tune-A-Video": 0.8, "no-tuning": 0.5}})
    claim = ALL["03_ablation", "tuning_unseen"]
    values = claim.values(scores)
    assert set(values["clip"]) == {f"clip-{number}" for number in range(1, 12, 2)} and len(values) == 12
    scores.loc[scores["seen"], "identity kept"] = 0.0
    assert claim.found(claim.values(scores)).mean == pytest.approx(0.3)


def test_of_a_variant_that_was_run_on_some_clips_these_are_compared_whatever_their_order():
    scores = table(**{"motion correlation": {"Tune-A-Video": 0.8, "shuffled-frames": 0.5}})
    run = scores["clip"].isin(["clip-0", "clip-3", "clip-6", "clip-9"]) | (scores["method"] == "Tune-A-Video")
    for rows in (scores[run], scores[run].sort_values("clip")):
        values = ALL["03_ablation", "order"].values(rows)
        assert set(values["clip"]) == {"clip-0", "clip-3", "clip-6", "clip-9"} and len(values) == 12


def test_intervals_stay_in_the_range_of_a_measure():
    scores = table(clips=3, **{"identity kept": {"Tune-A-Video": 0.99}})
    scores.loc[scores["clip"] == "clip-1", "identity kept"] = 0.2
    claim = ALL["02_results", "identity_kept"]
    assert claim.found(claim.values(scores)).high == 1.0


def test_who_edits_nothing_fails_every_claim_about_editing():
    rng = np.random.default_rng(0)
    of_editing = {where: claim for where, claim in ALL.items() if claim.measure == "edited in motion"}
    against = {where: claim for where, claim in of_editing.items() if claim.at_least >= 0}
    assert len(against) > 5
    methods = {name: 0.3 for claim in of_editing.values() for name in claim.asks()} | {"Tune-A-Video": 0.0}
    scores = table(**{"edited in motion": methods})
    scores["edited in motion"] += rng.uniform(0, 0.02, len(scores)) * (scores["method"] != "Tune-A-Video")
    for (_, key), claim in against.items():
        if claim.more == "Tune-A-Video":
            row = claim.row(claim.found(claim.values(scores)))
            assert settled({key: row})[key]["verdict"] == "fails", key


@pytest.mark.parametrize("key", ["recall_number", "swaps_occlusion"])
def test_a_slope_is_of_what_is_beyond_the_sources_own_and_per_thing_or_tenth_hidden(key):
    claim = ALL["05_multi_object", key]
    rows = [
        {"method": method, "clip": f"clip-{clip}", "edit": "place", "group": "cross", "things": 1 + clip % 3,
         "hidden": 0.05 * clip, "recall": 0.9 - edited * 0.1 * (1 + clip % 3) - 0.01 * (clip % 2),
         "swaps": 0.02 * clip + edited * 0.03 * clip}
        for clip in range(12)
        for method, edited in (("the source clip itself", 0), ("no condition", 1))
    ]  # fmt: skip
    found = claim.found(claim.values(pd.DataFrame(rows)))
    assert found.mean == pytest.approx(0.1 if key == "recall_number" else 0.06) and found.freedom == 10
    assert claim.row(found)["verdict"] == "holds"
    assert claim.found(claim.values(pd.DataFrame(rows[:4]))) is None
    assert claim.values(pd.DataFrame([row for row in rows if row["method"] == "no condition"])) is None


def test_where_nothing_was_recalled_or_swapped_nothing_is_known_of_it():
    scores = table(**{"edited in motion": {"no condition": 0.7, "the source clip itself": 0.0}})
    assert ALL["05_multi_object", "recall_number"].values(scores) is None


def test_missed_is_what_recall_leaves():
    scores = table(recall={"no condition": 0.7}).assign(things=2.0, hidden=0.5)
    asked = ALL["05_multi_object", "recall_number"].asked_of(scores)
    assert set(asked["edit"]) == {"place"}
    np.testing.assert_allclose(asked["missed"], 1 - asked["recall"])
