"""The ways in from diffusers: a custom pipeline, and a script with the flags of its training examples."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from tav import load_pipeline, tune
from tav.clip import read_clip
from tests import tiny

FOLDER = Path(__file__).parents[2] / "examples/diffusers"
SCRIPT = FOLDER / "train_tune_a_video.py"


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True)


def test_a_custom_pipeline_tunes_and_samples_as_the_library_does(tiny_model):
    pipe = DiffusionPipeline.from_pretrained(
        tiny_model, custom_pipeline=str(FOLDER), num_frames=4, seed=3, trust_remote_code=True
    )
    ours = load_pipeline(tiny_model, num_frames=4, seed=3)
    clip, settings = tiny.moving_square(4), {"steps": 2, "learning_rate": 1e-3}
    assert list(pipe.tune(clip, "a square", **settings)) == list(tune(ours, clip, "a square", **settings))
    noise = torch.randn(4, 4, 8, 8)
    frames = [p("a circle", noise, num_inference_steps=2, output_type="pt").frames for p in (pipe, ours)]
    assert torch.equal(*frames)
    assert pipe.config.num_frames == 4


def test_the_script_tunes_goes_on_and_writes_a_clip_a_prompt(workplace):
    flags = ["--pretrained_model_name_or_path", "models/tiny", "--train_video", "square.mp4", "--prompt", "a square"]
    flags += ["--resolution", "32", "--num_frames", "4", "--num_inference_steps", "2", "--output_dir", "out"]
    done = run(*flags, "--validation_prompt", "a circle", "--max_train_steps", "2", "--checkpointing_steps", "1")
    assert done.returncode == 0, done.stderr
    assert Path("out/tuned.safetensors").is_file()
    assert read_clip("out/validation-0.mp4", 4, 32).shape == (4, 3, 32, 32)


@pytest.mark.parametrize(("flag", "value", "line"), [("--train_video", "none.mp4", "none.mp4 does not exist"),
                                                     ("--num_frames", "40", "square.mp4 has 6 frames")])  # fmt: skip
def test_bad_flags_are_refused_in_a_line(workplace, flag, value, line):
    flags = {"--pretrained_model_name_or_path": "models/tiny", "--train_video": "square.mp4", "--prompt": "a square"}
    done = run(*(word for pair in (flags | {flag: value}).items() for word in pair), "--output_dir", "out")
    assert done.returncode == 2 and line in done.stderr.splitlines()[-1]
