"""Stable Diffusion v1-4 at its full size, with random weights: the seconds and the peak memory of every step on a clip.

    python -m benchmarks.full_size clip.mp4                                         # a CPU: 4 frames of 128x128
    python -m benchmarks.full_size clip.mp4 --device cuda --frames 24 32 --size 512  # a GPU: every speed option

What a step costs depends on the architecture and on the clip's size, not on the weights: without any that can be
fetched, the model is drawn, saved as the Hub has it, and loaded as any other. Every step runs in a process of its own,
so that its peak memory is its own, and goes on from what the one before it saved. A step that is already in
benchmarks/results/full-size-DEVICE.csv is not measured again.
"""

import argparse
import gzip
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.cost import RESULTS, alone, machine, peak_memory, reset_peak_memory, synchronize
from measures.conditions import edges
from studies.models import load_model
from studies.results import replacing
from studies.settings import Params, load_params
from tav import interrupt
from tav.checkpoint import load_tuned, read_safetensors, save_tuned
from tav.clip import read_clip
from tav.control import load_control, sample_controlled
from tav.errors import InputError, NumericalError
from tav.tune import tune

STEPS = ("load", "tune", "invert", "edit", "edit with edges")
CAPTION, PROMPT = "a man is skiing", "a panda is skiing on the beach"
LEARNING_RATE, GUIDANCE_SCALE = 3e-5, 12.5  # the paper's
V1_4 = {  # where it is not the default of its class
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}
LEAN = {"tune": {"recompute": "lean"}}
BF16 = {"memory": {"dtype": "bf16"}, "tune": LEAN["tune"] | {"mixed_precision": "bf16"}}
MODES = {  # what is changed in params.yaml or, of what it has no setting for, in the process
    "float32": {"tune": {"recompute": "none"}},
    "lean": LEAN,
    "tf32": LEAN | {"tf32": True},
    "contiguous": LEAN | {"channels_last": False},
    "checkpointing": {"tune": {"recompute": "full"}},
    "bf16": BF16 | {"tune": BF16["tune"] | {"recompute": "none"}},
    "bf16-lean": BF16,
    "bf16-contiguous": BF16 | {"channels_last": False},
    "bf16-checkpointing": BF16 | {"tune": BF16["tune"] | {"recompute": "full"}},
    "low-memory": {
        "memory": {"dtype": "bf16", "vae_frames": 1, "attention_frames": 1, "offload": True},
        "tune": BF16["tune"] | {"recompute": "full"},
    },
}


