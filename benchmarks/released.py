"""Side by side with the released implementation: what its steps and ours cost, on one machine in one run.

    git clone https://github.com/showlab/Tune-A-Video RELEASED          # HEAD is 7d4a89a
    pip install --no-deps --target LIBRARIES diffusers==0.11.1 huggingface_hub==0.23.5
    python -m benchmarks.released RELEASED LIBRARIES --sizes 4x128 4x256 8x256
    python -m publish readme                                            # the tables of README.md and docs/ from it

Both have the architecture of Stable Diffusion v1-4 with random weights. Theirs runs as its script does: the VAE at
every tuning step, gradient checkpointing, AdamW over all parameters; on a GPU in fp16, with torch's kernels of
memory-efficient attention in the place of xformers'. It runs without its text encoder, which does not import beside
today's libraries: its tuning steps are shorter by that. Every measurement is a process of its own. What is in
benchmarks/results/released-DEVICE.csv already is not measured again.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch

from benchmarks import full_size
from benchmarks.full_size import V1_4, of_key, once, recorded, results, settings
from tav import interrupt
from tav.errors import InputError

CHILD = Path(__file__).with_name("released_steps.py")
WITHOUT = ("transformers", "accelerate")  # packages that diffusers 0.11.1 does not import in today's versions
STEPS = ("tune", "invert", "edit")
RELEASED = {"released": True, "released, nothing recomputed": False}  # name: gradient checkpointing
OURS = {  # name: see full_size.MODES
    "here": "lean",
    "here, nothing recomputed": "float32",
    "here, recompute full": "checkpointing",
    "here, bf16": "bf16-lean",
    "here, bf16, recompute full": "bf16-checkpointing",
    "here, low memory": "low-memory",
}
WHOLE = {  # UNet steps of a clip with four edits: the released script validates five times while it tunes
    "released": {"tune": 500, "invert": 5 * 50, "edit": 5 * 4 * 50},
    "here": {"tune": 500, "invert": 50, "edit": 4 * 50},
}
COUNT = {"tune": 3, "invert": 4, "edit": 4}  # steps that are timed, of which the first is dropped


def measure_released(step: str, frames: int, size: int, device: str, checkpointing: bool, paths: list[str]) -> dict:
    """Median seconds of a released step, GB before it and at its peak; {} where memory does not suffice.

    paths: of the released code and of its libraries. Raises InputError if they do not run.
    """
    request = {"step": step, "device": device, "frames": frames, "size": size, "checkpointing": checkpointing}
    request |= {"without": WITHOUT, "count": COUNT[step], "models": {part: V1_4[part] for part in ("unet", "vae")}}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "USE_TF": "0", "USE_FLAX": "0"}
    command = [sys.executable, str(CHILD), json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode < 0 or "out of memory" in done.stderr.lower():
        return {}
    if done.returncode:
        raise InputError(f"the released code does not run: {done.stderr.splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": statistics.median(found["seconds"][1:])}


def measure_ours(step: str, frames: int, size: int, device: str, mode: str, folder: Path) -> dict:
    """The same of our step, from the files that the one before it left beside the model in `folder`."""
    params = settings(folder, device, frames, size, mode, COUNT["edit"], COUNT["tune"])
    work = folder / "run" / f"released-{mode}-{frames}x{size}"
    work.mkdir(parents=True, exist_ok=True)
    found = full_size.measure(step, params, mode, "drawn", work)
    return {"seconds": found["seconds per step"], "held GB": found["held GB"], "peak GB": found["peak GB"]}


def compare(
    frames: int,
    size: int,
    device: str,
    paths: list[str],
    folder: Path,
    again: bool = False,
    has_time: Callable[[], bool] = lambda: True,
    written: Path | None = None,
    codes: Iterable[str] = (*RELEASED, *OURS),
) -> None:
    """Measures every step of every code that is not there yet, while there is time; without `paths`, of ours alone.

    written: the folder of its rows, by default benchmarks/results.
    """
    file, what = results("released", device, written)
    for code in (code for code in codes if paths or code in OURS):
        for step in STEPS:
            key = what | {"frames": frames, "size": size, "code": code, "step": step}
            done = any(of_key(row, key) for row in recorded(file))
            if done and not again or not has_time():
                continue
            if code in RELEASED:
                once(file, key, again, measure_released, step, frames, size, device, RELEASED[code], paths)
            else:
                once(file, key, again, measure_ours, step, frames, size, device, OURS[code], folder)


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Per frames, size and code: seconds of each step and of a whole clip, peak GB of tuning, each by the released.

    rows: as `compare` writes them, of one machine. A whole clip is computed from its steps: "as run", as each code's
    script does it, and as "same work", one inversion and four edits after tuning. What an interrupted run has
    not measured all steps of is left out, and so is a size without the released code's.
    """
    rows = rows[rows.groupby(["frames", "size", "code"])["step"].transform("nunique") == len(STEPS)]
    rows = rows[rows.groupby(["frames", "size"])["code"].transform(lambda codes: "released" in set(codes))]
    wide = rows.set_index(["frames", "size", "code", "step"])["seconds"].unstack("step", sort=False)
    counts = [WHOLE["released" if code.startswith("released") else "here"] for _, _, code in wide.index]
    for clip, times in {"as run": counts, "same work": [WHOLE["here"]] * len(wide)}.items():
        steps = zip(wide[list(STEPS)].to_dict("records"), times, strict=True)
        wide[clip] = [sum(row[step] * many[step] for step in STEPS) for row, many in steps]
    tuning = rows[rows["step"] == "tune"].set_index(["frames", "size", "code"])
    wide["peak GB"] = tuning["peak GB"]
    base = wide.xs("released", level="code")
    for column in [*STEPS, "as run", "same work", "peak GB"]:
        wide[f"{column}, ratio"] = [value / base.loc[key[:2], column] for key, value in wide[column].items()]
    return wide.reset_index()


def frames_and_size(text: str) -> tuple[int, int]:
    """The two numbers of a text such as 4x128; InputError if it is none."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,5})", text)
    if not match or int(match[1]) < 1 or int(match[2]) < 64 or int(match[2]) % 64:
        raise InputError(f"{text} is no size: give frames and pixels, a multiple of 64, such as 4x128")
    return int(match[1]), int(match[2])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("released", type=Path, help="a checkout of showlab/Tune-A-Video")
    parser.add_argument("libraries", type=Path, help="the folder with diffusers 0.11.1 and huggingface_hub 0.23.5")
    parser.add_argument("--sizes", nargs="+", metavar="FxS", help="frames and pixels, such as 4x128 or 24x512")
    parser.add_argument("--codes", nargs="+", choices=(*RELEASED, *OURS), default=(*RELEASED, *OURS))
    parser.add_argument("--folder", type=Path, default=Path(".state/full-size"), help="of our model (6 GB)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    options = parser.parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes = options.sizes or (["24x512", "32x512"] if device == "cuda" else ["4x128", "4x256", "8x256"])
    try:
        for path in (options.released / "tuneavideo", options.libraries / "diffusers"):
            if not path.is_dir():
                raise InputError(f"{path} is not there: see the first lines of {__file__}")
        full_size.save_model(options.folder)
        paths = [str(options.libraries.resolve()), str(options.released.resolve())]
        for frames, size in map(frames_and_size, sizes):
            compare(frames, size, device, paths, options.folder, options.again, codes=options.codes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(ratios(pd.read_csv(results("released", device)[0])).to_string(float_format="%.3g", index=False))
    return 0


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
