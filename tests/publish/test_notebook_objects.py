"""Notebook 05 executed at a tiny scale: a clip of one thing, one of two apart and one of two that cross."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from publish.notebook import run_notebook
from tav.clip import read_frames, write_frames
from tests.tiny_clip import save_clip
from tests.tiny_truth import save_truth

pytestmark = pytest.mark.usefixtures("cells_run_here")

ROOT = Path(__file__).parents[2]
CENTRES = {
    "one": [[0.5]] * 4,
    "apart": [[0.25, 0.75]] * 4,
    "crossing": [[0.25, 0.75], [0.4, 0.6], [0.5, 0.5], [0.6, 0.4]],
}
CLAIMS = {f"{what}_{of}" for what in ("recall", "swaps") for of in ("number", "occlusion", "tuned", "edges", "mask")}
CLAIMS |= {"motion_tuned"}


@pytest.fixture
def project(workplace, set_params, monkeypatch):
    """The folder of a run whose sampling is done; under a mask, edits are the source clip itself."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save_clip(Path("clip"))
    objects = {
        name: {
            "source": {"path": f"{name}.mp4", "start": 0, "stride": 1},
            "caption": f"a cartoon of {what} crossing in the snow",
            "edits": {"object": f"a cartoon of {new} in the snow", "place": f"a cartoon of {what} at sunset"},
        }
        for name in CENTRES
        for what, new in [("a dog", "a car") if name == "one" else ("a dog and a cat", "a car and a cat")]
    }
    YAML(typ="safe").dump({"clips": objects}, Path("several.yaml"))
    control = {"edges": "control", "mask": "control"}
    set_params({"objects": "several.yaml", "control": control, "score.clip_model": "clip"})
    torch.manual_seed(0)
    for name, centres in CENTRES.items():
        save_truth(name, centres)
        write_frames(f"results/objects/{name}/source", torch.rand(4, 3, 32, 32))
        for kind in ("edit", "edges"):
            for edit in ("object", "place"):
                write_frames(f"results/objects/{name}/{kind}/{edit}", torch.rand(4, 3, 32, 32))
        for edit in ("object", "place"):
            write_frames(f"results/objects/{name}/mask/{edit}", read_frames(f"results/objects/{name}/edit/{edit}"))
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(ROOT / "notebooks", "notebooks")
    return workplace


def run():
    path = run_notebook("notebooks/05_multi_object.py", "results/notebooks/05_multi_object")
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]
    return path.parent, json.loads((path.parent / "metrics.json").read_text())


def outputs(path):
    return [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]


def told(out, text):
    shown = outputs(out / "05_multi_object.ipynb")
    return [output for output in shown if text in output.get("data", {}).get("text/markdown", "")]


def test_every_condition_is_held_against_none_and_the_source_shows_the_judges_own_error(project, set_params):
    set_params({"score.judge": str(ROOT / "models/miniature/judge")})
    out, rows = run()
    scores = pd.read_csv(out / "scores.csv")
    assert scores.groupby("method", sort=False).size().to_dict() == {
        "Tune-A-Video": 6, "edges": 6, "mask": 6, "the source clip itself": 3
    }  # fmt: skip
    facts = scores.groupby("clip")[["things", "hidden"]].first()
    assert facts["things"].to_dict() == {"one": 1, "apart": 2, "crossing": 2}
    assert facts["hidden"]["apart"] == 0 < 0.05 < facts["hidden"]["crossing"]
    assert scores["recall"].notna().all() and scores[scores["things"] > 1]["swaps"].notna().all()
    assert set(rows) == CLAIMS
    assert rows["recall_occlusion"]["verdict"] == "undecided"  # a slope through two clips has no interval
    for same in (rows["recall_mask"], rows["swaps_mask"]):  # the same edits again: no gain, no evidence
        assert same["interval"] == [0, 0] and same["verdict"] == "undecided"
    figures = {file.name for file in (out / "figures").iterdir()}
    assert figures == {
        "one.jpg",
        "apart.jpg",
        "crossing.jpg",
        "clips.png",
        "conditions.png",
        "evidence.png",
        "evidence.svg",
    }


def test_without_a_judge_every_claim_stays_open_and_the_clips_are_shown(project):
    out, rows = run()
    assert set(rows) == CLAIMS and {row["verdict"] for row in rows.values()} == {"undecided"}
    assert {"one.jpg", "apart.jpg", "crossing.jpg"} <= {file.name for file in (out / "figures").iterdir()}
    assert told(out, "`score.judge` names no judge") and told(out, "Recall and swaps need both")


def test_clips_of_ones_own_need_no_truth_and_no_mask(project):
    for name in CENTRES:
        Path(f"{name}.json").unlink()
        shutil.rmtree(f"results/objects/{name}/mask")
    out, rows = run()
    assert set(rows) == CLAIMS and {row["value"] for row in rows.values()} == {None}


def test_without_clips_of_several_objects_every_question_stays_open(project, set_params):
    set_params({"objects": ""})
    shutil.rmtree("results/objects")
    out, rows = run()
    assert set(rows) == CLAIMS and {(row["value"], row["verdict"]) for row in rows.values()} == {(None, "undecided")}
    assert told(out, "`objects` in params.yaml names no clips")


def test_one_clip_without_truth_and_without_control_is_shown(project, set_params):
    clip = {"source": {"path": "one.mp4", "start": 0, "stride": 1}, "caption": "a fox", "edits": {"place": "in snow"}}
    YAML(typ="safe").dump({"clips": {"one": clip}}, Path("several.yaml"))
    set_params({"control": {}})
    Path("one.json").unlink()
    out, rows = run()
    assert set(rows) == {claim for claim in CLAIMS if claim.endswith(("number", "occlusion", "tuned"))}
    assert {row["verdict"] for row in rows.values()} == {"undecided"}


def test_clips_of_ones_own_are_shown_under_depth_and_openpose(project, set_params):
    set_params({"control": {"depth": "control", "openpose": "control"}})
    for name in CENTRES:
        Path(f"{name}.json").unlink()
        for kind, found in (("depth", "edges"), ("openpose", "mask")):
            shutil.move(f"results/objects/{name}/{found}", f"results/objects/{name}/{kind}")
    out, rows = run()
    assert {row["verdict"] for row in rows.values()} == {"undecided"} and "swaps_openpose" in rows
    methods = set(pd.read_csv(out / "scores.csv")["method"])
    assert methods == {"Tune-A-Video", "depth", "openpose", "the source clip itself"}
