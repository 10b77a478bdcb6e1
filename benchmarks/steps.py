"""Seconds and peak memory of a tuning step, an inversion step and a sampling step, for each speed option.

    python benchmarks/steps.py models/miniature --frames 8 --size 64

Every option runs in a process of its own, so that its peak memory is its own. Results are written to
benchmarks/results/<device>-<model>-<frames>x<size>.json and printed as a table.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from pathlib import Path

import pandas
import torch

from tav import load_pipeline, tune
from tav.model import ATTENTION

RESULTS = Path(__file__).parent / "results"
OPTIONS = {
    "default": {},
    "channels_last": {"channels_last": True},
    "GroupNorm per frame": {"norm": "frame"},
    "without T-Attn": {"temporal": False},
    **{f"{kind} attention": {"attention": kind} for kind in ATTENTION if kind != "sparse-causal"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "bf16": {"mixed_precision": "bf16"},
    "bf16, channels_last": {"mixed_precision": "bf16", "channels_last": True},
}


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    return f"{torch.get_num_threads()} threads of {names[0] if names else platform.processor()}"


def peak_memory() -> float:
    """Peak memory of this process so far: the GPU's where there is one, else resident, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(model: str, frames: int, size: int, steps: int, option: dict) -> dict:
    """Median seconds of a step of each kind, the first two of them left out, and the peak memory up to there."""
    option = dict(option)
    training = {key: option.pop(key) for key in ("gradient_checkpointing", "mixed_precision") if key in option}
    channels_last = option.pop("channels_last", False)
    pipe = load_pipeline(model, num_frames=frames, **option).to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    if channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
    clip = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1

    times = []

    def lap(*_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    def median() -> float:
        laps = [later - earlier for earlier, later in zip(times[1:], times[2:], strict=False)]
        times.clear()
        return round(statistics.median(laps), 5)

    figures = {}
    for _ in tune(pipe, clip, "a clip", steps=steps + 2, **training):
        lap()
    figures["tuning step, s"] = median()
    figures["peak while tuning, GB"] = round(peak_memory(), 3)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(training.get("mixed_precision"))
    pipe.to(half or torch.float32)
    latents = pipe.encode_clip(clip)
    hook = pipe.unet.register_forward_hook(lap)
    noise = pipe.invert(latents, num_inference_steps=steps + 2)
    figures["inversion step, s"] = median()
    pipe("an edit", latents=noise, num_inference_steps=steps + 2, output_type="latent")
    figures["sampling step with guidance, s"] = median()
    hook.remove()
    figures["peak, GB"] = round(peak_memory(), 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder or a Hub id")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each kind")
    parser.add_argument("--only", choices=OPTIONS, nargs="+", default=list(OPTIONS))
    args = parser.parse_args()
    rows = {}
    for name in args.only:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            job = (args.model, args.frames, args.size, args.steps, OPTIONS[name])
            rows[name] = process.apply(measure, job)
        print(name, rows[name], flush=True)
    title = f"{device_name()}-{Path(args.model).name}-{args.frames}x{args.size}".replace(" ", "-")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "device": device_name(),
        "torch": torch.__version__,
        "model": args.model,
        "frames": args.frames,
        "size": args.size,
        "steps": args.steps,
        "options": rows,
    }
    (RESULTS / f"{title}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(pandas.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
