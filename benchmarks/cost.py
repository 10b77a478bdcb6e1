"""What the method costs: seconds and peak memory of its steps, and how they grow with frames, pixels and attention.

    python -m benchmarks.cost              # the stage `cost`: the settings of params.yaml, into results/cost
    python -m benchmarks.cost --options    # its steps with each speed option, into benchmarks/results

Every configuration runs in a process of its own, so that its peak memory is its own. The clip is a drawn one of
params.yaml's frames and pixels, because the cost of a step does not depend on what a clip shows.
"""

import argparse
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import torch
from diffusers.models.attention_processor import Attention
from torch.utils.flop_counter import FlopCounterMode

from studies.command import ended
from studies.digests import digest_of_model
from studies.machine import chosen_device
from studies.models import load_model
from studies.results import replacing
from studies.settings import Params, load_params
from studies.stages import collect
from studies.store import Store
from tav import interrupt
from tav.clip import read_clip, write_clip
from tav.errors import InputError
from tav.model import ATTENTION, ClipAttnProcessor
from tav.tune import tune

LAPS, DROPPED = 6, 2  # timed, and run before them: the first ones are slower
STEPS = ("reading", "encoding", "tuning step", "inversion step", "sampling step", "decoding")
COMPARED = ("sparse-causal", "full")  # kinds of attention whose tuning step is measured as it grows
FRAMES, SIDES = (1 / 4, 1 / 2, 1, 2, 4), (1 / 2, 3 / 4, 1, 3 / 2, 2)  # of clip.num_frames and clip.size
LARGEST = 2**17  # pixels of all frames; beyond, nothing is measured that is larger than the clip of params.yaml
CHANNELS, HEADS = 320, 8  # the first level of Stable Diffusion
LAYER_FRAMES = (2, 4, 8, 16, 24)  # of one attention layer, up to three times clip.num_frames
LAYER_SIDE = {"cpu": 16, "mps": 16, "cuda": 64}  # the side of its square of tokens, at most; 64 at 512 pixels
FITTED = 3  # the largest frame counts, where what does not grow weighs least
RESULTS = Path(__file__).parent / "results"
OPTIONS = {  # what is changed in the pipeline as it is loaded; every one for itself
    "default": {},
    "channels_last": {"channels_last": True},
    "GroupNorm per frame": {"inflate": {"norm": "frame"}},
    "without T-Attn": {"inflate": {"temporal": False}},
    **{f"{kind} attention": {"inflate": {"attention": kind}} for kind in ATTENTION if kind != "sparse-causal"},
    **{f"recompute {what}": {"tune": {"recompute": what}} for what in ("lean", "feed-forward", "full")},
    "bf16": {"tune": {"mixed_precision": "bf16"}, "dtype": torch.bfloat16},
    "bf16, channels_last": {"tune": {"mixed_precision": "bf16"}, "dtype": torch.bfloat16, "channels_last": True},
}


def cost(params: Params, folder: Path) -> None:
    """Writes steps.csv, tuning.csv, attention.csv and cost.json, which holds the machine and the fitted exponents."""
    steps = {step: must(alone(measure, step, params)) for step in STEPS}
    machine = steps["reading"].pop("machine")
    loading = statistics.median(found["loading"] for found in steps.values())
    times = {
        "tuning step": params.tune.steps,
        "inversion step": params.invert.steps,
        "sampling step": params.edit.steps,
    }
    rows = [{"step": "loading the model", "seconds": loading, "times": 1}]
    rows += [{"step": step, **summary(found), "times": times.get(step, 1)} for step, found in steps.items()]
    pd.DataFrame(rows).to_csv(folder / "steps.csv", index=False, float_format="%.6g")
    tuning, growth = tuning_growth(params)
    tuning.to_csv(folder / "tuning.csv", index=False, float_format="%.6g")
    layer, layer_growth = attention_growth(machine["backend"], params)
    layer.to_csv(folder / "attention.csv", index=False, float_format="%.6g")
    record = machine | {"model": params.model, "clip": shape(params), "laps": LAPS}
    record |= {"channels": CHANNELS, "heads": HEADS, "exponents": growth | layer_growth}
    (folder / "cost.json").write_text(json.dumps(record, indent=2) + "\n")


