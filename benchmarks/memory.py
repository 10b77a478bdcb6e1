"""What fits: peak memory over frames and pixels, by memory mode, of Stable Diffusion v1-4 at its full size.

    python -m benchmarks.memory            # measures what is not in benchmarks/results/memory-DEVICE.csv yet
    python -m benchmarks.memory --table    # and prints that table, with what a line through it says of larger clips

A row is the peak of a process that does one tuning step, the clip's encoding included, or one sampling step with
guidance and the decoding. The model is that of benchmarks/full_size.py.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd
import torch

from benchmarks.cost import peak_memory, reset_peak_memory
from benchmarks.full_size import (
    CAPTION,
    GUIDANCE_SCALE,
    MODES,
    PROMPT,
    add_options,
    drawn,
    load,
    once,
    results,
    save_model,
    settings,
)
from studies.settings import Params
from tav import interrupt
from tav.errors import InputError
from tav.tune import tune

STEPS = ("tuning", "sampling")
COMPARED = ("lean", "checkpointing", "bf16-lean", "low-memory")
POINTS = {  # frames x side
    "cpu": ("2x128", "4x128", "8x128", "2x256", "4x256"),
    "cuda": ("8x256", "24x256", "8x512", "16x512", "24x512", "32x512"),
}
ASKED = ((24, 512), (32, 512))  # the demo's and the paper's
COUNTED = {
    "cpu": "Memory is the process's resident memory at its highest, its libraries included.",
    "cuda": "Memory is what torch had allocated on the GPU at its highest, without the CUDA context.",
}
LEFT_OUT = {
    "cpu": "on a GPU it leaves out the context, cuDNN's workspaces, what the allocator reserves, what offloading saves "
    "there, and attention without a fused kernel, whose memory grows with the square of the pixels.",
    "cuda": "it leaves out other workspaces that cuDNN may choose at other sizes, and what the allocator reserves.",
}


def peak(step: str, params: Params, mode: str) -> dict:
    """Memory in GB before one step of tuning or of sampling and at its peak."""
    pipe, clip = load(params, mode), drawn(params)
    held, factor = reset_peak_memory(), pipe.vae_scale_factor
    if step == "tuning":
        list(tune(pipe, clip, CAPTION, **params.tune.arguments()))
    else:
        shape = len(clip), pipe.unet.config.in_channels, params.clip.size // factor, params.clip.size // factor
        pipe(PROMPT, torch.randn(shape), 1, guidance_scale=GUIDANCE_SCALE, output_type="pt")
    return {"held GB": held, "peak GB": peak_memory()}


def line(rows: pd.DataFrame) -> tuple[float, float] | None:
    """a and b of peak GB = a + b x frames x pixels through the two largest of three or more measured sizes.

    Not through all of them: at small sizes the peak is that of another part of the step, which grows more slowly.
    """
    peaks = rows["peak GB"].groupby(rows["frames"] * rows["size"] ** 2).max()
    if len(peaks) < 3:
        return None
    (less, low), (more, high) = list(peaks.sort_index().items())[-2:]
    b = (high - low) / (more - less)
    return high - b * more, b


def table(rows: pd.DataFrame) -> str:
    """A Markdown table of the measured rows and, below them and marked, of what is computed for `ASKED`."""
    at = ["size", "frames", "mode", "step"]
    rows = rows.assign(mode=pd.Categorical(rows["mode"], MODES)).drop_duplicates(at, keep="last")  # of the last torch
    measured = rows.set_index(at)["peak GB"].unstack().reindex(columns=STEPS)
    fits = {key: line(part) for key, part in rows.dropna(subset="peak GB").groupby(["mode", "step"], observed=True)}
    computed = {
        (size, frames, mode): [a + b * frames * size**2 for a, b in (fits[mode, step] for step in STEPS)]
        for frames, size in ASKED
        for mode in MODES
        if (size, frames, mode) not in measured.index and all(fits.get((mode, step)) for step in STEPS)
    }
    lines = [
        "| frames | pixels | mode | tuning, GB | sampling, GB | measured or computed |",
        "|---|---|---|---|---|---|",
    ]
    marked = [(at, values, "measured") for at, values in measured.iterrows()]
    marked += [(at, values, "**computed**") for at, values in computed.items()]
    for (size, frames, mode), values, how in marked:
        cells = " | ".join("-" if pd.isna(value) else f"{value:.1f}" for value in values)
        lines.append(f"| {frames} | {size}x{size} | {mode} | {cells} | {how} |")
    backend = rows["backend"].iloc[0]
    machines = " and ".join(sorted({f"{row.device} with torch {row.torch}" for row in rows.itertuples()}))
    note = f"Measured on {machines}; -: not measured, or memory did not suffice. {COUNTED[backend]}"
    if computed:
        note += (
            " Computed: the line over frames x pixels through the two largest measured sizes of the mode and step; "
            f"{LEFT_OUT[backend]}"
        )
    return "\n".join([*lines, "", note])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--points", nargs="+", help="frames x pixels of a side, such as 24x512")
    parser.add_argument("--table", nargs="?", const="", metavar="CSV", help="print the table of this machine's file")
    options = parser.parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        file, what = results("memory", device)
        if options.table is not None:
            file = Path(options.table or file)
            if not file.exists():
                raise InputError(f"{file} does not exist: run this without --table first")
            print(table(pd.read_csv(file)))
            return 0
        save_model(options.folder)
        for point in options.points or POINTS[device]:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", point):
                raise InputError(f"--points takes frames x pixels of a side, such as 24x512, not {point}")
            frames, size = map(int, point.split("x"))
            for mode in options.modes or COMPARED:
                params = settings(options.folder, device, frames, size, mode, steps=1, tune_steps=1)
                for step in STEPS:
                    key = what | {"frames": frames, "size": size, "mode": mode, "step": step}
                    once(file, key, options.again, peak, step, params, mode)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
