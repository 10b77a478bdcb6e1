"""Side by side with the released code, by a stand-in for it in its layout: rows are there, ratios follow from them."""

import pandas as pd
import pytest

from benchmarks import released
from benchmarks.full_size import V1_4
from benchmarks.released import STEPS, ratios
from tav.errors import InputError
from tests.benchmarks.test_full_size import TINY

STAND_IN = """
from diffusers import UNet2DConditionModel

class UNet3DConditionModel(UNet2DConditionModel):
    def __init__(self, down_block_types, up_block_types, **config):
        super().__init__(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                         up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **config)

    def forward(self, latents, timestep, text):
        frames = latents.transpose(1, 2).flatten(0, 1)
        out = super().forward(frames, timestep, text.repeat_interleave(latents.shape[2], 0))
        out.sample = out.sample.unflatten(0, (len(latents), -1)).transpose(1, 2)
        return out
"""


@pytest.fixture
def rows():
    seconds = {"released": (4.0, 1.0, 2.0), "here": (3.0, 1.0, 1.0)}
    return pd.DataFrame(
        {"frames": 4, "size": 128, "code": code, "step": step, "seconds": value, "peak GB": 8 if code == "here" else 10}
        for code, values in seconds.items()
        for step, value in zip(STEPS, values, strict=True)
    )


def test_every_number_is_divided_by_the_released_codes(rows):
    theirs, ours = ratios(rows).to_dict("records")
    assert theirs["code"] == "released" and all(theirs[f"{step}, ratio"] == 1 for step in STEPS)
    assert (ours["tune, ratio"], ours["invert, ratio"], ours["edit, ratio"]) == (0.75, 1, 0.5)
    assert ours["peak GB, ratio"] == 0.8


def test_a_whole_clip_is_the_sum_of_its_steps_and_theirs_validates_five_times(rows):
    theirs, ours = ratios(rows).to_dict("records")
    assert theirs["as run"] == 500 * 4 + 5 * (50 * 1 + 4 * 50 * 2)
    assert theirs["same work"] == 500 * 4 + 50 * 1 + 4 * 50 * 2
    assert ours["as run"] == ours["same work"] == 500 * 3 + 50 * 1 + 4 * 50 * 1


def test_what_an_interrupted_run_has_not_measured_is_left_out_and_not_called_too_large(rows):
    unfinished = rows.assign(size=256).iloc[:-1]  # ours has no edit step yet
    alone = rows[rows["code"] == "here"].assign(size=512)
    found = ratios(pd.concat([rows, unfinished, alone]))
    assert list(zip(found["size"], found["code"], strict=True)) == [
        (128, "released"), (128, "here"), (256, "released")]  # fmt: skip


@pytest.mark.parametrize("step", ["tune", "edit"])
def test_a_step_of_a_checkout_is_timed_in_a_process_of_its_own(step, tmp_path, monkeypatch):
    (tmp_path / "tuneavideo/models").mkdir(parents=True)
    (tmp_path / "tuneavideo/models/unet.py").write_text(STAND_IN)
    unet = {name: value for name, value in TINY["unet"].items() if not name.endswith("block_types")}
    parts = {"unet": unet | {"cross_attention_dim": 768}, "vae": V1_4["vae"] | TINY["vae"]}
    monkeypatch.setattr(released, "V1_4", parts)
    monkeypatch.setattr(released, "WITHOUT", ())  # the stand-in's diffusers is today's
    found = released.measure_released(step, 2, 32, "cpu", True, [str(tmp_path)])
    assert 0 < found["seconds"] < 60 and 0.1 < found["held GB"] <= found["peak GB"] < 10


def test_a_checkout_that_does_not_run_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(released, "WITHOUT", ())
    with pytest.raises(InputError, match="does not run: ModuleNotFoundError"):
        released.measure_released("edit", 2, 32, "cpu", True, [str(tmp_path)])


def test_paths_without_the_released_code_are_refused_in_a_line(tmp_path, capsys):
    assert released.main([str(tmp_path), str(tmp_path)]) == 2
    assert "tuneavideo is not there" in capsys.readouterr().err
