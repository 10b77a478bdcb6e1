"""What nine minutes of a GPU can say: whether the method is right there, how fast, and in how much memory.

    make gpu-check                                                    # on a GPU
    python -m benchmarks.gpu_check --released RELEASED LIBRARIES      # beside the released code, see released.py
    python -m benchmarks.gpu_check --device cpu --small --minutes 3   # a stand-in: the same parts, in little

Its parts, in this order: parity with the released code's numbers (the tests of tests/tav/test_parity.py on the device);
Stable Diffusion at full size, 24 frames of 512x512, in every memory mode; a clip of the miniature end to end, with its
scores there and on the CPU; tuning the miniature in every precision and memory mode; 32 frames at full size. What is
measured is written at once, into results/gpu-check-DEVICE.csv and results/released-DEVICE.csv (a stand-in's: --folder),
and not measured again: started anew, the check goes on where time or the machine ended it. Exit code 1: not all of it
fitted into the time.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from benchmarks import full_size, released
from benchmarks.cost import RESULTS, alone, peak_memory, reset_peak_memory, synchronize
from studies.method import Method
from studies.models import load_model
from studies.scores import Scores
from studies.settings import Params, load_params
from studies.store import Store
from tav import interrupt
from tav.clip import read_clip, read_frames
from tav.errors import InputError, NumericalError
from tav.tune import tune

PARITY = "tests/tav/test_parity.py"
MODES = {  # of the miniature: what is changed in params.yaml
    "float32": {},
    "recompute lean": {"tune": {"recompute": "lean"}},
    "recompute feed-forward": {"tune": {"recompute": "feed-forward"}},
    "recompute full": {"tune": {"recompute": "full"}},
    "bf16": full_size.BF16,
    "fp16": {"memory": {"dtype": "fp16"}, "tune": {"mixed_precision": "fp16"}},
    "offload": {"memory": {"offload": True}},
    "compile": {"compile": True},
}
STEPS = 20  # of tuning, in every mode
SIZES = ((24, 512), (32, 512))
SMALL = {  # the stand-in's model: V1_4 with one layer a block and few channels
    "unet": {"block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "norm_num_groups": 4},
    "vae": {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 2, "layers_per_block": 1},
    "text_encoder": {"num_hidden_layers": 1},
}
SMALL_SIZES = ((2, 64), (3, 64))


def parity(device: str, tests: str) -> dict[str, float]:
    """How many of the parity tests, a file, pass on the device, and how many do not."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "addopts=", tests]
    done = subprocess.run(command, env=os.environ | {"PARITY_DEVICE": device}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise InputError(f"{tests} does not run: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    ended = re.findall(r"^(.*::\S+) (PASSED|FAILED|ERROR)", done.stdout, re.MULTILINE)
    for test, how in ended:
        if how != "PASSED":
            print(f"{how} {test}", flush=True)
    passed = sum(how == "PASSED" for _, how in ended)
    return {"tests passed": passed, "tests failed": len(ended) - passed}


def tuning(params: Params, steps: int) -> dict[str, float]:
    """The miniature's tuning in one mode: mean loss of the steps, seconds of one after the first, peak memory in GB."""
    pipe = load_model(params)
    entry = next(iter(params.clips.values()))
    clip = read_clip(
        entry.source.path, params.clip.num_frames, params.clip.size, **entry.source.model_dump(exclude={"path"})
    )
    held, losses, laps = reset_peak_memory(), [], [time.perf_counter()]
    for _, loss in tune(pipe, clip, entry.caption, **params.tune.arguments() | {"steps": steps}):
        losses.append(loss)
        synchronize()
        laps.append(time.perf_counter())
    mean = sum(losses) / steps
    return {"loss": mean, "seconds per step": (laps[-1] - laps[1]) / (steps - 1), "peak GB": peak_memory() - held}


def whole_clip(params: Params) -> dict[str, float]:
    """The first clip of params.yaml tuned, inverted and edited: seconds, and every measure's mean over its edits."""
    name, entry = next(iter(params.clips.items()))
    with TemporaryDirectory() as folder:
        method, started = Method(params, Store(folder)), time.perf_counter()
        edits = {edit: method.edit(entry, prompt) for edit, prompt in entry.edits.items()}
        seconds = time.perf_counter() - started
        scores = Scores(params, lambda _: read_frames(method.source(entry).folder), Store(folder))
        rows = [scores.score(name, edit, read_frames(piece.folder)) for edit, piece in edits.items()]
    return {"seconds": seconds} | pd.DataFrame(rows).mean(numeric_only=True).to_dict()


class Check:
    """The rows that are there, the time that is left, and what is measured of what is not there."""

    def __init__(self, device: str, minutes: float, written: Path):
        self.file, self.key = full_size.results("gpu-check", device, written)
        self.ends = time.monotonic() + 60 * minutes
        self.skipped = 0

    def has_time(self) -> bool:
        """False, and counted, once the time is over."""
        self.skipped += time.monotonic() > self.ends
        return time.monotonic() < self.ends

    def take(self, part: str, function: Callable, *arguments) -> None:
        """Rows (part, what, value) of what a function of numbers returns in a process of its own."""
        rows = full_size.recorded(self.file)
        if any(row["part"] == part for row in rows) or not self.has_time():
            return
        found = alone(function, *arguments)
        found = {"memory sufficed": 0.0} if found is None else found
        rows += [self.key | {"part": part, "what": what, "value": value} for what, value in found.items()]
        full_size.write_rows(self.file, rows, digits=5)
        print(f"{part}: measured", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--released", nargs=2, type=Path, metavar=("RELEASED", "LIBRARIES"), help="see released.py")
    parser.add_argument("--minutes", type=float, default=9, help="after which nothing more is begun")
    parser.add_argument("--folder", type=Path, help="of the full-size model (6 GB)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model and clip in the place of full size")
    options = parser.parse_args(arguments)
    options.folder = options.folder or Path(".state", "gpu-check/model" if options.small else "full-size")
    try:
        if not 0 < options.minutes < math.inf:
            raise InputError(f"--minutes is {options.minutes}: give the minutes that there are")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise InputError("no GPU can be used: --device cpu --small runs the same parts in little")
        check = Check(options.device, options.minutes, options.folder.parent if options.small else RESULTS)
        params = load_params().model_copy(update={"device": options.device})
        check.take("parity", parity, options.device, PARITY)
        first, *others = SMALL_SIZES if options.small else SIZES
        at_full_size(check, options, [first])
        for device in dict.fromkeys((options.device, "cpu")):
            check.take(f"a clip, {device}", whole_clip, params.model_copy(update={"device": device}))
        for mode, changes in MODES.items():
            sections = {name: values for name, values in changes.items() if isinstance(values, dict)}
            compiled = {"compile": changes.get("compile", False)}
            check.take(f"tuning, {mode}", tuning, params.changed(**sections).model_copy(update=compiled), STEPS)
        at_full_size(check, options, others)
    except (InputError, NumericalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in full_size.recorded(check.file):
        print(f"{row['part']}: {row['what']} {row['value']:.4g}")
    if check.skipped:
        print(f"{check.skipped} measurements did not fit into {options.minutes:g} minutes: start it again")
    return int(check.skipped > 0)


def at_full_size(check: Check, options: argparse.Namespace, sizes: Iterable[tuple[int, int]]) -> None:
    """Steps of Stable Diffusion's size, ours in every mode and, if it is there, the released code's.

    sizes: frames and pixels of clips.
    """
    full_size.save_model(options.folder, SMALL if options.small else None)
    paths = [str(path.resolve()) for path in reversed(options.released)] if options.released else []
    for frames, size in sizes:
        written = check.file.parent
        released.compare(frames, size, options.device, paths, options.folder, False, check.has_time, written)


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
