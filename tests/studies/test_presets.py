"""params/*.yaml: one command switches the scale, and what was in params.yaml is never lost."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from studies.__main__ import main
from studies.presets import compose
from studies.settings import load_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.stem for path in (ROOT / "params").glob("*.yaml") if path.stem != "last")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in PRESETS:
        (tmp_path / "params").mkdir(exist_ok=True)
        shutil.copy(ROOT / "params" / f"{name}.yaml", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def preset(folder):
    def load(name):
        Path("composed.yaml").write_text(compose(name))
        return load_params("composed.yaml")

    return load


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(preset, name):
    assert preset(name).model_dump(mode="json").keys() == preset("miniature").model_dump(mode="json").keys()


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "miniature"])
def test_an_overlay_names_only_what_it_changes(folder, name):
    overlay = YAML(typ="safe").load(Path(f"params/{name}.yaml"))
    under = YAML(typ="safe").load(compose(overlay.pop("over", "miniature")))
    for section, values in overlay.items():
        assert values != under[section], section
        if section in ("clip", "tune", "memory", "invert", "edit", "score", "benchmark", "conditions"):
            assert not [key for key, value in values.items() if under[section][key] == value], section


def test_an_overlay_that_names_what_there_is_not_is_refused(folder, capsys):
    Path("params/wrong.yaml").write_text("tuning: {steps: 3}\n")
    assert main(["use", "wrong"]) == 2
    assert "params/wrong.yaml: tuning is not a setting: params.yaml takes model, lora" in capsys.readouterr().err


def test_the_settings_of_the_repository_are_those_of_the_miniature():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "params/miniature.yaml").read_text()


def test_the_papers_preset_has_the_papers_numbers(preset):
    paper = preset("paper")
    assert (paper.model, paper.clip.num_frames, paper.clip.size) == ("CompVis/stable-diffusion-v1-4", 32, 512)
    assert (paper.tune.steps, paper.tune.learning_rate) == (500, 3e-5)
    assert (paper.invert.steps, paper.edit.steps, paper.edit.guidance_scale) == (50, 50, 12.5)


def test_the_demos_presets_have_the_released_clips_and_the_small_one_half_of_their_frames(preset):
    demo, small = (preset(name).model_dump(mode="json") for name in ("demo", "demo-12gb"))
    strides = {name: clip["source"]["stride"] for name, clip in demo["clips"].items()}
    assert strides == {"car-turn": 2, "man-skiing": 2, "man-surfing": 1, "rabbit-watermelon": 2}
    assert {len(clip["edits"]) for clip in demo["clips"].values()} == {4} and demo["clip"]["num_frames"] == 24
    assert demo["tune"].pop("mixed_precision") == "fp16" and small["tune"].pop("mixed_precision") == "bf16"
    assert demo.pop("memory") != small.pop("memory")
    assert (demo["clip"].pop("num_frames"), small["clip"].pop("num_frames")) == (24, 12)
    assert (demo["clip"].pop("fps"), small["clip"].pop("fps")) == (8, 4)
    for name, clip in small["clips"].items():
        assert clip["source"].pop("stride") == 2 * demo["clips"][name]["source"].pop("stride")
    assert demo == small


def test_settings_are_switched_there_and_back_by_one_command(folder):
    shutil.copy("params/miniature.yaml", "params.yaml")
    for name in ("paper", "miniature"):
        assert main(["use", name]) == 0
        assert Path("params.yaml").read_text() == compose(name)
    assert not Path("params/last.yaml").exists()


def test_settings_that_were_edited_are_kept_and_can_be_brought_back(folder, capsys):
    mine = Path("params/miniature.yaml").read_text().replace("steps: 120", "steps: 121")
    Path("params.yaml").write_text(mine)
    assert main(["use", "paper"]) == 0
    assert "python -m studies use last" in capsys.readouterr().out
    assert main(["use", "last"]) == 0
    assert Path("params.yaml").read_text() == mine


def test_settings_that_are_broken_or_missing_can_be_replaced(folder):
    assert main(["use", "demo"]) == 0
    Path("params.yaml").write_text("model: [")
    assert main(["use", "demo"]) == 0
    assert load_params().clip.num_frames == 24


@pytest.mark.parametrize("name", ["nothing", "../params", "/etc/passwd"])
def test_a_preset_that_is_not_there_is_refused_with_those_that_are(folder, capsys, name):
    assert main(["use", name]) == 2
    words = capsys.readouterr().err
    assert "there are demo, demo-12gb, miniature, paper" in words and words.count("\n") == 1


def test_a_broken_preset_or_params_yaml_is_in_nobody_elses_way(folder, capsys):
    Path("params/mine.yaml").write_text("tune: [")
    Path("params/empty.yaml").touch()
    Path("params.yaml").write_bytes("clips: {}  # f\xfcr".encode("latin-1"))
    assert main(["use", "demo"]) == 0
    assert Path("params/last.yaml").read_bytes() == b"clips: {}  # f\xfcr"
    assert main(["use", "last"]) == 0
    assert Path("params.yaml").read_bytes() == b"clips: {}  # f\xfcr"
    for name, said in (("mine", "params/mine.yaml, line 1"), ("empty", "params/empty.yaml is empty")):
        assert main(["use", name]) == 2
        assert said in capsys.readouterr().err
