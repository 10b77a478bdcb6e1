"""`python -m studies score`: frames that any tool made, scored as a line of CSV."""

import csv
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from studies.__main__ import main
from tav.clip import read_clip, write_clip, write_frames
from tests import tiny
from tests.tiny_clip import save_clip

PROMPT = ["--prompt", "a circle is moving"]


@pytest.fixture
def edited(workplace, set_params):
    """The folder `edited`, four frames of which each is the source's; the source is `square.mp4`."""
    save_clip(Path("clip"))
    set_params({"score.clip_model": "clip"})
    write_frames("edited", (read_clip("square.mp4", 4, 32) + 1) / 2)
    return ["score", "edited", "--source", "square.mp4"]


def scored(words: list[str], capsys) -> dict[str, float]:
    assert main(words) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    return row


def test_a_folder_and_a_video_of_the_same_frames_score_alike(edited, capsys):
    row = scored([*edited, *PROMPT], capsys)
    assert row["frames"] == "edited" and row["prompt"] == "a circle is moving" and "frame accuracy" not in row
    assert 0 < float(row["frame consistency"]) <= 100 and float(row["motion fidelity"]) > 0.99
    write_clip("edited.mp4", (read_clip("square.mp4", 4, 32) + 1) / 2)
    video = scored(["score", "edited.mp4", *edited[2:], *PROMPT], capsys)
    assert float(video["text alignment"]) == pytest.approx(float(row["text alignment"]), abs=1)


def test_a_caption_adds_frame_accuracy_and_another_start_is_another_source(edited, capsys):
    whole = scored([*edited, *PROMPT, "--caption", "a square is moving"], capsys)
    assert float(whole["frame accuracy"]) in (0, 25, 50, 75, 100)
    later = scored([*edited, *PROMPT, "--start", "2"], capsys)
    assert later["text alignment"] == whole["text alignment"] and later["warp error"] != whole["warp error"]


def test_lines_gather_in_a_file(edited, capsys):
    for _ in range(2):
        scored([*edited, *PROMPT, "--out", "all/scores.csv"], capsys)
    first, second = csv.DictReader(Path("all/scores.csv").open())
    assert first == second
    assert main([*edited, *PROMPT, "--caption", "a square", "--out", "all/scores.csv"]) == 2
    assert "has other columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["score", "none", "--source", "square.mp4", *PROMPT], "none does not exist"),
        (["score", "edited", "--source", "none.mp4", *PROMPT], "none.mp4 does not exist"),
        (["score", "edited", *PROMPT], "the following arguments are required: --source"),
        (["score", "edited", "--source", "square.mp4", *PROMPT, "--stride", "9"], "or stride to at most 1"),
        (["score", "edited", "--source", "square.mp4", "--prompt", " "], "--prompt is empty"),
        (["score", "edited", "--source", "square.mp4", *PROMPT, "--start", "-1"], "-1 is no number from 0 on"),
    ],
)
def test_bad_input_is_refused_in_a_line(edited, words, line, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert line in said[-1] and said[-1].startswith("error: ")


def test_frames_may_be_oblong_and_of_another_size_than_params_yaml_says(edited, capsys):
    write_frames("wide", torch.rand(3, 3, 40, 72))
    write_clip("wide.mp4", (tiny.moving_square(6) + 1) / 2)
    assert scored(["score", "wide", "--source", "wide.mp4", *PROMPT], capsys)["frames"] == "wide"


def test_frames_of_several_sizes_are_refused_and_notes_beside_a_source_are_no_truth(edited, capsys):
    Path("square.json").write_text("{}")
    scored([*edited, *PROMPT], capsys)
    write_frames("edited", torch.rand(3, 3, 32, 32))
    Image.new("RGB", (16, 16)).save("edited/00003.png")
    assert main([*edited, *PROMPT]) == 2
    assert "edited holds frames of several sizes" in capsys.readouterr().err
