"""README.md and docs/ say what reports/ and benchmarks/results say, and their links lead somewhere."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from measures.evidence import Interval, decide, settled
from measures.protocol import claims, sections
from peers import PEERS
from publish import readme
from publish.findings import NAMED, PAPERS, counted, standing
from publish.readme import ASKED, FILES, counts, every_claim, findings, of_paper, outdated, the_list, write_readme
from studies.settings import load_params
from tav.errors import InputError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = [
    {"section": section, "name": name, **row}
    for section, name, row in (
        ("01_method", "causal", decide("No later frame is seen", "Frames", 0, at_most=0)),
        (
            "02_results",
            "edited_in_motion",
            decide("Edits follow", "Gain", Interval(2.0, 1.0, 3.0), at_least=0, unit="dB"),
        ),
        ("02_results", "loss", decide("Nothing is lost", "Loss", 3.0, at_most=1)),
        ("02_results", "motion", decide("Edits move", "The path", None)),
    )
]

SCORES = pd.DataFrame(
    [
        (method, clip, "place", success, consistency)
        for clip in ("fox", "bus")
        for method, success, consistency in (
            ("Tune-A-Video", 0.5, 90.0), ("SDEdit", 0.75, 80.0), ("TokenFlow", 0.25, 95.0),
            ("the source clip itself", 0.9, 99.0),
        )
    ],
    columns=["method", "clip", "edit", "edited in motion", "frame consistency"],
)  # fmt: skip


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """README and docs with their marks only, and the claims they are written from."""
    monkeypatch.chdir(tmp_path)
    readme.CLAIMS.parent.mkdir(parents=True)
    readme.CLAIMS.write_text(json.dumps(ROWS))
    monkeypatch.setattr(readme, "kept", lambda part, params: (SCORES, ""))
    Path("docs").mkdir()
    for page, name, _ in readme.parts(None):
        with open(page, "a") as file:
            file.write(f"before\n<!-- {name} -->\nout of date\n<!-- end of {name} -->\nafter\n")
    return tmp_path


def test_the_generated_parts_are_written_and_the_rest_stays(pages):
    assert "README.md says something else about findings: run `python -m publish readme`" in outdated(None)
    write_readme(None)
    assert outdated(None) == []
    text = Path("README.md").read_text()
    assert text.startswith("before\n<!-- findings -->\n- Of") and text.endswith("<!-- end of speed -->\nafter\n")
    assert "out of date" not in text
    write_readme(None)
    assert Path("README.md").read_text() == text


def test_parts_of_the_list_that_were_run_are_told_from_those_that_were_not(pages, monkeypatch):
    run = {"ablation": SCORES}
    monkeypatch.setattr(readme, "kept", lambda part, params: (run.get(part, SCORES.head(0)), ""))
    text = the_list(None)
    assert text.startswith(
        "Verdicts rest on the whole list of clips for its variants by two seeds (section 3): 2 clips"
    )
    assert "Not run yet: the method and its peers (sections 2 and 4); further variants" in text
    run |= dict.fromkeys(("scores", "full_ablation", "control", "objects"), SCORES)
    assert "Not run" not in the_list(None)
    run.clear()
    assert the_list(None).startswith("Not run yet: the method")
    assert set(ASKED) == set(FILES)


def test_where_no_benchmark_is_committed_nothing_is_said_of_the_methods_place(pages, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(pages)
    write_readme(None)
    assert "ranks" not in Path("README.md").read_text() and outdated(None) == []


def test_a_page_without_marks_is_refused(pages):
    Path("README.md").write_text("no marks")
    with pytest.raises(InputError, match="findings"):
        write_readme(None)


def test_findings_count_verdicts_and_quote_named_claims_with_theirs():
    assert findings(ROWS, SCORES) == (
        "- Of 3 claims on edits, 1 hold, 1 fail, 1 are undecided. Of 1 checks of the method's code, 1 hold.\n"
        "- Among 3 methods, by means over 2 edits of 2 clips, Tune-A-Video ranks 2nd by edited in motion, "
        "2nd by frame consistency.\n"
        "- Edits follow: **holds** (gain, is 2 dB [1, 3]; expected: at least 0 dB).\n"
    )


def test_claims_on_cost_and_checks_are_counted_apart():
    cost = {"section": "07_cost", "name": "seconds", **decide("Time grows", "Exponent", 1.0, at_most=2)}
    exact = {"section": "07_cost", "name": "multiply_adds_full", **decide("It costs", "Gap", 0, 0, 0)}
    assert counted([*ROWS, cost, exact]).endswith(
        "Of 1 claims on cost, 1 hold. Of 2 checks of the method's code, 2 hold."
    )
    assert counted([cost]) == "Of 1 claims on cost, 1 hold."


def test_the_method_stands_nowhere_without_others_or_without_itself():
    assert standing(SCORES[SCORES["method"] == "Tune-A-Video"]) == ""
    assert standing(SCORES[SCORES["method"] != "Tune-A-Video"]) == ""
    assert standing(SCORES.head(0)) == ""


def test_every_claim_stands_with_its_value_interval_and_verdict():
    assert "| [02_results](reports/notebooks/02_results.ipynb) | 3 | 1 | 1 | 1 |" in counts(ROWS)
    table = every_claim(ROWS)
    assert "| Edits follow | Gain | 2 dB [1, 3] | at least 0 dB |  |  | **holds** |" in table
    assert "| Edits move | The path | not measured | open |  |  | **undecided** |" in table


def test_an_undecided_claim_says_how_many_clips_would_decide_it_and_small_effects_from_where_they_matter():
    row = decide("ST-Attn helps", "Gain", Interval(0.5, -0.5, 1.5, 42), at_least=0, smallest=0.05)
    rows = [{"section": "03_ablation", "name": "st_attn"} | settled({"st_attn": row})["st_attn"]]
    assert "to matter | 42 | 0.32 | **undecided** (would hold with an n of about 160) |" in every_claim(rows)
    assert "; it would hold with an n of about 160)." in findings(rows, SCORES)
    assert "| ST-Attn helps | Gain | 0.5 [-0.5, 1.5] | at least 0, 0.05 to matter | 0.32 | **undecided** |" in of_paper(
        rows
    )


def test_the_repositorys_pages_say_what_its_reports_and_benchmarks_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert outdated(load_params()) == []


def test_the_claims_that_the_readme_names_are_asked_for():
    peers, kinds = [peer.name for peer in PEERS.values()], load_params(ROOT / "params.yaml").control
    asked = {(section, name) for section in sections() for name in claims(section, peers, kinds)}
    assert {*NAMED, *PAPERS} <= asked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link
