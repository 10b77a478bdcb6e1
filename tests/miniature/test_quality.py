import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image

from miniature import control, quality, video
from miniature.world import draw
from tests.miniature.test_control import CPU, PUBLISHED, tiny_models, tiny_unet

README = Path("miniature/README.md").read_text()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The published pipeline with a small UNet, and new conditions and motion modules beside it."""
    models = tiny_models(tmp_path / "models")
    for stage, folder in control.FOLDERS.items():
        control.build(stage, tiny_unet()).save_pretrained(models / folder)
    video.build(tiny_unet()).save_pretrained(models / video.FOLDER)
    monkeypatch.setattr(quality, "REPORTS", tmp_path)
    monkeypatch.setattr(quality, "STEPS", 2)
    monkeypatch.setattr(control, "STEPS", 2)
    return models


def test_the_sheet_of_conditions_shows_each_above_its_samples(models, tmp_path):
    quality.show_control(models, CPU)
    sheet = np.asarray(Image.open(tmp_path / "control.png").convert("RGB")).astype(int)
    rows = sheet.reshape(8, 64, 8, 64, 3).swapaxes(1, 2)
    rng = np.random.default_rng(quality.SEED + 4)
    for column, scene in enumerate(control.training_scene(rng) for _ in range(8)):
        picture = draw(scene)
        expected = [picture, *control.conditions(scene, picture).values()]
        for shown, drawn in zip(rows[::2, column], expected, strict=True):
            assert np.abs(shown - np.broadcast_to(drawn.reshape(64, 64, -1), (64, 64, 3))).mean() < 20  # 256 colours
    assert np.abs(rows[3] - rows[1]).mean() < 4 and (tmp_path / "control.png").stat().st_size < 150_000


def test_the_sheet_of_clips_has_a_row_per_motion_and_a_column_per_frame(models, tmp_path):
    quality.show_video(models, CPU)
    width, height = Image.open(tmp_path / "video.jpg").size
    assert 1.1 < (width / video.NUM_FRAMES) / (height / len(quality.SHOWN)) < 1.6  # a margin for the captions


def test_loss_curves_are_drawn_of_the_stages_that_kept_them():
    seen = {"vae": {"pictures": 9, "seconds": 5}} | {
        stage: {"pictures": 2000, "seconds": 9, "losses": [[1000, 0.5], [2000, 0.25]]} for stage in control.FOLDERS
    }
    panels = quality.losses(seen).axes
    assert [panel.get_title("left") for panel in panels] == ["edges", "mask", "pose"]
    assert panels[0].lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.25]]


def test_the_tables_in_the_readme_are_those_of_the_published_weights():
    found = json.loads(Path("miniature/reports/quality.json").read_text())
    made = quality.table(found, quality.training(PUBLISHED))
    assert made in README
    minutes = sum(facts["seconds"] for facts in quality.training(PUBLISHED).values()) / 60
    assert f"**{minutes:.0f}** of 480" in made and minutes < 480


def test_the_sizes_in_the_readme_are_those_of_the_networks():
    unet = UNet2DConditionModel.from_pretrained(PUBLISHED / "unet")
    built = {"`unet`": unet, "`controlnet-edges`": control.build("edges", unet)}
    built |= {"`t2i-adapter-pose`": control.build("pose", unet), "`text-to-video`": video.build(unet)}
    for name, model in built.items():
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        row = next(line for line in README.splitlines() if line.startswith(f"| {name}"))
        assert row.split("|")[-2].split()[0] == f"{millions:.1f}", name


def test_the_readme_shows_the_sheets_and_the_curves():
    for name in ("vae.png", "unet.png", "control.png", "video.jpg", "losses.png"):
        assert f"](reports/{name})" in README
        assert Path("miniature/reports", name).stat().st_size < 600_000
    assert all(Path("miniature/reports", name).stat().st_size < 150_000 for name in ("control.png", "video.jpg"))