def needs(params: Params) -> dict:
    """What the cost depends on: the settings, the model and the machine."""
    read = {"inflate", "clip", "tune", "memory", "invert", "edit"}
    model = digest_of_model(params.model), digest_of_model(params.lora)
    return params.model_dump(mode="json", include=read) | {"model": model, "machine": machine(chosen_device(params))}


def tuning_growth(params: Params) -> tuple[pd.DataFrame, dict]:
    """A tuning step over frames and over pixels, by kind of attention; what memory does not suffice for is left out."""
    found, largest = {}, max(LARGEST, math.prod(shape(params)))
    for kind in COMPARED:
        chosen = params.changed(inflate={"attention": kind})
        grown = [scaled(chosen, frames=factor) for factor in FRAMES] + [scaled(chosen, side=factor) for factor in SIDES]
        for settings in (settings for settings in grown if math.prod(shape(settings)) <= largest):
            if (kind, *shape(settings)) not in found:
                found[kind, *shape(settings)] = alone(measure, "tuning step", settings)
    found = {key: measured for key, measured in sorted(found.items()) if measured}
    names = ("attention", "frames", "height", "width")
    table = pd.DataFrame([dict(zip(names, key, strict=True)) | summary(measured) for key, measured in found.items()])
    growth = {}
    for kind in COMPARED:
        series = {
            key[1]: measured for key, measured in found.items() if (key[0], *key[2:]) == (kind, *shape(params)[1:])
        }
        growth |= {f"{what}, tuning step, {kind}": values for what, values in fits(series).items()}
    return table, growth


