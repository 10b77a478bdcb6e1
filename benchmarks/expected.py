"""What a run at paper scale takes on a GPU that nobody has measured here: computed, and shown in docs/ as such.

    python -m benchmarks.expected DEVICE     # whose memory of benchmarks/results to take; writes expected.csv there

Time is operations over speed. Operations are counted on Stable Diffusion v1-4's inflated UNet without weights. Speed is
a GPU's published peak in half precision times the share of it that the paper's own run reached: 500 tuning steps of 32
frames in ten minutes on an A100 (section 5.1), which trained with checkpointing. Memory is the line that
benchmarks/memory.py draws through its rows. The VAE, CLIP and files are not counted.
"""

import argparse
import sys

import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import memory
from benchmarks.full_size import RESULTS, V1_4
from tav import interrupt
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
MODES = {  # the fastest first: what docs/ calls them, and whether they use checkpointing
    "bf16-lean": ("half precision", False),
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


def compute(rows: pd.DataFrame) -> pd.DataFrame:
    """For every GPU and for the frames of demo and paper the first mode that fits, its memory in GB and its seconds.

    rows: of benchmarks/memory.py. Where no mode fits, the memory is that of the one that needs least.
    """
    fits = {key: memory.line(part) for key, part in rows.dropna(subset="peak GB").groupby(["mode", "step"])}
    if missing := [mode for mode in MODES for step in FITTED if not fits.get((mode, step))]:
        raise InputError(f"too few rows of {missing[0]}: run benchmarks/memory.py --modes {missing[0]}")
    counts = {frames: operations(frames) for frames in FRAMES}
    used = share(counts[PAPER["frames"]])
    peaks = {
        frames: {m: max(a + b * frames * 512**2 for a, b in (fits[m, s] for s in FITTED)) for m in MODES}
        for frames in FRAMES
    }
    found = []
    for gpu, (space, peak) in GPUS.items():
        for frames, count in counts.items():
            if frames < 24 and space > 12:
                continue  # more frames fit
            row = {"gpu": gpu if "GB" in gpu else f"{gpu}, {space} GB", "frames": frames}
            mode = next((mode for mode in MODES if peaks[frames][mode] + RESERVE <= space), None)
            if not mode:
                found.append(row | {"memory": round(min(peaks[frames].values()), 1)})
                continue
            words, checkpointing = MODES[mode]
            speed = used * peak * 1e12
            tuning = count["tuning with checkpointing" if checkpointing else "tuning"] * 500 / speed
            seconds = {"tuning": tuning, "inversion": count["forward"] * STEPS / speed}
            seconds["edit"] = 2 * seconds["inversion"]
            row |= {"mode": words, "memory": round(peaks[frames][mode], 1)}
            found.append(row | {name: round(value, 2) for name, value in seconds.items()})
    columns = ["gpu", "frames", "mode", "memory", "tuning", "inversion", "edit"]
    teraflops = {f"{name}, TFLOP": round(count / 1e12, 2) for name, count in counts[PAPER["frames"]].items()}
    return pd.DataFrame(found)[columns].assign(**teraflops, share=round(used, 3))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", help="whose file of benchmarks/results is taken, as in memory-DEVICE.csv")
    options = parser.parse_args(arguments)
    file = RESULTS / f"memory-{options.device}.csv"
    if not file.is_file():
        there = ", ".join(sorted(path.stem.removeprefix("memory-") for path in RESULTS.glob("memory-*.csv")))
        parser.error(f"{file} is not there: there are {there or 'none'}")
    compute(pd.read_csv(file)).to_csv(RESULTS / "expected.csv", index=False)


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
