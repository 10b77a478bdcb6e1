"""Tables of scores: groups of methods."""

import math

import pandas as pd
import pytest

from measures.evidence import Interval
from measures.tables import averaged, gains


def test_a_group_has_the_mean_of_its_methods_edit_by_edit_and_none_where_one_is_missing():
    rows = [("a", 1.0), ("b", 3.0), ("c", 10.0)]
    scores = pd.DataFrame(
        [{"method": method, "clip": clip, "edit": "object", "seed": 33, "motion correlation": value + number}
         for number, clip in enumerate(("one", "two", "three")) for method, value in rows]
    )  # fmt: skip
    scores.loc[scores["method"].eq("b") & scores["clip"].eq("two"), "motion correlation"] = math.nan
    scores = scores[~(scores["method"].eq("a") & scores["clip"].eq("three"))]
    found = averaged(scores, {"both": {"a", "b"}, "other": {"c"}}).set_index(["method", "clip"])["motion correlation"]
    assert found["both", "one"] == 2.0 and found["other", "two"] == 11.0
    assert math.isnan(found["both", "two"]) and math.isnan(found["both", "three"])
    gained = gains(averaged(scores, {"both": {"a", "b"}, "other": {"c"}}), "motion correlation", "both", "other")
    assert isinstance(gained, Interval) and gained.mean == pytest.approx(-8.0)