def save_model(folder: Path, config: dict[str, dict] | None = None) -> None:
    """Writes Stable Diffusion v1-4 with random weights, and in controlnet/ a ControlNet of it, in diffusers format.

    config: settings over those of `V1_4`, by the folder of their part, such as {"unet": {"layers_per_block": 1}}.
    A folder that holds such a model is left as it is; raises InputError for one that holds anything else.
    """
    if (folder / "model_index.json").exists():
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something that is no model: give another --folder")
    config = {part: settings | (config or {}).get(part, {}) for part, settings in V1_4.items()}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**config["unet"])
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(**config["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
        tokenizer=build_tokenizer(),
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with replacing(folder) as partial:
        pipe.save_pretrained(partial)
        ControlNetModel.from_unet(unet).save_pretrained(partial / "controlnet")


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair encoding of 49,408 words, which open_clip ships."""
    lines = gzip.open(open_clip.tokenizer.default_bpe(), "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]  # after them come lines it does not read
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def settings(model: Path, device: str, frames: int, size: int, mode: str, steps: int, tune_steps: int) -> Params:
    """params.yaml with another model, clip and number of steps, the paper's rate and guidance, and a mode's changes."""
    params = load_params().model_copy(update={"model": str(model), "device": device})
    sections = {name: values for name, values in MODES[mode].items() if isinstance(values, dict)}
    params = params.changed(**sections)
    return params.changed(
        clip={"num_frames": frames, "size": size},
        tune={"steps": tune_steps, "learning_rate": LEARNING_RATE},
        invert={"steps": steps},
        edit={"steps": steps, "guidance_scale": GUIDANCE_SCALE},
    )


def load(params: Params, mode: str):
    """The model of these settings, with what a mode changes in the process; torch's default is no TF32 in products."""
    if MODES[mode].get("tf32"):
        torch.set_float32_matmul_precision("high")
    pipe = load_model(params)
    if not MODES[mode].get("channels_last", True):
        pipe.unet.to(memory_format=torch.contiguous_format)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(params: Params) -> Tensor:
    """A clip f 3 h w in [-1, 1] of a ramp that moves."""
    ramp = torch.linspace(-1, 1, params.clip.size).expand(3, params.clip.size, params.clip.size)
    return torch.stack([ramp.roll(index, -1) for index in range(params.clip.num_frames)])


def measure(step: str, params: Params, mode: str, clip: str, work: Path) -> dict:
    """Runs a step and says what it cost: seconds, seconds of its median UNet step, memory before it and at its peak."""
    start = time.perf_counter()
    pipe = load(params, mode)
    synchronize()
    parameters = sum(weight.numel() for weight in pipe.unet.parameters())
    cost = {"million parameters": round(parameters / 1e6, 1), "dtype": params.memory.dtype}
    if step == "load":
        return cost | {"seconds": time.perf_counter() - start, "peak GB": peak_memory()}
    frames = read_clip(clip, params.clip.num_frames, params.clip.size) if clip != "drawn" else drawn(params)
    held, laps = reset_peak_memory(), [time.perf_counter()]

    def lap(*_):
        synchronize()
        laps.append(time.perf_counter())

    run(step, pipe, params, frames, work, lap)
    synchronize()
    seconds = np.diff(laps)[1:] if len(laps) > 2 else np.diff(laps)  # the first step is slower
    cost |= {"seconds": time.perf_counter() - laps[0], "seconds per step": statistics.median(seconds)}
    return cost | {"held GB": held, "peak GB": peak_memory()}


def run(step: str, pipe, params: Params, clip: Tensor, work: Path, lap: Callable) -> None:
    """A step of the method on a clip f 3 h w in [-1, 1], from and into the files of `work`; `lap` after UNet steps."""
    if step == "tune":
        for _ in tune(pipe, clip, CAPTION, **params.tune.arguments()):
            lap()
        save_tuned(pipe, work / "tuned.safetensors")
        return
    load_tuned(pipe, work / "tuned.safetensors")
    pipe.unet.register_forward_hook(lap)
    if step == "invert":
        result = pipe.invert(pipe.encode_clip(clip), params.invert.steps)
        save_file({"noise": result.cpu().contiguous()}, work / "inverted.safetensors")
    else:
        noise = read_safetensors(work / "inverted.safetensors")["noise"]
        sampling = {"guidance_scale": params.edit.guidance_scale}
        if step == "edit":
            result = pipe(PROMPT, noise, params.edit.steps, **sampling, output_type="pt").frames
        else:
            control = load_control(Path(params.model) / "controlnet", pipe)
            condition = edges((clip + 1) / 2)
            result = sample_controlled(pipe, control, condition, PROMPT, noise, params.edit.steps, **sampling)
    if not result.isfinite().all():
        raise NumericalError(f"{step} left the finite numbers")


def results(kind: str, device: str, folder: Path | None = None) -> tuple[Path, dict]:
    """The file of this machine's rows of a kind, and the columns that say what measured them."""
    found = machine(device)
    name = re.sub(r"[^A-Za-z0-9]+", "-", found["device"]).strip("-")
    return (folder or RESULTS) / f"{kind}-{name}.csv", {key: found[key] for key in ("backend", "device", "torch")}


def once(file: Path, key: dict, again: bool, function: Callable, *arguments) -> dict:
    """A row of `file` by its key: if it is not there, measured in a process of its own and written at once.

    Where memory does not suffice the row has no numbers.
    """
    rows = recorded(file)
    if key_rows := [row for row in rows if of_key(row, key)]:
        if not again:
            return key_rows[0]
    row = key | (alone(function, *arguments) or {})
    print(
        ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
    )
    write_rows(file, [row for row in rows if not of_key(row, key)] + [row])
    return row


def write_rows(file: Path, rows: list[dict], digits: int = 4) -> None:
    """Writes the rows of a file, whole or not at all."""
    unfinished = file.with_suffix(".partial")
    file.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(unfinished, index=False, float_format=f"%.{digits}g")
    os.replace(unfinished, file)


def recorded(file: Path) -> list[dict]:
    return pd.read_csv(file).to_dict("records") if file.exists() else []


def of_key(row: dict, key: dict) -> bool:
    return all(row.get(name) == value for name, value in key.items())


def full_size(params: Params, mode: str, clip: str, again: bool) -> None:
    """Measures the steps of one mode on one clip that are not there yet; their files go when all of them are."""
    file, what = results("full-size", params.device)
    what |= {"clip": Path(clip).stem, "frames": params.clip.num_frames, "size": params.clip.size, "mode": mode}
    work = Path(params.model) / "run" / f"{mode}-{params.clip.num_frames}x{params.clip.size}"
    steps = {"load": 1, "tune": params.tune.steps, "invert": params.invert.steps}
    keys = {step: what | {"step": step, "steps": steps.get(step, params.edit.steps)} for step in STEPS}
    rows = recorded(file)
    if all(any(of_key(row, key) for row in rows) for key in keys.values()) and not again:
        return
    again = again or not work.exists()  # a later step needs the files of those before it
    work.mkdir(parents=True, exist_ok=True)
    for step, key in keys.items():
        if pd.isna(once(file, key, again, measure, step, params, mode, clip, work).get("peak GB")):
            return  # without this step there is nothing to go on from
    shutil.rmtree(work)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", default="drawn", help="a video or a folder of frames, else drawn")
    add_options(parser)
    parser.add_argument("--frames", nargs="+", type=int, default=[4])
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=3, help="of inversion and of sampling")
    parser.add_argument("--tune-steps", type=int, default=2)
    options = parser.parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        save_model(options.folder)
        for frames in options.frames:
            for mode in options.modes or (MODES if device == "cuda" else ["lean"]):
                steps = {"steps": options.steps, "tune_steps": options.tune_steps}
                params = settings(options.folder, device, frames, options.size, mode, **steps)
                full_size(params, mode, options.clip, options.again)
    except (InputError, NumericalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that this benchmark and that of memory share."""
    parser.add_argument("--folder", type=Path, default=Path(".state/full-size"), help="of the model (6 GB)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
