"""A folder in which the pipeline's commands run: a tiny random model, a short clip and params.yaml."""

import warnings
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from tav.clip import write_clip
from tests import tiny

PARAMS = Path(__file__).parent.parent / "params.yaml"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def set_params():
    """Changes settings of ./params.yaml by their keys, such as {"tune.steps": 3}; None takes a setting out."""

    def change(changes: dict) -> None:
        settings = YAML(typ="safe").load(Path("params.yaml"))
        for key, value in changes.items():
            *sections, last = key.split(".")
            table = settings
            for section in sections:
                table = table[section]
            table[last] = value
            if value is None:
                del table[last]
        yaml = YAML(typ="safe")
        yaml.default_flow_style = False
        yaml.dump(settings, Path("params.yaml"))

    return change


@pytest.fixture
def workplace(tiny_model, tmp_path, monkeypatch, set_params):
    """The current folder, with params.yaml for four frames of 32 pixels and a few steps, and the clip `square`."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/tiny").symlink_to(tiny_model)
    write_clip("square.mp4", (tiny.moving_square(6) + 1) / 2)
    Path("params.yaml").write_text(PARAMS.read_text())
    clip = {
        "source": {"path": "square.mp4", "start": 0, "stride": 1},
        "caption": "a square is moving",
        "edits": {"object": "a circle is moving", "place": "a square is moving on the beach"},
    }
    set_params(
        {"model": "models/tiny", "device": "cpu", "processes": 1, "clips": {"square": clip}}
        | {"score.clip_model": "models/tiny/clip"}
        | {"score.judge": "", "ablation": {}, "full_ablation": {}, "peers": {}, "control": {}, "objects": ""}
        | {"clip.num_frames": 4, "clip.size": 32, "tune.steps": 3, "tune.save_every": 2, "invert.steps": 2}
        | {"edit.steps": 2}
    )
    settings = warnings.formatwarning
    yield tmp_path
    torch.use_deterministic_algorithms(False)
    warnings.formatwarning = settings
