"""`python -m publish verify`: what it finds, and that it says so in one line a check."""

import json
from pathlib import Path

import pandas as pd
import pytest

from measures.evidence import Interval, decide
from publish import readme, verify
from publish.findings import measured
from studies.settings import load_params
from tav.errors import InputError

ROWS = [
    {"section": "02_results", "name": "gain", **decide("Edits follow", "Gain", Interval(2.0, 1.0, 3.0), at_least=0)},
    {"section": "02_results", "name": "loss", **decide("Nothing is lost", "Loss", 3.7, at_most=1)},
]


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """Reports, README and claims that agree."""
    monkeypatch.chdir(tmp_path)
    verify.CLAIMS.parent.mkdir(parents=True)
    verify.CLAIMS.write_text(json.dumps(ROWS))
    monkeypatch.setattr(readme, "kept", lambda part, params: (pd.DataFrame(columns=["method", "clip", "edit"]), ""))
    own = {row["name"]: {k: v for k, v in row.items() if k not in ("section", "name")} for row in ROWS}
    (verify.CLAIMS.parent / "02_results.json").write_text(json.dumps(own))
    Path("reports/index.html").write_text(" ".join(measured(row) for row in ROWS))
    Path("docs").mkdir()
    for page, name, text in readme.parts(None):
        with open(page, "a") as file:
            file.write(f"<!-- {name} -->\n{text}<!-- end of {name} -->\n")
    return tmp_path


def test_pages_that_agree_pass_and_each_that_does_not_is_named(reports):
    assert verify.check_claims(None) == []
    Path("README.md").write_text(Path("README.md").read_text().replace("| 2 | 1 | 1 |", "| 2 | 2 |  |"))
    Path("reports/index.html").write_text(measured(ROWS[0]))
    (verify.CLAIMS.parent / "02_results.json").write_text("{}")
    assert verify.check_claims(None) == [
        "README.md says something else about claims: run `python -m publish readme`",
        "reports/index.html does not show loss",
        "reports/metrics/02_results.json differs",
    ]


def test_scores_are_compared_as_means_of_the_clips_that_both_have(reports, monkeypatch):
    monkeypatch.setattr(verify, "MADE_AGAIN", {"scores": "04"})
    again, kept, here = Path("results/04/scores.csv"), Path("kept/scores.csv"), (Path("results"), Path("kept"))
    assert verify.check_scores(*here) == []  # nothing is committed of this part
    kept.parent.mkdir()
    kept.touch()
    assert verify.check_scores(*here) == [f"{again} is not here"]
    again.parent.mkdir(parents=True)
    rows = pd.DataFrame({"method": "SDEdit", "clip": ["a", "b"], "edit": "object", "frame consistency": [90.0, 92.0]})
    other = pd.DataFrame({"method": ["SDEdit"], "clip": "c", "edit": "object", "frame consistency": 10.0})
    rows.to_csv(again, index=False)
    pd.concat([rows.assign(**{"frame consistency": [91.0, 92.0]}), other]).to_csv(kept, index=False)
    assert verify.check_scores(*here) == []
    pd.concat([rows.assign(**{"frame consistency": [91.5, 92.0]}), other]).to_csv(kept, index=False)
    off = "frame consistency of SDEdit is off by 0.75, allowed are 0.6 (scores)"
    assert verify.check_scores(*here) == [off]
    other.to_csv(kept, index=False)
    assert verify.check_scores(*here) == [f"no clip of {again} is in {kept}"]


def test_variants_are_compared_with_those_of_their_seed(reports, monkeypatch):
    monkeypatch.setattr(verify, "MADE_AGAIN", {"ablation": "03"})
    Path("results/03").mkdir(parents=True)
    Path("kept").mkdir()
    rows = pd.DataFrame({"method": "no-tuning", "seed": [33], "clip": "a", "edit": "object", "edit success": 0.5})
    rows.to_csv("results/03/scores.csv", index=False)
    pd.concat([rows, rows.assign(seed=34, **{"edit success": 1.0})]).to_csv("kept/ablation.csv", index=False)
    assert verify.check_scores(Path("results"), Path("kept")) == []


def test_a_check_is_a_line_and_one_that_fails_is_bad_input(reports, monkeypatch, capsys):
    monkeypatch.setattr(verify, "check_lock", lambda: ["stale: edit"])
    verify.KEPT.mkdir()
    Path(verify.KEPT, "scores.csv").touch()
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    with pytest.raises(InputError, match="3 of 4 checks failed"):
        verify.verify(params)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAIL dvc.lock is of these settings, sources and inputs: stale: edit" and len(lines) == 4
    assert lines[3] == "ok   README, docs, report and claims agree"
    monkeypatch.setattr(verify, "KEPT", Path("empty"))
    with pytest.raises(InputError, match="1 of 2 checks failed"):
        verify.verify(params)
    assert "none no scores of the whole list of clips are committed" in capsys.readouterr().out
