"""`python -m studies try`: a clip of one's own, edited in one command."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from own import attempt
from own.bundle import load_bundle
from studies.__main__ import main
from studies.settings import load_params
from tav.clip import read_clip, read_frames, write_clip, write_frames
from tests import tiny_clip
from tests.workspace import ROOT

FIRST, SECOND = "a circle is moving", "a square is moving on the beach"


@pytest.fixture
def clip(workplace):
    """A video of 30 frames at 24 a second, of which every third is taken."""
    frames = torch.rand(1, 3, 40, 56).repeat(30, 1, 1, 1) * torch.linspace(0.2, 1, 30)[:, None, None, None]
    write_clip("My Clip.mp4", frames, fps=24)
    return "My Clip.mp4"


def attempted(*more: str) -> int:
    return main(["try", "My Clip.mp4", "--caption", "a square is moving", *more])


def pieces(kind: str) -> set[str]:
    return {path.name for path in Path(".pieces", kind).glob("*")}


def test_a_clip_is_edited_and_shown_and_a_further_prompt_tunes_nothing(clip, capsys):
    assert attempted("--edit", FIRST) == 0
    said = capsys.readouterr().out
    assert "4 frames, every 3. of 30, at 32 pixels" in said
    folder = Path("results/own/my-clip")
    assert {path.name for path in folder.iterdir()} == {
        "source.mp4", "a-circle-is-moving.mp4", "clips.webp", "sheet.jpg", "index.html"}  # fmt: skip
    assert read_clip(folder / "a-circle-is-moving.mp4", 4, 32).shape == (4, 3, 32, 32)
    weights, frames = pieces("weights"), pieces("frames")
    assert len(weights) == len(frames) == 1

    assert attempted("--edit", FIRST, "--edit", SECOND) == 0
    assert pieces("weights") == weights and len(pieces("frames")) == 2
    page = (folder / "index.html").read_text()
    assert page.count("<video") == 3 and FIRST in page and "a-square-is-moving-on-the-beach.mp4" in page


def test_weights_and_noise_are_saved_to_travel(clip):
    assert attempted("--edit", FIRST, "--save", "kept") == 0
    pipe, noise, settings = load_bundle("kept")
    pipe.set_progress_bar_config(disable=True)
    sampled = pipe(FIRST, noise, 2, guidance_scale=load_params().edit.guidance_scale, output_type="pt").frames[0]
    (made,) = Path(".pieces/frames").glob("*")
    assert (sampled - read_frames(made)).abs().max() < 0.003  # 8 bits
    assert settings["caption"] == "a square is moving"


def test_a_background_is_kept_by_words_or_by_a_mask_with_the_weights_that_are_there(clip):
    assert attempted("--edit", FIRST) == 0
    weights = pieces("weights")
    assert attempted("--edit", FIRST, "--keep", "square") == 0
    write_frames("mask", torch.zeros(4, 3, 32, 32))
    assert attempted("--edit", FIRST, "--keep", "mask") == 0
    assert pieces("weights") == weights and len(pieces("frames")) == 3
    kept = [path for path in Path(".pieces/frames").iterdir() if (path / "mask").is_dir()]
    masks = sorted(float(read_frames(path / "mask").mean()) for path in kept)
    assert masks[0] == 0 < masks[1]


def test_previews_change_nothing_and_are_files_beside_the_edits(clip):
    assert attempted("--edit", FIRST, "--preview", "2") == 0
    assert Path("results/own/my-clip/preview-0002.webp").exists()
    frames, weights = pieces("frames"), pieces("weights")
    assert attempted("--edit", FIRST) == 0
    assert pieces("frames") == frames and pieces("weights") == weights


def test_a_longer_clip_is_edited_in_windows(clip):
    assert attempted("--edit", FIRST, "--frames", "7", "--window", "4", "--overlap", "1") == 0
    (made,) = Path(".pieces/frames").glob("*")
    assert read_frames(made).shape == (7, 3, 32, 32)
    assert attempted("--edit", FIRST, "--frames", "7", "--window", "4", "--overlap", "1", "--keep", "square") == 0


def test_tuning_until_learnt_makes_weights_of_its_own(clip, monkeypatch, set_params):
    tiny_clip.save_clip(Path("clip"))
    set_params({"score.clip_model": "clip"})
    monkeypatch.setattr("studies.stopping.EVERY", 1)
    monkeypatch.setattr("studies.stopping.LEAST", 2.0)  # which nothing gains
    assert attempted("--edit", FIRST, "--steps", "9", "--until-learnt") == 0
    (made,) = Path(".pieces/weights").glob("*")
    assert len((made / "losses.csv").read_text().splitlines()) == 1 + 2
    assert attempted("--edit", FIRST, "--steps", "9") == 0 and len(pieces("weights")) == 2


def test_prompts_that_share_a_name_are_edits_of_their_own(clip):
    assert attempted("--edit", "一只狗在跑", "--edit", "一只猫在跑", "--out", "shown") == 0
    assert {path.name for path in Path("shown").glob("*.mp4")} == {"source.mp4", "clip.mp4", "clip-2.mp4"}


def test_what_a_bundle_could_not_hold_is_not_saved(clip, set_params, capsys):
    set_params({"tune.tuned": "everything"})
    assert attempted("--edit", FIRST, "--save", "kept") == 2
    assert "--save keeps the weights that the paper tunes" in capsys.readouterr().err and not Path("kept").exists()


def test_words_of_a_prompt_cannot_leave_the_page_or_the_folder(clip):
    assert attempted("--edit", "<script>alert(1)</script>/../x", "--out", "shown") == 0
    page = Path("shown/index.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;" in page
    assert sorted(path.name for path in Path("shown").glob("*.mp4")) == ["script-alert-1-script-x.mp4", "source.mp4"]


def test_options_go_before_the_settings_and_a_short_clip_is_taken_whole(workplace, capsys):
    write_frames("My Clip.mp4", torch.rand(3, 3, 32, 32))  # a folder of that name
    assert attempted("--edit", FIRST, "--size", "64", "--steps", "1", "--frames", "9", "--stride", "1") == 0
    said = capsys.readouterr().out
    assert "My Clip.mp4 has 3 frames: all of them are taken, not 9" in said and "at 64 pixels" in said
    needs = [json.loads(path.read_text())["needs"] for path in Path(".pieces/weights").glob("*/piece.json")]
    assert [(need["tune"]["steps"], need["num_frames"]) for need in needs] == [(1, 3)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["try", "none.mp4", "--caption", "a", "--edit", "b"], "none.mp4 does not exist"),
        (["try", "My Clip.mp4", "--caption", "a"], "the following arguments are required: --edit"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", " "], "clips.my-clip.edits.clip"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "source"], "cannot be a name"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--frames", "0"], "0 is no number from 1 on"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--size", "30"], "size 30x30 is no multiple"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--stride", "20"], "set num_frames to at most 2"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--model", "none"], "there is no model folder none"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--keep", "dog"], "give words that stand in it"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--window", "9"], "has no window of 9"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--window", "3", "--overlap", "2"], "cannot share 2"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--window", "3", "--save", "x"], "leave out --window"),
        (["try", "My Clip.mp4", "--edit", "b", "--captioner", "none"], "cannot load BLIP-2 from none"),
        (["try", "My Clip.mp4", "--caption", "a", "--edit", "b", "--out", "My Clip.mp4"], "is a file where a folder"),
    ],
)
def test_bad_input_is_refused_in_a_line(clip, words, line, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert line in said[-1] and said[-1].startswith("error: ")


def test_what_is_kept_is_checked_before_a_clip_is_tuned_for_it(clip, set_params, capsys):
    assert attempted("--edit", FIRST, "--keep", "masks.png") == 2
    assert "'masks.png' is no file, and the caption" in capsys.readouterr().err and not pieces("weights")
    write_frames("square", torch.zeros(4, 3, 32, 32))  # a folder with the name of a word that is meant
    assert attempted("--edit", FIRST, "--keep", "square") == 0
    needs = [json.loads(path.read_text())["needs"] for path in Path(".pieces/frames").glob("*/piece.json")]
    assert [(need["words"], need["mask"]) for need in needs] == [("square", None)]
    set_params({"tune.frames": "shuffled"})
    assert attempted("--edit", FIRST, "--frames", "7", "--window", "4") == 2
    assert "set tune.frames to in-order" in capsys.readouterr().err


def test_a_video_that_breaks_off_and_a_full_disk_are_one_line(clip, capsys, monkeypatch):
    whole = Path(clip).read_bytes()
    Path(clip).write_bytes(whole[: len(whole) * 9 // 10])
    assert attempted("--edit", FIRST) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: My Clip.mp4")
    Path(clip).write_bytes(whole)

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("studies.models.save_file", full)
    assert attempted("--edit", FIRST) == 2
    assert "is the disk full?" in capsys.readouterr().err


def test_memory_at_hand_chooses_the_mode_and_the_frames_of_a_large_model(workplace, monkeypatch):
    rows = [
        {"mode": mode, "step": "tuning", "frames": frames, "size": 512, "peak GB": held + frames * each}
        for mode, (held, each) in {"lean": (7, 2.5), "bf16-lean": (4, 1.2), "low-memory": (3, 0.6)}.items()
        for frames in (2, 4, 8)
    ]
    monkeypatch.setattr(attempt, "read", lambda kind, results: pd.DataFrame(rows))
    monkeypatch.setattr(attempt.UNet2DConditionModel, "load_config", lambda *_, **__: {"block_out_channels": (320,)})

    def fitting(gigabytes: float, frames: int = 24) -> tuple[str, int]:
        free = type("Free", (), {"available": (gigabytes + attempt.RESERVE) * 1e9})
        monkeypatch.setattr(attempt.psutil, "virtual_memory", lambda: free)
        return attempt.fit_memory(load_params(), "any", frames, 512)

    assert fitting(100) == ("lean", 24)
    assert fitting(40) == ("bf16-lean", 24)
    assert fitting(18) == ("low-memory", 24)
    assert fitting(10.5) == ("low-memory", 12)
    with pytest.raises(attempt.InputError, match="suffice for no clip"):
        fitting(2)


def test_a_small_model_takes_all_frames_whatever_the_memory(workplace):
    assert attempt.fit_memory(load_params(), "models/tiny", 4, 32) == ("", 4)


def test_a_large_model_is_not_tuned_with_the_settings_of_a_small_one(workplace, monkeypatch):
    of = {"models/tiny": 32, "large": 320}
    monkeypatch.setattr(
        attempt.UNet2DConditionModel, "load_config", lambda model, **_: {"block_out_channels": (of[model],)}
    )
    params = load_params()
    assert attempt.at_scale(params, "models/tiny") == (params, [])
    with pytest.raises(attempt.InputError, match="params/demo.yaml does not exist"):
        attempt.at_scale(params, "large")
    Path("params").symlink_to(ROOT / "params")
    scaled, (said,) = attempt.at_scale(params, "large")
    assert (scaled.clip.size, scaled.tune.steps, scaled.tune.learning_rate) == (512, 500, 3e-5)
    assert scaled.device == params.device and said.startswith("settings are those of params/demo.yaml")
    assert attempt.at_scale(scaled.model_copy(update={"model": "large"}), "large")[1] == []
