"""The claims on what the paper does not have: from rows to verdicts, and on the page."""

import hashlib
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from own import evidence
from own.evidence import claims, page, seam
from publish.marks import read_marked
from studies.settings import load_params
from tests.workspace import ROOT


def rows(**better: float) -> pd.DataFrame:
    """Rows of three clips; `better`: what the new ways gain in a measure."""
    ways = {"background": ("plain", "words", "mask"), "stopping": ("fixed", "until learnt"),
            "longer": ("one window", "windows")}  # fmt: skip
    measures = {"background change": 9.0, "edit success": 0.8, "identity stability": 0.8, "motion correlation": 0.6,
                "frame consistency": 90.0, "steps": 500.0, "seam": 1.0}  # fmt: skip
    return pd.DataFrame(
        {"part": part, "how": how, "clip": clip, "edit": "object"}
        | {
            what: value + number / 100 + better.get(what.replace(" ", "_"), 0) * (how != hows[0])
            for what, value in measures.items()
        }  # fmt: skip
        for part, hows in ways.items()
        for how in hows
        for number, clip in enumerate(["a", "b", "c"])
    )


def test_verdicts_follow_from_the_rows():
    found = {row["claim"]: row["verdict"] for row in claims(rows(background_change=-4, steps=-300))}
    assert set(found.values()) == {"holds"} and len(found) == 11
    worse = {row["claim"]: row["verdict"] for row in claims(rows(edit_success=-0.2, seam=1.0, frame_consistency=-5))}
    assert worse["Windows cost no edit success"] == worse["Seams are not seen"] == "fails"
    assert worse["Stopping saves a third of 500 steps"] == "fails"
    assert worse["Windows cost no frame consistency"] == "fails"


def test_what_has_a_row_is_not_made_again(workplace, monkeypatch):
    row = {"part": "longer", "how": "plain", "clip": "square", "edit": "object", "settings": "other"}
    pd.DataFrame([row]).to_csv("own.csv")
    monkeypatch.setattr(evidence, "FILE", Path("own.csv"))
    made = partial(pytest.fail, "made")
    jobs = lambda params: [evidence.Job("plain", "square", "object", None, made)]  # noqa: E731
    monkeypatch.setattr(evidence, "PARTS", {"longer": jobs})
    with pytest.raises(pytest.fail.Exception, match="made"):
        evidence.measure(load_params())  # with these settings it was not
    monkeypatch.setattr(evidence, "made_with", lambda params: {})
    pd.DataFrame([row | {"settings": hashlib.sha256(b"{}").hexdigest()[:16]}]).to_csv("own.csv")
    assert len(evidence.measure(load_params())) == 1


def test_a_seam_is_seen_where_windows_change():
    still = torch.linspace(0, 1, 16)[:, None, None, None].expand(-1, 3, 4, 4)
    assert seam(still) == pytest.approx(1)
    jumps = still.clone()
    jumps[8:] += 1
    assert seam(jumps) > 2


def test_the_page_says_what_the_committed_rows_do():
    assert read_marked(ROOT / "docs/own-clips.md", "evidence") == page()
