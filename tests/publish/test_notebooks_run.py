"""The notebooks as they are written, and executed at a tiny scale."""

import html
import json
import re
import shutil
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image as Picture
from ruamel.yaml import YAML

from publish.notebook import run_notebook
from studies.benchmark import made_with
from studies.settings import load_params
from tav.clip import write_frames
from tests.studies.test_scores import PUBLISHED, save_pick, save_processor
from tests.tiny_clip import save_clip

pytestmark = pytest.mark.usefixtures("cells_run_here")

ROOT = Path(__file__).parents[2]
NO_JUDGE = "`score.judge` names no judge: edit success, identity stability and motion correlation are not measured"
JUDGE = ROOT / "models/miniature/judge"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def source(request):
    return jupytext.read(request.param, fmt="py:percent")


@pytest.fixture
def project(workplace, set_params, monkeypatch):
    """The folder of a run whose sampling is done: two clips, wide ones, with one and with two edits."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save_clip(Path("clip"))
    clip = {"source": {"path": "square.mp4", "start": 0, "stride": 1}, "caption": "a square is moving"}
    clips = {
        name: clip | {"edits": edits}
        for name, edits in {"one": {"place": "on the beach"}, "two": {"place": "in snow", "style": "a sketch"}}.items()
    }
    set_params({"clips": clips, "clip.size": [24, 40], "score.clip_model": "clip", "score.judge": ""})
    set_params({"ablation": {"no-tuning": {"tune": {"steps": 0}}}, "full_ablation": {}})
    set_params({"peers": {"per-frame": {"guidance_scale": 2.0}, "plug-and-play": {}}})
    torch.manual_seed(0)
    for name, clip in clips.items():
        folders = [f"tune/{name}/source", f"invert/{name}/reconstruction", *(f"edit/{name}/{e}" for e in clip["edits"])]
        folders += [f"ablate/no-tuning/33/{name}/{edit}" for edit in clip["edits"]]
        folders += [f"peers/{peer}/{name}/{edit}" for peer in ("per-frame", "plug-and-play") for edit in clip["edits"]]
        for folder in folders:
            write_frames(Path("results") / folder, torch.rand(4, 3, 24, 40))
        Path(f"results/tune/{name}/losses.csv").write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n")
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(ROOT / "notebooks", "notebooks")
    return workplace


def outputs(path):
    return [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]


def told(path, text):
    return [output for output in outputs(path) if text in output.get("data", {}).get("text/markdown", "")]


def table(path, word):
    """The one table shown that has this word in it, as its columns and its rows: label and cells."""
    (shown,) = [text for output in outputs(path) if word in (text := output.get("data", {}).get("text/html", ""))]
    shown = BeautifulSoup(shown, "html.parser")
    rows = [[row.find_all("th")[-1].text, *(cell.text for cell in row.find_all("td"))] for row in shown.tbody("tr")]
    return [name for cell in shown.thead.tr("th") if (name := cell.text)], rows


def keep_settings(**others):
    """As if the benchmark had been run with the settings of now, and others."""
    Path("reports/benchmark/settings.json").write_text(json.dumps(made_with(load_params()) | others))


def test_a_notebook_asks_claims_shows_and_limits(source):
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    parts = ["**Question.**", "**Claim**", "## Parameters", "## Evidence", "## Limits"]
    assert [part for part in parts if part not in text] == []
    assert sorted(parts, key=text.index) == parts
    assert source.metadata.kernelspec.name == "python3"


def test_cells_are_short_and_define_nothing(source):
    for cell in (cell for cell in source.cells if cell.cell_type == "code"):
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 10, cell.source
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), cell.source
        assert cell.source.count("figures.show(") <= 1, cell.source


def test_one_cell_holds_the_parameters_and_text_needs_no_formula_renderer(source):
    assert len([cell for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]) == 1
    assert not [cell.source for cell in source.cells if cell.cell_type == "markdown" and "$" in cell.source]


def test_the_method_holds_at_a_tiny_scale(project, monkeypatch):
    monkeypatch.chdir("notebooks")  # as Jupyter starts it
    out = project / "results/notebooks/01_method"
    path = run_notebook("01_method.py", out, {"frames": 4, "frame_counts": [1, 4]})
    rows = json.loads((out / "metrics.json").read_text())
    assert {name: row["verdict"] for name, row in rows.items()} == dict.fromkeys(rows, "holds")
    assert rows["inflated_parameters"]["value"] == pytest.approx(909.12)
    assert sum("image/png" in output.get("data", {}) for output in outputs(path)) == 2
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_results_show_every_edit_with_its_scores_and_run_again_to_the_same_bytes(project):
    def run():
        path = run_notebook("notebooks/02_results.py", "results/notebooks/02_results")
        return path, {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}

    path, files = run()
    assert run()[1] == files
    out = path.parent
    assert {"one.jpg", "one.webp", "two.jpg", "two.webp"} <= {file.name for file in (out / "figures").iterdir()}
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs(path)) == 2
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 9 and scores.groupby("method").size().eq(3).all()
    repeated = scores[scores.method == "one edited frame, repeated"]
    assert repeated["frame consistency"].round(3).eq(100).all()
    rows = json.loads((out / "metrics.json").read_text())
    assert rows["reconstruction"]["verdict"] == "fails"  # noise is not the source
    assert rows["edited_in_motion"]["verdict"] == "undecided"
    assert told(path, NO_JUDGE)


def test_variants_are_scored_beside_the_full_method_and_without_a_judge_stay_open(project):
    path = run_notebook("notebooks/03_ablation.py", "results/notebooks/03_ablation")
    scores = pd.read_csv(path.parent / "scores.csv")
    assert scores.groupby("method", sort=False).size().to_dict() == {"Tune-A-Video": 3, "no-tuning": 3}
    rows = json.loads((path.parent / "metrics.json").read_text())
    assert set(rows) == {"tuning_motion", "tuning_unseen"}
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert told(path, NO_JUDGE)
    assert {"one.jpg", "two.jpg", "variants.png"} <= {file.name for file in (path.parent / "figures").iterdir()}
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_further_seeds_are_nested_in_their_clips_and_the_steps_are_an_axis(project, set_params):
    set_params({"full": True, "seeds": [34], "full_ablation": {"method": {}, "steps-30": {"tune": {"steps": 30}}}})
    for folder in ("no-tuning/34", "method/33", "method/34", "steps-30/33", "steps-30/34"):
        shutil.copytree("results/edit", Path("results/ablate") / folder)
    shutil.copytree("results/edit", "results/ablate/taken-out/33")  # of a variant that params.yaml has no more
    path = run_notebook("notebooks/03_ablation.py", "results/notebooks/03_ablation")
    scores = pd.read_csv(path.parent / "scores.csv")
    assert scores.groupby("method").size().to_dict() == {
        "Tune-A-Video": 6, "no-tuning": 6, "steps-30": 6
    }  # fmt: skip
    assert (path.parent / "figures/steps.png").exists()
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_the_parts_of_inflation_are_crossed_on_what_the_benchmark_kept_of_its_full_ablation(project, set_params):
    shipped = YAML(typ="safe").load(ROOT / "params.yaml")
    steps = {name: change for name, change in shipped["full_ablation"].items() if name.startswith("steps")}
    whole = {name: {"inflate": change["inflate"]} for name, change in shipped["full_ablation"].items()
             if "inflate" in change and "tune" not in change}  # fmt: skip
    alone = {name: shipped["ablation"][name] for name in ("own-frame-attention", "no-t-attn", "no-tuning")}
    for name in ("no-t-attn", "own-frame-attention"):
        shutil.copytree("results/ablate/no-tuning", f"results/ablate/{name}")
    set_params({"ablation": alone, "full_ablation": whole | steps})
    Path("reports/benchmark").mkdir(parents=True)
    rows = [
        {"method": method, "clip": clip, "edit": "place", "seed": 33, "frame consistency": 80.0 + number + 3 * clips,
         "text alignment": 20.0, "identity stability": 0.9 - 0.3 * ("own" in method or method == "image-model"),
         "motion correlation": 0.5 + 0.01 * number + 0.02 * clips, "edit success": 0.5}
        for clips, clip in enumerate(("one", "two"))
        for number, method in enumerate(["Tune-A-Video", *alone, *whole, *steps])
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    kept_alone = table["method"].isin(["Tune-A-Video", *alone])
    table[kept_alone].to_csv("reports/benchmark/ablation.csv", index=False)
    table[~kept_alone].to_csv("reports/benchmark/full_ablation.csv", index=False)
    Path("list.yaml").write_text("clips: {}\n")
    set_params({"benchmark.clips": "list.yaml"})
    keep_settings()
    path = run_notebook("notebooks/03_ablation.py", "results/notebooks/03_ablation")
    drawn = {file.name for file in (path.parent / "figures").iterdir()}
    assert {"parts.png", "steps.png", "all-variants.png", "evidence.png"} <= drawn
    rows = json.loads((path.parent / "metrics.json").read_text())
    assert rows["st_attn"]["value"] == pytest.approx(0.3)
    assert rows["norm"]["value"] == pytest.approx(0)
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_a_reader_sees_a_prompt_of_their_own(project):
    out = "results/notebooks/02_results"
    assert not list(Path("results/notebooks").rglob("own-prompt.webp"))
    path = run_notebook("notebooks/02_results.py", out, {"prompt": "a circle is moving"})
    assert Picture.open(path.parent / "figures/own-prompt.webp").n_frames == 4
    assert [out for out in outputs(path) if "a circle is moving" in out.get("data", {}).get("text/html", "")]


def test_peers_are_scored_beside_the_method_and_a_kept_benchmark_is_read(project, set_params):
    out = Path("results/notebooks/04_baselines")
    path = run_notebook("notebooks/04_baselines.py", out)
    assert told(path, NO_JUDGE) and told(
        path, "Not among `peers`, so that the claims against it are left out: Text-to-video."
    )
    scores = pd.read_csv(out / "scores.csv")
    names = ["Tune-A-Video", "DDIM inversion, frame by frame", "Plug-and-Play"]
    names += ["the source clip itself", "one edited frame, repeated"]
    assert scores.groupby("method", sort=False).size().to_dict() == dict.fromkeys(names, 3)
    rows = json.loads((out / "metrics.json").read_text())
    assert len(rows) == 6  # two of every peer, and of the paper's two peers one is there
    assert rows["plug_and_play_edited_in_motion"]["verdict"] == "undecided"
    assert not (out / "figures/all-clips.png").exists()

    ours = scores["method"].eq("Tune-A-Video")
    better = scores.assign(**{"text alignment": ours * 10 + scores.index / 1000, "frame consistency": 90.0 - ours})
    Path("reports/benchmark").mkdir(parents=True)
    better.to_csv("reports/benchmark/scores.csv", index=False)
    if JUDGE.exists():
        set_params({"score.judge": str(JUDGE)})
    Path("list.yaml").write_text("clips: {}\n")
    set_params({"benchmark.clips": "list.yaml"})
    keep_settings()
    path = run_notebook("notebooks/04_baselines.py", out)
    rows = json.loads((out / "metrics.json").read_text())
    assert len(rows) == 6 and (out / "figures/all-clips.png").exists()
    assert rows["paper_text_alignment"]["verdict"] == "holds"
    assert rows["paper_frame_consistency"]["verdict"] == "fails"
    assert told(path, f"1 of 4 claims fail: {'it copies features' if JUDGE.exists() else 'no cause is known here'}")
    assert told(path, "Verdicts rest on the whole list, 2 clips and 3 edits")
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


@pytest.mark.parametrize("name", ["02_results", "03_ablation", "04_baselines"])
def test_one_clip_with_one_edit_gives_scores_and_no_verdict_that_needs_an_interval(name, project, set_params):
    clip = {
        "source": {"path": "square.mp4", "start": 0, "stride": 1},
        "caption": "a",
        "edits": {"place": "on the beach"},
    }
    set_params({"clips": {"one": clip}})
    path = run_notebook(f"notebooks/{name}.py", f"results/notebooks/{name}")
    rows = json.loads((path.parent / "metrics.json").read_text())
    assert rows and {row["verdict"] for row in rows.values()} == {"undecided"}
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_without_variants_the_full_method_is_shown_alone(project, set_params):
    set_params({"ablation": {}})
    shutil.rmtree("results/ablate")
    path = run_notebook("notebooks/03_ablation.py", "results/notebooks/03_ablation")
    assert json.loads((path.parent / "metrics.json").read_text()) == {}
    assert set(pd.read_csv(path.parent / "scores.csv")["method"]) == {"Tune-A-Video"}
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_without_peers_the_claims_against_them_are_left_out_in_words(project, set_params):
    """And EditBoard's measures stand in the table: FF-alpha of a source whose flow explains it, as noise's does not."""
    set_params({"peers": {}})
    for name in ("one", "two"):
        shutil.rmtree(f"results/tune/{name}/source")
        write_frames(f"results/tune/{name}/source", torch.rand(1, 3, 24, 40).expand(4, -1, -1, -1))
    Path("list.yaml").write_text("clips: {}\n")
    set_params({"benchmark.clips": "list.yaml"})
    Path("reports/benchmark").mkdir(parents=True)
    pd.DataFrame([{"method": "Tune-A-Video", "clip": "one", "edit": "place"}]).to_csv("reports/benchmark/scores.csv")
    keep_settings(model="models/another")
    path = run_notebook("notebooks/04_baselines.py", "results/notebooks/04_baselines")
    assert json.loads((path.parent / "metrics.json").read_text()) == {}
    assert told(path, "was run with other settings of model") and not (path.parent / "figures/all-clips.png").exists()
    assert told(path, "left out: Plug-and-Play, Text-to-video.")
    assert table(path, "FF-beta")[0][-2:] == ["FF-alpha", "FF-beta"]  # Semantic needs a mask of the source's things
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


def test_every_published_row_is_shown_with_its_source_and_no_score_of_the_miniature(project, set_params):
    set_params({"peers": {}})
    path = run_notebook("notebooks/04_baselines.py", "results/notebooks/04_baselines")
    (columns, shown), published = table(path, "LOVEU-TGVE-2023"), pd.read_csv(PUBLISHED)
    assert columns == ["value", "source"] and told(path, "No score of this run stands beside these")
    rows = zip(published["method"], published["value"].map("{:g}".format), published["source"], strict=True)
    assert shown == [list(row) for row in rows]
    text = "".join(output.get("data", {}).get("text/html", "") for output in outputs(path))
    assert all(html.escape(name, quote=False) in text for name in [*published["set"], *published["metric"]])


def test_scores_by_the_clip_of_the_field_stand_beside_the_published_ones(project, set_params):
    set_params({"score.pick_model": "pick", "peers": {}})
    save_processor(save_pick(Path("pick")))
    path = run_notebook("notebooks/04_baselines.py", "results/notebooks/04_baselines", {"paper_clip": "clip"})
    (columns, shown), published = table(path, "LOVEU-TGVE-2023"), pd.read_csv(PUBLISHED)
    assert columns == ["value", "here", "source"]
    assert told(path, "*here*: 2 clips of this run, with prompts of their own.")
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]
    scores = pd.read_csv(path.parent / "scores.csv").groupby("method").mean(numeric_only=True).loc["Tune-A-Video"]
    for metric, (method, _, here, _) in zip(published["metric"], shown, strict=True):
        wanted = f"{scores[metric].round(2):g}" if method == "Tune-A-Video" and metric in scores else ""
        assert here == wanted
    assert sum(row[2] != "" for row in shown) == 5  # two measures of the paper, three of TGVE