def attention_growth(backend: str, params: Params) -> tuple[pd.DataFrame, dict]:
    """One self-attention layer over frames, by kind of attention: seconds, memory and counted multiply-adds."""
    frames, *sides = shape(params)
    tokens = min(LAYER_SIDE[backend], *(side // 2 for side in sides)) ** 2
    counts = [count for count in LAYER_FRAMES if count <= max(4, 3 * frames)]
    grid = [(kind, frames) for kind in ATTENTION for frames in counts]
    seconds = must(alone(attend, backend, grid, tokens, LAPS))["seconds"]
    found = {at: must(alone(attend, backend, [at], tokens, 0)) | {"seconds": seconds[at]} for at in grid}
    rows = [
        {"attention": kind, "frames": frames, "tokens": tokens, **summary(measured)}
        | {"multiply-adds": multiply_adds(kind, frames, tokens)}
        for (kind, frames), measured in found.items()
    ]
    growth = {}
    for kind in ATTENTION:
        series = {frames: measured for (other, frames), measured in found.items() if other == kind}
        growth |= {f"{what}, attention layer, {kind}": values for what, values in fits(series).items()}
    return pd.DataFrame(rows), growth


def measure(step: str, params: Params, channels_last: bool = True, dtype: torch.dtype = torch.float32) -> dict:
    """Seconds of each lap of a step and of loading the model; memory in GB before the step and at its peak."""
    start = time.perf_counter()
    pipe = load_model(params)
    loading = time.perf_counter() - start
    if not channels_last:
        pipe.unet.to(memory_format=torch.contiguous_format)
    if dtype != torch.float32 and step != "tuning step":  # which casts by itself
        pipe.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    before, times = reset_peak_memory(), []

    def lap(*_):
        synchronize()
        times.append(time.perf_counter())

    repeat(step, pipe, params, LAPS + DROPPED, lap)
    return {
        "seconds": np.diff(times)[DROPPED - 1 :].tolist(),
        "loading": loading,
        "before": before,
        "peak": peak_memory(),
        "machine": machine(pipe.device.type),
    }


def repeat(step: str, pipe, params: Params, count: int, lap: Callable) -> None:
    """Runs a step `count` times and calls `lap` after each."""
    frames, height, width = shape(params)
    ramp = torch.linspace(-1, 1, width).expand(3, height, width)
    clip = torch.stack([ramp.roll(index, -1) for index in range(2 * frames)])
    latents = pipe.encode_clip(clip[:frames])
    if step == "tuning step":
        for _ in tune(pipe, clip[:frames], "a clip", **params.tune.arguments() | {"steps": count}):
            lap()
    elif step == "inversion step":
        pipe.unet.register_forward_hook(lap)
        pipe.invert(latents, count)
    elif step == "sampling step":
        pipe.unet.register_forward_hook(lap)
        pipe("an edit", latents, count, guidance_scale=params.edit.guidance_scale, output_type="latent")
    else:
        with TemporaryDirectory() as folder:
            write_clip(f"{folder}/clip.mp4", (clip + 1) / 2)
            run = {
                "reading": lambda: read_clip(f"{folder}/clip.mp4", frames, (height, width), stride=2),
                "encoding": lambda: pipe.encode_clip(clip[:frames]),
                "decoding": lambda: pipe.decode_clip(latents),
            }[step]
            for _ in range(count):
                run()
                lap()


def attend(device: str, grid: list[tuple[str, int]], tokens: int, laps: int) -> dict:
    """Seconds of one self-attention layer by (kind, frames), lap by lap over the whole grid; memory as in `measure`.

    The forward pass alone. Everything runs once before the timed laps.
    """
    torch.manual_seed(0)
    layers = {(kind, frames): attention_layer(kind, frames).to(device) for kind, frames in grid}
    clips = {frames: torch.randn(frames, tokens, CHANNELS, device=device) for _, frames in grid}
    seconds, before = {at: [] for at in grid}, reset_peak_memory()
    with torch.no_grad():
        for _ in range(laps + 1):
            for at, layer in layers.items():
                synchronize()
                start = time.perf_counter()
                layer(clips[at[1]])
                synchronize()
                seconds[at].append(time.perf_counter() - start)
    return {"seconds": {at: found[1:] for at, found in seconds.items()}, "before": before, "peak": peak_memory()}


def multiply_adds(kind: str, frames: int, tokens: int) -> int:
    """Multiply-adds of QK^T and AV in one self-attention layer, counted while it runs without numbers."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        attention_layer(kind, frames)(torch.empty(frames, tokens, CHANNELS))
    return counter.get_flop_counts()["Global"][torch.ops.aten.bmm] // 2  # projections are no batched products


def attention_layer(kind: str, frames: int) -> Attention:
    """A self-attention layer of Stable Diffusion's first level, as `inflate` leaves it."""
    layer = Attention(CHANNELS, heads=HEADS, dim_head=CHANNELS // HEADS)
    if kind != "own":
        layer.set_processor(ClipAttnProcessor(frames, kind))
    return layer


def fits(series: dict[int, dict]) -> dict[str, list[float]]:
    """The exponents of seconds, one per lap, and of memory over the largest frame counts; {} of fewer than two."""
    frames = sorted(series)[-FITTED:]
    if len(frames) < 2:
        return {}
    memory = [max(series[count]["peak"] - series[count]["before"], 1e-6) for count in frames]
    seconds = exponents(frames, [series[count]["seconds"] for count in frames])
    return {"seconds": seconds, "memory": exponents(frames, [[value] for value in memory])}


def exponents(sizes: list, values: list) -> list[float]:
    """The power of `sizes` that each column of `values` (sizes x repeats) grows with: least squares on both logs."""
    return np.polyfit(np.log(sizes), np.log(values), 1)[0].round(4).tolist()


def summary(measured: dict) -> dict:
    """The columns of a table: median seconds, peak memory, and how much of it the step itself takes."""
    own = measured["peak"] - measured["before"]
    return {"seconds": statistics.median(measured["seconds"]), "peak GB": measured["peak"], "own GB": own}


def scaled(params: Params, frames: float = 1, side: float = 1) -> Params:
    """These settings with a multiple of their frames or, in eights, of their sides in pixels."""
    count, *sides = shape(params)
    size = params.clip.size if side == 1 else tuple(max(8, round(side * length / 8) * 8) for length in sides)
    return params.changed(clip={"num_frames": max(1, round(frames * count)), "size": size})


def shape(params: Params) -> tuple[int, int, int]:
    """Frames, height and width of a clip."""
    size = params.clip.size
    return params.clip.num_frames, *((size, size) if isinstance(size, int) else size)


def alone(function: Callable, *arguments):
    """What a function returns in a process of its own; None where memory does not suffice."""
    if torch.cuda.is_available():  # what is imported may have touched the GPU, and CUDA cannot be forked then
        context = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "studies.models", "pandas"])  # imported once, not in every process
    with interrupt.unwinding(), ProcessPoolExecutor(1, context, interrupt.end_with_parent) as process:
        with interrupt.held():  # else it may come when there is a process that nobody knows yet
            future = process.submit(function, *arguments)
        try:
            return future.result()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, BrokenProcessPool) or "memory" in str(error).lower():  # killed, or refused
                return None
            raise
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # which would be waited for
                child.kill()
            raise


