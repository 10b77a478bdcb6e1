"""miniature/dvc.yaml, Makefile and params.yaml: what the stages declare is what they use."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from miniature import cli, control
from miniature import fit as loop
from tests.miniature.test_control import SETTINGS, tiny_models

YAML_SAFE, ROOT, PRESETS = YAML(typ="safe"), Path(__file__).parents[2], Path("miniature/params.yaml")
STAGES, PARAMS = YAML_SAFE.load(ROOT / "miniature/dvc.yaml")["stages"], YAML_SAFE.load(ROOT / PRESETS)
CHOSEN = {name: value for name, value in SETTINGS.items() if name not in ("warm", "before")}
MODULES = {"clip": "contrastive", "edges": "control", "mask": "control", "pose": "control"}  # where not of its name


def used(module):
    """The module's file and those of the miniature's modules that it imports, directly or not."""
    tree, found = ast.parse(Path(f"miniature/{module}.py").read_text()), {f"miniature/{module}.py"}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "miniature":
            modules = [node.module.split(".")[1]] if "." in node.module else [name.name for name in node.names]
            found |= {path for name in modules for path in used(name)}
    return found


@pytest.mark.parametrize("stage", cli.FOLDERS)
def test_a_training_stage_declares_the_modules_and_settings_that_it_uses_and_is_frozen(stage):
    declared = STAGES[stage]
    assert used(MODULES.get(stage, stage)) <= set(declared["deps"]) and declared["frozen"]
    assert declared["params"] == [{"miniature/params.yaml": [f"cpu.{stage}", f"gpu.{stage}", "preset", "warm"]}]
    assert f"models/miniature/{cli.FOLDERS[stage]}" in [path for out in declared["outs"] for path in out]
    assert all(options == {"persist": True} for out in declared["outs"] for options in out.values())


def test_one_command_thaws_and_retrains_every_stage():
    listed = re.search(r"^STAGES = (.+)$", Path("miniature/Makefile").read_text(), re.MULTILINE)[1].split()
    assert listed == list(STAGES) == [*cli.FOLDERS, "quality"]


def test_the_presets_set_the_same_things_for_the_same_stages():
    assert list(PARAMS["cpu"]) == list(PARAMS["gpu"]) == list(cli.FOLDERS)
    for stage, cpu in PARAMS["cpu"].items():
        gpu = PARAMS["gpu"][stage]
        assert list(cpu) == list(gpu) and gpu["pictures"] > cpu["pictures"] and gpu["batch"] > cpu["batch"]
        assert cpu["seed"] == gpu["seed"]


def test_training_goes_on_from_the_published_weights_alone(tmp_path, monkeypatch):
    models = tiny_models(tmp_path / "models")
    (tmp_path / "miniature").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(control, "SHARD", 64)
    published = []
    for seed, warm in ((5, False), (6, True)):
        YAML_SAFE.dump({"preset": "cpu", "warm": warm, "cpu": {"mask": {**CHOSEN, "seed": seed}}}, PRESETS)
        cli.train("mask", models, float("inf"))
        published.append((models / "controlnet-mask/diffusion_pytorch_model.safetensors").read_bytes())
        shutil.rmtree(loop.STATE)
    seen = json.loads((models / "controlnet-mask/training.json").read_text())
    assert seen["pictures"] == 48 and published[0] != published[1]
    assert [pictures for pictures, _ in seen["losses"]] == [8, 16, 24, 32, 40, 48]
