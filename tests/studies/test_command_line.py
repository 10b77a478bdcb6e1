"""`python -m studies`: what each verb writes, how it fails, and that a killed tuning loses nothing."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studies.__main__ import main
from studies.machine import GPUS, chosen_device
from studies.settings import load_params
from tav.clip import read_frames

ROOT = Path(__file__).parents[2]


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def refusal(workplace, capsys):
    def run(*arguments) -> tuple[int, str]:
        code = main(list(arguments))
        words = capsys.readouterr().err
        assert words.startswith("error: ") and words.count("\n") == 1
        return code, words.removeprefix("error: ").strip()

    return run


def start(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "studies", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_tune_invert_and_edit_write_what_the_later_stages_read(workplace):
    assert main(["tune"]) == 0
    numbers = [f"{index:05}.png" for index in range(4)]
    tuned = files("results/tune/square")
    assert set(tuned) == {"losses.csv", "tuned.safetensors", *(f"source/{number}" for number in numbers)}
    with open("results/tune/square/losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3] and all(float(row["loss"]) > 0 for row in rows)

    assert main(["invert"]) == 0
    expected = {"inverted.safetensors", *(f"reconstruction/{number}" for number in numbers)}
    assert set(files("results/invert/square")) == expected
    assert load_file("results/invert/square/inverted.safetensors")["noise"].shape == (4, 4, 8, 8)

    assert main(["edit"]) == 0
    assert set(files("results/edit/square")) == {f"{e}/{number}" for e in ("object", "place") for number in numbers}
    objects, places = (read_frames(f"results/edit/square/{edit}") for edit in ("object", "place"))
    assert objects.shape == (4, 3, 32, 32) and not torch.equal(objects, places)

    results, pieces = files("results"), set(files(".pieces"))
    shutil.rmtree("results")
    for verb in ("tune", "invert", "edit"):
        assert main([verb]) == 0
    assert files("results") == results and set(files(".pieces")) == pieces


def test_a_tuning_killed_at_any_moment_ends_with_the_same_bytes(workplace, set_params):
    set_params({"tune.steps": 40, "clips.square.caption": " ".join(["a square is moving"] * 30)})
    tuning = start("tune")
    while not list(Path(".pieces/unfinished").rglob("state.safetensors")):
        assert tuning.poll() is None
        time.sleep(0.005)
    tuning.send_signal(signal.SIGKILL)
    words = tuning.communicate()[1]
    assert not Path("results/tune").exists()
    assert words.startswith("warning: ") and "this is cut" in words.splitlines()[0]

    assert main(["tune"]) == 0
    resumed = files("results")
    assert not list(Path(".pieces/unfinished").iterdir())
    shutil.rmtree("results")
    shutil.rmtree(".pieces")
    assert main(["tune"]) == 0
    assert files("results") == resumed


def test_unknown_words_are_refused(refusal):
    assert refusal("tune", "square")[0] == 2
    assert refusal("tun")[0] == 2
    assert refusal("prune", "much") == (2, "much is no size: give one such as 2GB, 300MB or 0")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tune.steps": -1}, "params.yaml: tune.steps is -1: it must be greater than or equal to 0"),
        ({"clip.size": 30}, "size 30x30 is no multiple of the VAE's factor 4"),
        ({"clip.num_frames": 7}, "square.mp4 has 6 frames, but 7 frames from 0 on in steps of 1 need 7"),
        ({"clips.square.source.path": "none.mp4"}, "none.mp4 does not exist"),
        ({"model": "models/none/such"}, "there is no model folder models/none/such"),
        ({"device": "cuda"}, "device is cuda, but no GPU can be used: set device to auto or cpu in params.yaml"),
        ({"device": "mps"}, "device is mps, but no GPU can be used: set device to auto or cpu in params.yaml"),
    ],
)
def test_bad_input_ends_with_code_2_and_leaves_nothing(refusal, set_params, changes, words):
    if GPUS.get(changes.get("device"), bool)():
        pytest.skip("this machine has that GPU")
    set_params(changes)
    code, said = refusal("tune")
    assert code == 2 and words in said
    assert not Path("results/tune").exists()
    assert {path.partition("/")[0] for path in files(".pieces")} <= {"source"}  # the clip, if that can be read


@pytest.mark.parametrize(
    ("there", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")]
)
def test_a_gpu_is_taken_if_there_is_one_of_nvidia_or_apple(workplace, set_params, monkeypatch, there, chosen):
    for gpu in GPUS:
        monkeypatch.setitem(GPUS, gpu, lambda gpu=gpu: gpu in there)
    set_params({"device": "auto"})
    assert chosen_device(load_params()) == chosen


def test_a_model_with_parts_missing_is_refused(refusal, tiny_model, set_params):
    shutil.copytree(tiny_model, "models/broken")
    shutil.rmtree("models/broken/vae")
    set_params({"model": "models/broken"})
    code, words = refusal("tune")
    assert code == 2 and "cannot load vae/ of models/broken" in words


def test_a_loss_that_is_no_number_ends_with_code_3(refusal, set_params):
    set_params({"tune.learning_rate": 1e9, "tune.steps": 9, "tune.tuned": "everything"})
    code, words = refusal("tune")
    assert code == 3 and "lower the learning rate" in words
    assert not Path("results/tune").exists()


@pytest.mark.parametrize("noise, verb", [("inverted", "invert"), ("random", "edit")])
def test_what_is_not_finite_is_refused_before_it_is_kept(refusal, set_params, noise, verb):
    set_params({"tune.learning_rate": 1e9, "tune.steps": 1, "tune.tuned": "everything", "edit.noise": noise})
    assert main(["tune"]) == 0  # the loss of its one step is that of before
    code, words = refusal(verb)
    assert code == 3 and "left the finite numbers: lower the learning rate or the guidance scale" in words
    assert not Path(f"results/{verb}").exists() and not Path(".pieces/frames").exists()


def test_t_attn_is_not_tuned_alone_where_there_is_none(refusal, set_params):
    set_params({"inflate.temporal": False, "tune.tuned": "temporal"})
    assert refusal("tune")[1].startswith("tuned is 'temporal', of which this model has nothing: choose another")
    set_params({"inflate.temporal_conv": True})
    assert main(["tune"]) == 0


def test_out_of_memory_ends_with_code_4_and_names_the_settings(refusal, set_params):
    set_params({"clip.size": 1_000_000})  # tens of terabytes
    code, words = refusal("tune")
    assert code == 4
    assert words == (
        "out of memory: set tune.recompute to full, set memory.dtype and tune.mixed_precision to bf16, "
        "set memory.vae_frames to 1, set memory.offload to true, set memory.attention_frames to 1, "
        "lower clip.size or clip.num_frames"
    )


def test_out_of_memory_names_only_what_is_not_set_yet(refusal, set_params):
    memory = {"memory.dtype": "bf16", "memory.vae_frames": 1, "memory.offload": True, "memory.attention_frames": 1}
    set_params({"clip.size": 1_000_000, "tune.mixed_precision": "bf16", "tune.recompute": "full"} | memory)
    assert refusal("tune") == (4, "out of memory: lower clip.size or clip.num_frames")


def test_less_memory_gives_the_same_clip(workplace, set_params):
    for verb in ("tune", "invert", "edit"):
        assert main([verb]) == 0
    edited = read_frames("results/edit/square/object")
    set_params({"memory.vae_frames": 1, "memory.offload": True, "memory.attention_frames": 1})
    set_params({"tune.recompute": "full"})
    for verb in ("tune", "invert", "edit"):
        assert main([verb]) == 0
    assert (read_frames("results/edit/square/object") - edited).abs().max() <= 2 / 255


def test_frozen_weights_in_half_precision_go_through_all_stages_and_need_mixed_precision(refusal, set_params):
    set_params({"memory.dtype": "bf16"})
    code, words = refusal("tune")
    assert code == 2 and "mixed_precision fp16 or bf16" in words
    set_params({"tune.mixed_precision": "bf16"})
    for verb in ("tune", "invert", "edit"):
        assert main([verb]) == 0
    assert len(read_frames("results/edit/square/object")) == 4


def test_settings_that_change_while_a_stage_runs_are_refused(refusal, monkeypatch):
    """DVC records the settings as they are at the end, so that these results would be filed under the wrong ones."""
    monkeypatch.setattr("studies.inputs.inputs", lambda params: set_seed(4))
    assert refusal("inputs") == (2, "params.yaml changed while inputs was running (tune): run it again")


def set_seed(seed: int) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"seed: \d+", f"seed: {seed}", text))


def test_what_a_run_is_made_from_is_noted_by_digest(workplace, set_params):
    def noted() -> dict[str, bytes]:
        assert main(["inputs"]) == 0
        return files("results/inputs")

    first = noted()
    assert set(first) == {"models.json", "clips.json", "objects.json"}
    set_params({"clips.square.edits.style": "a drawing", "edit.steps": 9})
    assert noted() == first
    Path("elsewhere").mkdir()
    Path("elsewhere/weights.bin").touch()
    assert noted() == first
    with open("square.mp4", "ab") as file:
        file.write(b"more")
    second = noted()
    assert second["models.json"] == first["models.json"] and second["clips.json"] != first["clips.json"]
    shutil.copytree("models/tiny", "models/other")
    set_params({"model": "models/other"})
    with open("models/other/unet/config.json", "a") as file:
        file.write("\n")
    assert noted()["models.json"] != second["models.json"]
