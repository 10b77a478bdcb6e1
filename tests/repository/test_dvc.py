"""The pipeline as DVC runs it, on a tiny model and clips: every stage, and after a change only what it touches.

One workspace is used by all tests of this file, in their order, because a stage takes seconds to start.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import ControlNetModel, UNet2DConditionModel
from ruamel.yaml import YAML

from tav.clip import write_clip
from tests import tiny, tiny_clip

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
CLIP = {
    "source": {"path": "data/clips/one.mp4", "start": 0, "stride": 1},
    "caption": "a square is moving",
    "edits": {"object": "a circle is moving"},
}
SMALL = {
    "model": "models/miniature",
    "device": "cpu",
    "clip": {"num_frames": 3, "size": 32, "fit": "crop", "fps": 8},
    "invert": {"steps": 2},
    "edit": {"steps": 2, "noise": "inverted", "guidance_scale": 7.5, "negative_prompt": ""},
    "score": {"clip_model": "models/miniature/clip", "accuracy_model": "", "pick_model": "", "judge": ""},
    "ablation": {"own": {"inflate": {"attention": "own"}}},
    "full_ablation": {},
    "baselines": {"per-frame": {"guidance_scale": 2.0}},
    "control": {"edges": "models/miniature/controlnet-edges"},
    "objects": {"pair": CLIP},
    "benchmark": {"run": False, "clips": "data/evaluation.yaml", "footage": "data/clips", "ray": "", "retries": 1},
}


class Workspace:
    """A copy of this repository's pipeline with its own models, clips and settings."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder, ""
        for name in ("tav", "baselines", "studies", "benchmarks", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        tiny.save_model(folder / "models/miniature")
        tiny_clip.save_clip(folder / "models/miniature/clip")
        (folder / "miniature/reports").mkdir(parents=True)
        (folder / "miniature/reports/quality.json").write_text("{}")
        (folder / "data/clips").mkdir(parents=True)
        for name in ("judge", "controlnet-mask", "t2i-adapter-pose", "text-to-video"):  # nothing here uses them
            (folder / "models/miniature" / name).mkdir()
        unet = UNet2DConditionModel.from_pretrained(folder / "models/miniature/unet")
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4))
        control.save_pretrained(folder / "models/miniature/controlnet-edges")
        (folder / "data/evaluation.yaml").write_text("clips: {}\n")
        for name in ("one", "two"):
            write_clip(folder / f"data/clips/{name}.mp4", (tiny.moving_square(3) + 1) / 2)
        settings = YAML(typ="safe").load(ROOT / "params.yaml")
        self.settings = settings | SMALL | {"clips": {}}
        self.settings["tune"] |= {"steps": 2}
        self.add_clip("one")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

    def add_clip(self, name: str) -> None:
        source = CLIP["source"] | {"path": f"data/clips/{name}.mp4"}
        self.settings["clips"][name] = CLIP | {"source": source, "edits": dict(CLIP["edits"])}

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Runs `dvc repro` and returns the stages that were executed, in order; `output` holds what was printed."""
        YAML(typ="safe").dump(self.settings, self.folder / "params.yaml")
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | environment | {"PATH": paths, "PYTHONPATH": "", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", "dvc", "repro", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.folder, env=environment, text=True, **pipes)
        self.output = done.stdout
        assert done.returncode == 0, self.output[-3000:]
        return re.findall(r"^Running stage '(.+)':", self.output, re.MULTILINE)

    def files(self, *folders: str) -> dict[str, bytes]:
        paths = (path for folder in folders for path in sorted((self.folder / folder).rglob("*")))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def first_run(workspace):
    """The stages of the first `dvc repro`, during which Python says what it imports."""
    return workspace.repro(PYTHONPROFILEIMPORTTIME="1"), workspace.output


def test_one_command_runs_every_stage(workspace, first_run):
    stages, _ = first_run
    own = ["tune@one", "invert@one", "edit@one"]
    studies = ["ablate@own", "ablate-full", "baseline@per-frame", "control", "objects", "cost", "benchmark"]
    assert set(stages) == {*own, *studies, *NOTEBOOKS, "report"} and len(stages) == len(set(stages))
    assert [stage for stage in stages if stage in own] == own and stages[-1] == "report"
    for name in ("index.html", "notebooks/02_results.ipynb", "metrics/02_results.json", "clips/one/object.mp4"):
        assert (workspace.folder / "reports" / name).stat().st_size > 0


def test_a_stage_depends_on_every_module_that_it_imports(workspace, first_run):
    lock = YAML(typ="safe").load(workspace.folder / "dvc.lock")["stages"]
    for part in first_run[1].split("Running stage '")[1:]:
        stage = part[: part.index("'")]
        declared = {dependency["path"] for dependency in lock[stage]["deps"]}
        names = set(re.findall(r"\| +((?:tav|baselines|studies)(?:\.\w+)*)$", part, re.MULTILINE))
        imported = {name.replace(".", "/") for name in names}
        paths = {f"{name}/__init__.py" if (ROOT / name).is_dir() else f"{name}.py" for name in imported}
        missing = {path for path in paths if not {path, path.split("/")[0]} & declared}
        assert len(paths) > 3 and not missing, (stage, missing)


def test_a_second_run_runs_nothing(workspace, first_run):
    before = workspace.files("results", "reports")
    assert workspace.repro() == []
    assert workspace.files("results", "reports") == before


def test_a_new_clip_tunes_itself_alone(workspace, first_run):
    workspace.add_clip("two")
    assert workspace.repro("edit") == ["tune@two", "invert@two", "edit@two"]


def test_a_new_edit_prompt_tunes_nothing_and_samples_its_clip_alone(workspace, first_run):
    workspace.settings["clips"]["one"]["edits"]["style"] = 'a drawing of "a square", $HOME and it\'s moving'
    assert workspace.repro("edit") == ["edit@one"]


def test_a_setting_that_is_put_back_costs_nothing(workspace, first_run):
    rate = workspace.settings["tune"]["learning_rate"]
    before = workspace.files("results/tune/one")
    workspace.settings["tune"]["learning_rate"] = rate / 2
    assert workspace.repro("tune@one") == ["tune@one"]
    assert workspace.files("results/tune/one") != before
    workspace.settings["tune"]["learning_rate"] = rate
    assert workspace.repro("tune@one") == []
    assert "Stage 'tune@one' is cached" in workspace.output
    assert workspace.files("results/tune/one") == before


def test_a_clip_that_is_taken_out_leaves_the_report(workspace, first_run):
    del workspace.settings["clips"]["two"]
    touched = {"ablate@own", "ablate-full", "baseline@per-frame", "control"}
    notebooks = {"02_results", "03_ablation", "04_baselines", "06_control"}
    assert set(workspace.repro()) == {*touched, *notebooks, "report"}
    assert {path.name for path in (workspace.folder / "reports/clips").iterdir()} == {"one"}


def test_a_notebook_that_runs_again_has_the_same_bytes(workspace, first_run):
    before = workspace.files("results/notebooks/02_results")
    assert workspace.repro("--force", "--single-item", "02_results") == ["02_results"]
    assert workspace.files("results/notebooks/02_results") == before


def test_reports_that_are_deleted_come_back(workspace, first_run):
    before = workspace.files("reports")
    for path in (workspace.folder / "reports").iterdir():
        if path.name != "benchmark":  # what an earlier run found, which no later one makes again
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert workspace.repro() == ["report"]
    assert workspace.files("reports") == before


def test_the_measures_can_be_compared_with_dvc(workspace, first_run):
    command = [sys.executable, "-m", "dvc", "metrics", "show"]
    shown = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=True).stdout
    assert "values.json" in shown and "02_results.reconstruction_psnr" in shown and "claim" not in shown


def test_the_charts_can_be_shown_with_dvc_as_pictures(workspace, first_run):
    command = [sys.executable, "-m", "dvc", "plots", "show", "-o", "plots"]
    subprocess.run(command, cwd=workspace.folder, capture_output=True, check=True)
    page = (workspace.folder / "plots/index.html").read_text()
    for chart in ("overview", "02_results_scores", "04_baselines_table", "07_cost_attention"):
        picture = f"static/workspace_reports_figures_{chart}.png"
        assert picture in page and (workspace.folder / "plots" / picture).stat().st_size > 0
