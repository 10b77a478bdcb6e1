"""The training loop that every model shares: resumable to the byte, as a step's random draws depend on its number."""

import csv
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

STATE = Path(".state/miniature")
_CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


def fit(
    name: str,
    model: torch.nn.Module,
    loss: Callable[[torch.nn.Module, np.random.Generator, torch.Generator], torch.Tensor],
    settings: dict,
    stop_after: float = math.inf,
    seconds: float | None = None,
) -> torch.nn.Module:
    """Train `model` in place and return it with its averaged weights.

    loss: called with the model and two generators, NumPy's and one on the model's device, that depend on the seed and
    the step alone; returns a scalar.
    settings: pictures, batch, learning_rate, warmup (steps), average (decay per step), seed, save_every (steps),
    and `before`, what the weights have seen already; others are left to `loss`. Other values start another run.
    stop_after: seconds; the checkpoint then holds the rest of the way, and the next call continues there.
    seconds: train that long instead of for so many `pictures`, with a rate schedule by the clock, so that a lent GPU is
    used to the end and never beyond it; such a run is not the same twice.
    The run's checkpoint in .state/miniature/ is resumed if there is one; its losses go to a csv beside it, which
    `progress` reads.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(name, settings)
    log = checkpoint.with_suffix(".csv")
    device = next(model.parameters()).device
    total = math.ceil(settings["pictures"] / settings["batch"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = [parameter.detach().clone() for parameter in model.parameters()]
    start, spent, recent, before = 0, 0.0, [], settings.get("before", {})  # saved after `recent` is emptied
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start, spent = state["average"], state["step"], state["seconds"]
        before = state["before"]
    rows = _losses(log, start)
    began = time.monotonic()

    def save(step: int) -> None:
        seconds = spent + time.monotonic() - began
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                 "step": step, "seconds": seconds, "before": before}  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".new"))
        os.replace(checkpoint.with_suffix(".new"), checkpoint)
        log.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))

    model.train()
    for step in count(start):
        if not seconds and step >= total:
            break
        gone = time.monotonic() - began
        part = gone / seconds if seconds else step / total
        rate = settings["learning_rate"] * min((step + 1) / settings["warmup"], _cosine(part))
        optimizer.param_groups[0]["lr"] = rate
        value = loss(model, np.random.default_rng([settings["seed"], step]), _generator(settings["seed"], step, device))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(settings["average"], (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [parameter.detach() for parameter in model.parameters()], 1 - decay)
        recent.append(value.detach())
        gone = time.monotonic() - began
        last = gone > (seconds or math.inf) or gone > stop_after or (not seconds and step + 1 >= total)
        if last or (step + 1) % settings["save_every"] == 0:
            rows.append([step + 1, round(float(torch.stack(recent).mean()), 6)])
            print(name, step + 1, *rows[-1][1:], f"{spent + gone:.0f} s", flush=True)
            recent.clear()
            save(step + 1)
        if last:
            break
    for parameter, mean in zip(model.parameters(), average, strict=True):
        parameter.data.copy_(mean)
    return model.eval()


def progress(name: str, settings: dict) -> dict:
    """What the weights have seen so far, before a warm start included: {pictures, seconds, losses}.

    losses: pairs of the pictures seen by then and the mean loss since the pair before.
    """
    checkpoint = _checkpoint(name, settings)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    before = {"pictures": 0, "seconds": 0, "losses": [], **state["before"]}
    losses = _losses(checkpoint.with_suffix(".csv"), state["step"])
    return {
        "pictures": before["pictures"] + state["step"] * settings["batch"],
        "seconds": before["seconds"] + round(state["seconds"]),
        "losses": before["losses"] + [[before["pictures"] + step * settings["batch"], loss] for step, loss in losses],
    }


def _losses(log: Path, until: int) -> list[list]:
    """Pairs of a step, at most `until`, and the mean loss since the pair before, of a run's csv."""
    rows = [[int(step), float(loss)] for step, loss in csv.reader(log.open())] if log.exists() else []
    return [row for row in rows if row[0] <= until]


def _checkpoint(name: str, settings: dict) -> Path:
    run = {what: value for what, value in settings.items() if what != "before"}
    run = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    return STATE / f"{name}-{run}.pt"


def digest(folder: Path, *parts: str) -> str:
    """Eight digits of published weights: what was made from other weights is not taken up again."""
    files = [path for part in parts for path in sorted((folder / part).glob("*.safetensors"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def made_once(
    name: str, count: int, make: Callable[[int], tuple[dict[str, torch.Tensor], dict[str, str]]]
) -> list[Path]:
    """The shards .state/miniature/`name`-0 to count - 1; those that are missing are written whole, or not at all.

    make: called with a shard's number; returns its tensors and its metadata, as safetensors holds them.
    """
    paths = [STATE / f"{name}-{shard}.safetensors" for shard in range(count)]
    for shard, path in enumerate(paths):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors, metadata = make(shard)
            save_file(tensors, path.with_suffix(".new"), metadata)
            os.replace(path.with_suffix(".new"), path)
    return paths


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` at the end: readers see the old weights or the new ones.

    A config.json that a library wrote into it loses the path that the model was loaded from.
    """
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if (config := new / "config.json").exists():
        known = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(known, indent=2) + "\n")
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _cosine(part: float) -> float:
    return 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(part, 1)))


def _generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs and on CPUs that are faster in it: those with AMX, and AMD's with AVX-512 (Intel's, without AMX,
    take half as long again as in float32); others emulate it, many times slower."""
    fast = device.type != "cpu" or "amx_bf16" in _CPU or ("avx512_bf16" in _CPU and "AuthenticAMD" in _CPU)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
