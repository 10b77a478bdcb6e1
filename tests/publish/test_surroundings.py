"""Verbs before their input exists, on broken results, and where files lie in the place of folders: one line."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_markdown_cell, new_notebook

from publish.__main__ import main as publish
from studies.__main__ import main as studies
from tav.clip import write_frames
from tests.tiny_clip import save_clip

pytestmark = pytest.mark.usefixtures("cells_run_here")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def says(workplace, capsys):
    """Runs a verb that has to end with code 2 and one line, which it gives."""

    def run(main, *words) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    return run


@pytest.fixture
def results(workplace, set_params, monkeypatch):
    """Results of all stages that the notebook 02_results and the report read, of random frames."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save_clip(Path("clip"))
    set_params({"score.clip_model": "clip"})
    torch.manual_seed(0)
    for folder in ("tune/square/source", "invert/square/reconstruction", "edit/square/object", "edit/square/place"):
        write_frames(Path("results", folder), torch.rand(4, 3, 32, 32))
    Path("results/tune/square/losses.csv").write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n")
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(ROOT / "notebooks", "notebooks")
    folder = Path("results/notebooks/02_results")
    folder.mkdir(parents=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A section", id="a")]), folder / "02_results.ipynb")
    (folder / "metrics.json").write_text("{}")
    (folder / "scores.csv").write_text("method,clip,edit\n")
    return Path("results")


@pytest.mark.parametrize("verb", ["tune", "inputs"])
@pytest.mark.parametrize("place", ["results", ".pieces"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_file_or_a_dangling_link_where_a_folder_should_be_is_named(says, verb, place, kind):
    if (verb, place) == ("inputs", ".pieces"):
        pytest.skip("inputs makes no pieces")
    if kind == "file":
        Path(place).touch()
    else:
        Path(place).symlink_to("nowhere")
    said = says(studies, verb)
    assert said.startswith(f"error: {place} is a {'file where a folder should be' if kind == 'file' else 'link to'}")


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_the_report_names_a_file_in_the_place_of_its_folder(says, results, kind):
    if kind == "file":
        Path("reports").touch()
    else:
        Path("reports").symlink_to("nowhere")
    assert says(publish, "report").startswith("error: reports is a ")


def test_a_result_that_is_a_file_is_named(says):
    Path("results").mkdir()
    Path("results/inputs").touch()
    assert says(studies, "inputs") == "error: results/inputs is a file where a folder should be: move it away\n"


def test_what_is_not_there_yet_is_named_with_the_verb_that_makes_it(says, results):
    Path("reports").rename("elsewhere") if Path("reports").exists() else None
    said = says(publish, "readme")
    assert "reports/metrics/claims.json" in said and "run `python -m publish report`" in said
    shutil.rmtree("results/edit")
    said = says(publish, "report")
    assert "results/edit/square/object" in said and "run `python -m studies edit`" in said
    shutil.rmtree("results/notebooks")
    shutil.rmtree("results/tune")
    said = says(publish, "report")
    assert "results/notebooks/02_results" in said or "results/tune" in said


@pytest.mark.parametrize("missing, verb", [("tune", "tune"), ("invert", "invert"), ("edit", "edit")])
def test_a_notebook_names_the_result_that_it_misses(says, results, missing, verb):
    shutil.rmtree(results / missing)
    said = says(publish, "notebook", "02_results")
    assert f"results/{missing}/square/" in said and f"run `python -m studies {verb}`" in said
    assert "(see results/notebooks/02_results/02_results.failed.ipynb)" in said


@pytest.mark.parametrize("content", ["", "garbage", "\0\xff", "[1, 2]", "a,b\n1,2\n"])
def test_results_of_another_format_are_named(says, results, content):
    folder = results / "notebooks/02_results"
    for name, words in {
        "metrics.json": "cannot load results/notebooks/02_results",
        "02_results.ipynb": "cannot load results/notebooks/02_results",
        "scores.csv": "cannot load results/notebooks/02_results/scores.csv",
    }.items():
        before = (folder / name).read_bytes()
        (folder / name).write_text(content)
        said = says(publish, "report")
        assert words in said and "run `python -m publish notebook 02_results`" in said
        (folder / name).write_bytes(before)


@pytest.mark.parametrize("content", ["", "garbage", "[1, 2", "{}"])
def test_claims_of_another_format_are_named(says, content):
    Path("reports/metrics").mkdir(parents=True)
    Path("reports/metrics/claims.json").write_text(content)
    assert "run `python -m publish report`" in says(publish, "readme")


@pytest.mark.parametrize("content", ["", "garbage", "step\n1\n"])
def test_losses_of_another_format_stop_the_notebook_in_one_line(says, results, content):
    Path("results/tune/square/losses.csv").write_text(content)
    said = says(publish, "notebook", "02_results")
    assert "cannot load results/tune/square/losses.csv" in said and "run `python -m studies tune`" in said
    assert ".failed.ipynb" in said


def test_results_of_another_number_of_frames_are_told_apart(says, results, set_params):
    set_params({"clip.num_frames": 6})
    said = says(publish, "notebook", "02_results")
    assert "results/tune/square/source" in said and "`python -m studies tune`" in said


def test_a_broken_clip_model_stops_the_notebook_in_one_line(says, results):
    Path("clip/open_clip_config.json").write_text("{}")
    said = says(publish, "notebook", "02_results")
    assert "CLIP model clip" in said and ".failed.ipynb" in said


def test_without_tuning_steps_the_notebook_shows_what_there_is(results, set_params):
    set_params({"tune.steps": 0})
    Path("results/tune/square/losses.csv").write_text("step,loss\n")
    assert publish(["notebook", "02_results"]) == 0
    shown = Path("results/notebooks/02_results/02_results.ipynb").read_text()
    assert "nothing was tuned" in shown and json.loads(Path("results/notebooks/02_results/metrics.json").read_text())


@pytest.mark.parametrize("content", ["", "garbage", "{}", "[]", "3", '{"digest": 3}', '{"digest": null}'])
def test_a_piece_whose_record_is_broken_is_named(says, content):
    assert studies(["tune"]) == 0
    for kind in ("source", "posterior", "weights"):
        record = next(Path(".pieces", kind).glob("*/piece.json"))
        before = record.read_text()
        record.write_text(content)
        said = says(studies, "tune")
        assert str(record) in said and f"delete {record.parent}" in said
        record.write_text(before)


@pytest.mark.parametrize("content", ["", "garbage", "another format"])
def test_a_state_that_is_broken_is_named(says, content, set_params):
    from safetensors.torch import save_file

    set_params({"tune.steps": 0})
    assert studies(["tune"]) == 0
    set_params({"tune.steps": 2})
    (folder,) = Path(".pieces/weights").iterdir()
    shutil.rmtree(folder)
    assert studies(["tune"]) == 0
    (finished,) = Path(".pieces/weights").iterdir()
    unfinished = Path(".pieces/unfinished", f"weights-{finished.name}")
    shutil.rmtree(finished)
    unfinished.mkdir(parents=True)
    if content == "another format":
        save_file({"a": torch.zeros(1)}, unfinished / "state.safetensors")
    else:
        (unfinished / "state.safetensors").write_text(content)
    assert f"cannot load {unfinished}/state.safetensors" in says(studies, "tune")
