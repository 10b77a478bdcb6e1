"""`make gpu-check` on a CPU, in little: every part leaves its rows, and a second start measures nothing again."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import gpu_check, released
from tests.benchmarks.test_full_size import TINY
from tests.tiny_clip import save_clip


@pytest.fixture
def little(workplace, set_params, monkeypatch):
    """A check of one mode and of one step at full size, whose parity tests are one that passes and one that fails."""
    monkeypatch.setattr(gpu_check, "MODES", {"float32": {}, "bf16": gpu_check.MODES["bf16"]})
    monkeypatch.setattr(gpu_check, "STEPS", 2)
    monkeypatch.setattr(gpu_check, "SMALL", TINY)
    monkeypatch.setattr(gpu_check, "SMALL_SIZES", ((2, 64),))
    monkeypatch.setattr(released, "OURS", {"here": "lean"})
    tests = workplace / "test_parity.py"
    tests.write_text("def test_equal():\n    pass\n\n\ndef test_other():\n    raise AssertionError\n")
    monkeypatch.setattr(gpu_check, "PARITY", str(tests))
    save_clip(Path("clip"))
    set_params({"clip.num_frames": 2, "score.clip_model": "clip"})
    return ["--device", "cpu", "--small", "--folder", str(workplace / "full/model")]


def rows() -> dict[tuple[str, str], float]:
    (file,) = Path("full").glob("gpu-check-*.csv")
    return pd.read_csv(file).set_index(["part", "what"])["value"].to_dict()


def test_every_part_is_measured_once(little, capsys):
    assert gpu_check.main([*little, "--minutes", "0.00001"]) == 1
    assert "did not fit" in capsys.readouterr().out
    assert gpu_check.main(little) == 0
    found = rows()
    assert (found["parity", "tests passed"], found["parity", "tests failed"]) == (1, 1)
    assert found["tuning, float32", "loss"] == pytest.approx(found["tuning, bf16", "loss"], rel=0.05)
    assert all(found[f"tuning, {mode}", "seconds per step"] > 0 for mode in gpu_check.MODES)
    assert 0 < found["a clip, cpu", "frame consistency"] <= 100
    (steps,) = Path("full").glob("released-*.csv")
    assert list(pd.read_csv(steps)["step"]) == ["tune", "invert", "edit"]
    capsys.readouterr()
    assert gpu_check.main(little) == 0 and rows() == found
    assert "FAILED" not in capsys.readouterr().out, "the parity tests ran again"


def test_without_a_gpu_one_line_says_what_runs_instead(workplace, capsys):
    assert gpu_check.main([]) == 2
    assert "--device cpu --small" in capsys.readouterr().err


def test_a_size_that_is_none_is_refused_in_a_line(tmp_path, capsys):
    for folder in ("released/tuneavideo", "libraries/diffusers", "model"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model/model_index.json").write_text("{}")
    places = [str(tmp_path / "released"), str(tmp_path / "libraries"), "--folder", str(tmp_path / "model")]
    for size in ("4", "4x", "4x100", "0x128", "fourx128"):
        assert released.main([*places, "--sizes", size]) == 2
        assert f"error: {size} is no size" in capsys.readouterr().err
