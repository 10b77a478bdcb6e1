"""What a run at paper scale takes on a GPU that nobody has measured here: computed, and written into README.md as such.

    python -m benchmarks.expected DEVICE     # the files of benchmarks/results to take; writes the tables of README.md

Time is operations over speed. Operations are counted on Stable Diffusion v1-4's inflated UNet without weights. Speed is
a GPU's published peak in half precision times the share of it that the paper's own run reached: 500 tuning steps of 32
frames in ten minutes on an A100 (section 5.1), which trained with checkpointing. Memory is the line that
benchmarks/memory.py draws through its rows. The VAE, CLIP and files are not counted.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import memory
from benchmarks.full_size import RESULTS, V1_4
from publish.marks import write_marked
from tav.errors import InputError
from tav.model import inflate

GPUS = {  # GB; published peak of dense half-precision products with float32 sums, TFLOP/s
    "RTX 3060": (12, 25.6),
    "RTX 3090": (24, 71),
    "RTX 4090": (24, 165),
    "A100": (40, 312),
    "A100, 80 GB": (80, 312),
    "H100": (80, 989),
    "H200": (141, 989),
}
PAPER = {"gpu": "A100", "frames": 32, "steps": 500, "seconds": 600}  # section 5.1
RESERVE = 1.0  # GB for the CUDA context and the allocator
MODES = {  # the fastest first: what README calls them, and whether they use checkpointing
    "bf16": ("half precision", False),
    "low-memory": ("low memory", True),
}
STEPS, FITTED = 50, ("tuning", "sampling")
FRAMES = 12, 24, 32  # of params/demo-12gb.yaml, params/demo.yaml and params/paper.yaml


def operations(frames: int, size: int = 512) -> dict[str, float]:
    """Floating-point operations of one forward pass of a clip, and of a tuning step with and without checkpointing."""
    with torch.device("meta"):
        unet = inflate(UNet2DConditionModel(**V1_4["unet"]), frames)
        inputs = torch.empty(frames, 4, size // 8, size // 8), torch.tensor(0), torch.empty(frames, 77, 768)
    counted = {}
    for name in ("forward", "tuning", "tuning with checkpointing"):
        if "checkpointing" in name:
            unet.enable_gradient_checkpointing()
            unet.train()
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(name != "forward"):
            predicted = unet(*inputs).sample
            if name != "forward":
                predicted.sum().backward()
        counted[name] = float(counter.get_total_flops())
    return counted


def share(count: dict[str, float]) -> float:
    """The share of its GPU's peak that the paper's run reached; `count`: the operations at its number of frames."""
    wanted = count["tuning with checkpointing"] * PAPER["steps"]
    return wanted / PAPER["seconds"] / (GPUS[PAPER["gpu"]][1] * 1e12)


def table(rows: pd.DataFrame) -> str:
    """Markdown: for every GPU and for the frames of demo and paper the first mode that fits, its memory and times."""
    lines = ["| GPU | clip | mode | memory | tuning, 500 steps | inversion | an edit |", "|---" * 7 + "|"]
    fits = {key: memory.line(part) for key, part in rows.dropna(subset="peak GB").groupby(["mode", "step"])}
    if missing := [mode for mode in MODES for step in FITTED if not fits.get((mode, step))]:
        raise InputError(f"too few rows of {missing[0]}: run benchmarks/memory.py --modes {missing[0]}")
    counts = {frames: operations(frames) for frames in FRAMES}
    used = share(counts[PAPER["frames"]])
    peaks = {
        frames: {m: max(a + b * frames * 512**2 for a, b in (fits[m, s] for s in FITTED)) for m in MODES}
        for frames in FRAMES
    }
    for gpu, (space, peak) in GPUS.items():
        for frames, count in counts.items():
            if frames < 24 and space > 12:
                continue  # more frames fit
            speed = used * peak * 1e12
            mode = next((mode for mode in MODES if peaks[frames][mode] + RESERVE <= space), None)
            name = gpu if "GB" in gpu else f"{gpu}, {space} GB"
            if not mode:
                lines.append(f"| {name} | {frames} frames | none fits | {min(peaks[frames].values()):.0f} GB | | | |")
                continue
            words, checkpointing = MODES[mode]
            tuning = count["tuning with checkpointing" if checkpointing else "tuning"] * 500 / speed
            times = (tuning, count["forward"] * STEPS / speed, 2 * count["forward"] * STEPS / speed)
            cells = [f"{s / 60:.0f} min" if s >= 100 else f"{s:.0f} s" for s in times]
            lines.append(f"| {name} | {frames} frames | {words} | {peaks[frames][mode]:.0f} GB | {' | '.join(cells)} |")
    count = counts[PAPER["frames"]]
    note = (
        f"All of it **computed**, by benchmarks/expected.py: {count['forward'] / 1e12:.0f} TFLOP for a pass of 32 "
        f"frames of 512x512 and {count['tuning with checkpointing'] / 1e12:.0f} for a tuning step with checkpointing, "
        f"at the {used:.0%} of the published peak that the paper's ten minutes on an A100 mean; memory by the line "
        f"through the largest sizes measured on a CPU. A mode is taken if it leaves {RESERVE:g} GB."
    )
    return "\n".join([*lines, "", note, ""])


def steps_table(rows: pd.DataFrame) -> str:
    """Markdown: what every step took at full size, measured by benchmarks/full_size.py."""
    lines = ["| step | UNet steps | seconds | seconds of a step | peak memory |", "|---" * 5 + "|"]
    for row in rows.itertuples():
        each = "" if pd.isna(row.each) else f"{row.each:.1f}"
        lines.append(f"| {row.step} | {row.steps} | {row.seconds:.1f} | {each} | {row.peak:.1f} GB |")
    first = rows.iloc[0]
    clip = f"{first['frames']} frames of {first['size']}x{first['size']} of {first['clip']}"
    return "\n".join(
        [*lines, "", f"Measured on {first['device']}, torch {first['torch']}: {clip}, {first['mode']}.", ""]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", help="whose files of benchmarks/results are taken, as in memory-DEVICE.csv")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args(arguments)
    memory_rows, full_rows = (pd.read_csv(RESULTS / f"{kind}-{options.device}.csv") for kind in ("memory", "full-size"))
    full_rows = full_rows.rename(columns={"seconds per step": "each", "peak GB": "peak"})
    tables = {
        "memory": memory.table(memory_rows) + "\n",
        "expected": table(memory_rows),
        "full size": steps_table(full_rows),
    }
    for name, written in tables.items():
        write_marked(options.readme, name, written)


if __name__ == "__main__":
    main()
