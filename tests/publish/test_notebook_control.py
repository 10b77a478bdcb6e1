"""The notebook of control, on frames that were written and not sampled."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from measures.conditions import FROM_TRUTH, condition
from measures.truth import truth_beside
from publish.notebook import run_notebook
from studies.settings import load_params
from tav.clip import read_clip, write_frames
from tests.tiny_clip import save_clip

pytestmark = pytest.mark.usefixtures("cells_run_here")

ROOT = Path(__file__).parents[2]
JUDGE = ROOT / "models/miniature/judge"
KINDS = ("edges", *FROM_TRUTH)
CLIPS = {
    "pig-running": "a cartoon of a scooter driving in the forest",
    "crocodile-swaying": "a pencil drawing of a turtle swaying on the grass",
    "person-walking": "a 3d render of a rabbit running in the snow",
}


@pytest.fixture
def project(workplace, set_params, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save_clip(Path("clip"))
    set_params({"score.clip_model": "clip", "score.judge": ""})
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(ROOT / "notebooks", "notebooks")
    return workplace


def write(folder, frames):
    write_frames(Path("results") / folder, frames)


def run():
    path = run_notebook("notebooks/06_control.py", "results/notebooks/06_control")
    cells = nbformat.read(path, as_version=4).cells
    assert not [out for cell in cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    files = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    return files, json.loads((path.parent / "metrics.json").read_text())


def told(text):
    cells = nbformat.read("results/notebooks/06_control/06_control.ipynb", as_version=4).cells
    shown = [out.get("data", {}).get("text/markdown", "") for cell in cells for out in cell.get("outputs", [])]
    return [markdown for markdown in shown if text in markdown]


def figures(files):
    return {file.name for file in files if file.parent.name == "figures"}


def test_wide_frames_have_no_truth_and_what_needs_a_judge_stays_open(project, set_params):
    for truth in ("square.json", "square.masks.png"):  # which is of square frames
        Path(truth).touch()
    source = {"path": "square.mp4", "start": 0, "stride": 1}
    edits = {"one": {"place": "on the beach"}, "two": {"place": "in snow", "style": "a sketch"}}
    clips = {name: {"source": source, "caption": "a square", "edits": names} for name, names in edits.items()}
    set_params({"clips": clips, "clip.size": [24, 40], "control": {"edges": "models/edges"}})
    torch.manual_seed(0)
    for name, names in edits.items():
        folders = [f"{where}/{name}/{edit}" for edit in names for where in ("edit", "control/edges/own")]
        folders += [f"control/{kind}/other/{name}/{next(iter(names))}" for kind in ("none", "edges")]
        for folder in [*folders, f"tune/{name}/source", f"control/edges/condition/{name}"]:
            write(folder, torch.rand(4, 3, 24, 40))
    files, rows = run()
    assert run()[0] == files  # the same bytes
    assert figures(files) == {"lost.png", "one.jpg", "one-other.jpg", "two.jpg", "two-other.jpg"}
    assert set(rows) == {"other_edges_centre", "other_edges_overlap", "own_edges"}
    assert all(row["verdict"] == "undecided" and row["value"] is None for row in rows.values())
    scores = pd.read_csv(project / "results/notebooks/06_control/scores.csv")
    assert scores.groupby("method").size().to_dict() == {"Tune-A-Video": 3, "edges": 3}


def test_depth_and_openpose_of_real_footage_are_shown_and_their_claims_stay_open(project, set_params):
    source = {"path": "square.mp4", "start": 0, "stride": 1}
    clips = {name: {"source": source, "caption": "a square", "edits": {"place": "in snow"}} for name in ("one", "two")}
    set_params({"clips": clips, "control": {"depth": "models/depth", "openpose": "models/openpose"}})
    torch.manual_seed(0)
    for name in clips:
        for kind in ("depth", "openpose"):
            for folder in (f"own/{name}/place", f"other/{name}/place", f"condition/{name}"):
                write(f"control/{kind}/{folder}", torch.rand(4, 3, 32, 32))
        for folder in (f"control/none/other/{name}/place", f"edit/{name}/place", f"tune/{name}/source"):
            write(folder, torch.rand(4, 3, 32, 32))
    files, rows = run()
    assert {"lost.png", "one.jpg", "one-other.jpg", "two.jpg", "two-other.jpg"} == figures(files)
    assert len(rows) == 6 and {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "another clip's depth maps" in rows["other_depth_centre"]["claim"]
    assert told("`score.judge` names no judge") and told("is left to the eye there")


def test_one_clip_has_no_other_whose_condition_it_could_be_drawn_under(project, set_params):
    set_params({"control": {"depth": "models/depth"}})
    torch.manual_seed(0)
    for edit in ("object", "place"):
        for folder in (f"control/depth/own/square/{edit}", f"edit/square/{edit}"):
            write(folder, torch.rand(4, 3, 32, 32))
    for folder in ("control/depth/condition/square", "tune/square/source"):
        write(folder, torch.rand(4, 3, 32, 32))
    files, rows = run()
    assert figures(files) == {"lost.png", "square.jpg"}
    assert len(rows) == 3 and {row["verdict"] for row in rows.values()} == {"undecided"}


def test_without_a_control_the_section_says_that_nothing_was_asked(project, set_params):
    set_params({"control": {}})
    for folder in ("edit/square/object", "edit/square/place", "tune/square/source"):
        write(folder, torch.rand(4, 3, 32, 32))
    files, rows = run()
    assert rows == {} and figures(files) == {"square.jpg"}
    assert told("Nothing was drawn under a control of params.yaml")


@pytest.mark.skipif(not JUDGE.exists(), reason="no judge is published")
def test_clips_that_go_where_the_condition_does_follow_it(project, set_params):
    """Under every kind stands the very clip whose condition it is, without control the clip's own source."""
    Path("data").symlink_to(ROOT / "data")
    clips = {
        name: {
            "source": {"path": f"data/clips/{name}.mp4", "start": 0, "stride": 2},
            "caption": "a thing",
            "edits": {"object": prompt},
        }
        for name, prompt in CLIPS.items()
    }
    set_params({"clips": clips, "clip.num_frames": 8, "clip.size": 64, "score.judge": str(JUDGE)})
    set_params({"control": {kind: f"models/{kind}" for kind in KINDS}})
    params = load_params()
    names = list(params.clips)
    sources = {name: (read_clip(params.clips[name].source.path, 8, 64, stride=2) + 1) / 2 for name in names}
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        for folder in (f"tune/{name}/source", f"edit/{name}/object", f"control/none/other/{name}/object"):
            write(folder, sources[name])
        for kind in KINDS:
            truth = truth_beside(params.clips[name].source, 8, 64)
            drawn = condition(kind, sources[name], truth, params.conditions.model_dump())
            write(f"control/{kind}/condition/{name}", drawn)
            write(f"control/{kind}/own/{name}/object", sources[name])
            write(f"control/{kind}/other/{name}/object", sources[following])
    files, rows = run()
    assert {"other.png", "own.png", "lost.png", "person-walking.jpg", "person-walking-other.jpg"} <= figures(files)
    assert len(rows) == 9
    for kind in KINDS:
        assert rows[f"other_{kind}_centre"]["interval"][0] > 0  # of three clips nine claims are not decided
        assert rows[f"other_{kind}_overlap"]["interval"][0] > 0
        assert rows[f"own_{kind}"]["value"] == 0  # nothing is lost where nothing is changed
    paths = pd.read_csv(project / "results/notebooks/06_control/paths.csv")
    led = paths[(paths.whose == "other") & (paths.method != "none")]
    assert len(paths) == 24 and led["centre error"].max() < 3 and led["mask overlap"].min() > 0.7
