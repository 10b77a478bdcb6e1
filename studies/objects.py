"""Clips of several things (section 6): edited with and without a condition, and how much of the things is hidden."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from PIL import Image

from measures.clips import Source
from measures.conditions import FROM_TRUTH, condition
from measures.truth import asks, truth_beside
from studies.settings import Params
from studies.stages import RESULTS, fingerprint, guidance, label, read_source, replacing, sample_edits, start_noise
from studies.tuned import tuned
from tav.clip import write_frames
from tav.control import load_control, sample_controlled


def objects(params: Params) -> None:
    """Tunes on every clip of params.objects and samples its edits, into results/objects/<clip>/{source, edit, <kind>}.

    edit: without control; <kind>: under each of params.control that the clip has, from the same noise.
    An interrupted stage finds the tunings that it had done.
    """
    params, states = params.model_copy(update={"clips": params.objects}), []
    with replacing(RESULTS / "objects") as folder:
        for name in params.clips:
            states.append(Path(".state/objects") / f"{name}-{fingerprint(params, name)}.safetensors")
            _edit(params, name, states[-1], folder / name)
    for state in states:
        state.unlink(missing_ok=True)


def _edit(params: Params, name: str, state: Path, folder: Path) -> None:
    entry, frames = params.clips[name], (read_source(params, name) + 1) / 2
    pipe, noise = tuned(params, name, state)
    write_frames(folder / "source", frames)
    sample_edits(pipe, params, name, noise, folder / "edit")
    noise = start_noise(params, noise)
    truth = truth_beside(entry.source, params.clip.num_frames, params.clip.size)
    for kind in (kind for kind in params.control if truth or kind not in FROM_TRUTH):
        control = load_control(params.control[kind], pipe)
        shown = condition(kind, frames.to(pipe.device), truth, params.conditions.model_dump())
        for edit, prompt in entry.edits.items():
            label(pipe, f"edit {name} {edit} {kind}")
            drawn = sample_controlled(pipe, control, shown, prompt, noise, params.edit.steps, **guidance(params))
            write_frames(folder / kind / edit, drawn)


def crowd(source: Source) -> dict[str, float]:
    """How many "things" a clip shows, and the share of them that is "hidden", 0 to 1; nothing if no truth is known.

    A thing's visible area, for its size, is compared with the most that it has in any frame of the clip.
    """
    truth, sheet = (Path(source.path).with_suffix(end) for end in (".json", ".masks.png"))
    if not truth.exists():
        return {}
    sizes = np.array(json.loads(truth.read_text())["frames"])[..., 2]  # f k
    visible = np.asarray(Image.open(sheet).convert("L")) / 255
    seen = reduce(visible, "(k h) (f w) -> f k", "sum", f=len(sizes), k=sizes.shape[1]) / sizes**2
    return {"things": sizes.shape[1], "hidden": float(1 - (seen / seen.max(0)).mean())}


def count_error(judge, frames: torch.Tensor, prompt: str) -> float:
    """How many things too many or too few frames f 3 h w in [0, 1] show on average; nan where that cannot be read."""
    asked = asks(prompt, judge.answers) if judge else None
    read = judge.read(frames).names["count"] if asked else []
    return sum(abs(int(count) - int(asked["count"])) for count in read) / len(read) if read else math.nan