def must(measured: dict | None) -> dict:
    if measured is None:
        raise InputError("memory does not suffice for the settings of params.yaml: lower clip.size or clip.num_frames")
    return measured


def reset_peak_memory() -> float:
    """Forgets the peak so far, such as that of loading a model, where that can be done; what is held now, in GB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """Peak memory of this process so far: the GPU's where it is used, else resident, in GB."""
    if torch.cuda.is_available() and torch.cuda.memory_reserved():
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def machine(backend: str) -> dict:
    """What ran: backend (cpu or cuda), device, threads and torch's version."""
    threads = torch.get_num_threads()
    if backend == "cuda":
        device = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        names = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line]
        device = f"{threads} threads of {names[0] if names else platform.processor()}"
    return {"backend": backend, "device": device, "threads": threads, "torch": torch.__version__}


def compare_options(params: Params) -> None:
    """Writes benchmarks/results/<device>-<model>-<frames>x<size>.json: the three steps of each option, and a table."""
    rows, (frames, height, width) = {}, shape(params)
    for name, option in OPTIONS.items():
        sections = {key: option[key] for key in ("inflate", "tune") if key in option}
        how = (params.changed(**sections), option.get("channels_last", False), option.get("dtype", torch.float32))
        steps = {step: must(alone(measure, step, *how)) for step in ("tuning step", "inversion step", "sampling step")}
        seconds = {step: round(statistics.median(found["seconds"]), 5) for step, found in steps.items()}
        rows[name] = {
            "tuning step, s": seconds["tuning step"],
            "peak while tuning, GB": round(steps["tuning step"]["peak"], 3),
            "inversion step, s": seconds["inversion step"],
            "sampling step with guidance, s": seconds["sampling step"],
            "peak, GB": round(max(found["peak"] for found in steps.values()), 3),
        }
        print(name, rows[name], flush=True)
    found = steps["tuning step"]["machine"]
    record = {"device": found["device"], "torch": found["torch"], "model": params.model}
    record |= {"frames": frames, "size": params.clip.size, "steps": LAPS, "options": rows}
    size = height if height == width else f"{height}x{width}"
    title = f"{found['device']}-{Path(params.model).name}-{frames}x{size}".replace(" ", "-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{title}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(pd.DataFrame(rows).T.to_string())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--options", action="store_true", help="compare the speed options instead")
    options = parser.parse_args()
    return ended(lambda: compare_options(load_params()) if options.options else measure_cost(load_params()))


def measure_cost(params: Params) -> None:
    """Measures what the steps of params.yaml cost, into results/cost."""
    with replacing(Path("results/cost")) as folder:
        collect(Store().take("cost", needs(params), (cost, load_model), partial(cost, params)), folder)
    if load_params() != params:  # DVC would file it under the new ones
        raise InputError("params.yaml changed while the cost was measured: run it again")


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
