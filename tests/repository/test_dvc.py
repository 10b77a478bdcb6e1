"""The pipeline as DVC runs it, on a tiny model and clips: every stage, and after a change only what it touches.

One workspace is used by all tests of this file, in their order, because a stage takes seconds to start.
"""

import re
import shutil
import subprocess
import sys

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.workspace import NOTEBOOKS, ROOT, Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def first_run(workspace):
    """The stages of the first `dvc repro`, during which Python says what it imports."""
    return workspace.repro(PYTHONPROFILEIMPORTTIME="1"), workspace.output


def test_dvc_sees_every_file_of_its_own_in_the_repository():
    """What it does not see it takes away: `dvc checkout` removes data that no file of its own asks for."""
    listed = subprocess.run(["git", "ls-files", "*.dvc"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*listed.stdout.split()} - {".dvc"} <= {stage.addressing for stage in Repo(ROOT).index.stages}


def test_one_command_runs_every_stage(workspace, first_run):
    stages, _ = first_run
    method = ["inputs", "tune", "invert", "edit"]
    studies = ["ablate", "peers", "control", "objects", "cost", "benchmark"]
    assert set(stages) == {*method, *studies, *NOTEBOOKS, "report"} and len(stages) == len(set(stages))
    assert [stage for stage in stages if stage in method] == method and stages[-1] == "report"
    for name in ("index.html", "notebooks/02_results.ipynb", "metrics/02_results.json", "clips/one/object.mp4"):
        assert (workspace.folder / "reports" / name).stat().st_size > 0


def test_a_stage_depends_on_every_module_that_it_imports(workspace, first_run):
    lock = YAML(typ="safe").load(workspace.folder / "dvc.lock")["stages"]
    packages = "tav|measures|peers|studies|publish"
    for part in first_run[1].split("Running stage '")[1:]:
        stage = part[: part.index("'")]
        if stage == "inputs":  # which runs each time
            continue
        declared = {dependency["path"] for dependency in lock[stage]["deps"]}
        imported = set(re.findall(rf"\| +((?:{packages})(?:\.\w+)*)$", part, re.MULTILINE))
        missing = {name for name in imported if name.split(".")[0] not in declared}
        assert len(imported) > 3 and not missing, (stage, missing)


def test_no_text_of_params_yaml_reaches_a_shell():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert not [name for name, stage in stages.items() if "$" in stage["cmd"]] and len(stages) < 50


def test_a_second_run_runs_nothing(workspace, first_run):
    before = workspace.files("results", "reports")
    assert workspace.repro() == ["inputs"]
    assert workspace.files("results", "reports") == before


def test_a_run_in_two_lanes_runs_nothing_either(workspace, first_run):
    workspace.settings["processes"] = 2
    running = workspace.start("publish", "reproduce")
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert set(re.findall(r"^Running stage '(.+)':", said, re.MULTILINE)) == {"inputs"}
    assert "Stage '06_control' didn't change, skipping" in said and said.count("didn't change") > 2 * len(NOTEBOOKS)


def test_a_notebook_in_a_fork_of_one_process_has_the_bytes_of_one_in_a_kernel_of_its_own(workspace, first_run):
    workspace.settings["processes"] = 2
    with (workspace.folder / "notebooks/02_results.py").open("a") as file:
        file.write("# One more line.\n")
    running = workspace.start("publish", "reproduce")
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert set(re.findall(r"^Running stage '(.+)':", said, re.MULTILINE)) == {"inputs", "02_results", "report"}
    before = workspace.files("results/notebooks/02_results")
    assert workspace.repro("--force", "--single-item", "02_results") == ["02_results"]
    assert workspace.files("results/notebooks/02_results") == before


def test_a_new_clip_makes_its_own_pieces_alone(workspace, first_run):
    before = workspace.pieces("weights", "noise", "frames")
    workspace.add_clip("two")
    assert workspace.repro("edit") == ["inputs", "tune", "invert", "edit"]
    made = workspace.pieces("weights", "noise", "frames")
    assert {kind: made[kind] - before[kind] for kind in made} == {"weights": 1, "noise": 1, "frames": 2}


def test_a_new_edit_prompt_samples_itself_alone(workspace, first_run):
    before = workspace.pieces("weights", "noise", "frames")
    workspace.settings["clips"]["one"]["edits"]["style"] = 'a drawing of "a square", $HOME and it\'s moving'
    assert workspace.repro("edit") == ["inputs", "edit"]
    made = workspace.pieces("weights", "noise", "frames")
    assert {kind: made[kind] - before[kind] for kind in made} == {"weights": 0, "noise": 0, "frames": 1}


def test_a_setting_that_is_put_back_makes_no_piece(workspace, first_run):
    rate = workspace.settings["tune"]["learning_rate"]
    before, pieces = workspace.files("results/tune/one"), workspace.pieces("weights")
    workspace.settings["tune"]["learning_rate"] = rate / 2
    assert workspace.repro("tune") == ["inputs", "tune"]
    assert workspace.files("results/tune/one") != before
    workspace.settings["tune"]["learning_rate"] = rate
    assert workspace.repro("tune") == ["inputs"]
    assert workspace.files("results/tune/one") == before
    assert workspace.pieces("weights")["weights"] == pieces["weights"] + len(workspace.settings["clips"])


def test_a_comment_in_the_method_makes_no_piece(workspace, first_run):
    before = workspace.pieces("posterior", "weights", "noise", "frames")
    for name in ("model.py", "tune.py"):
        with (workspace.folder / "tav" / name).open("a") as file:
            file.write("# a comment\n")
    assert workspace.repro("edit") == ["inputs", "tune", "invert", "edit"]
    assert workspace.pieces("posterior", "weights", "noise", "frames") == before


def test_a_clip_that_is_taken_out_leaves_the_report(workspace, first_run):
    del workspace.settings["clips"]["two"]
    workspace.repro("edit")
    assert workspace.repro("--single-item", "report") == ["report"]  # as the other stages are stale by now, and slow
    assert {path.name for path in (workspace.folder / "reports/clips").iterdir()} == {"one"}


def test_a_notebook_that_runs_again_has_the_same_bytes(workspace, first_run):
    assert workspace.repro("--force", "--single-item", "02_results") == ["02_results"]
    before = workspace.files("results/notebooks/02_results")
    assert workspace.repro("--force", "--single-item", "02_results") == ["02_results"]
    assert workspace.files("results/notebooks/02_results") == before


def test_reports_that_are_deleted_come_back(workspace, first_run):
    workspace.repro("--single-item", "report")
    before = workspace.files("reports")
    for path in (workspace.folder / "reports").iterdir():
        if path.name != "benchmark":  # what an earlier run found, which no later one makes again
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert workspace.repro("--single-item", "report") == ["report"]
    assert workspace.files("reports") == before


def test_the_measures_can_be_compared_with_dvc(workspace, first_run):
    command = [sys.executable, "-m", "dvc", "metrics", "show"]
    shown = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=True).stdout
    assert "values.json" in shown and "02_results.reconstruction" in shown and "claim" not in shown


def test_the_charts_can_be_shown_with_dvc_as_pictures(workspace, first_run):
    command = [sys.executable, "-m", "dvc", "plots", "show", "-o", "plots"]
    subprocess.run(command, cwd=workspace.folder, capture_output=True, check=True)
    page = (workspace.folder / "plots/index.html").read_text()
    for chart in ("02_results_scores", "04_baselines_table", "07_cost_attention"):
        picture = f"static/workspace_reports_figures_{chart}.png"
        assert picture in page and (workspace.folder / "plots" / picture).stat().st_size > 0
