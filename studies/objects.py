"""Clips of several things (section 6): edited with and without a condition, and how much of the things is hidden."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from PIL import Image

from measures.clips import ClipEntry, Source
from measures.truth import asks
from studies.ahead import make_ahead
from studies.control import Controlled
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.stages import collect
from studies.store import Piece


def objects(params: Params) -> None:
    """Tunes on the clips that `objects` lists and samples their edits: results/objects/<clip>/{source, edit, <kind>}.

    edit: without control; <kind>: under each of params.control that the clip has, from the same noise.
    """
    clips = params.with_clips(params.objects).clips
    controlled = Controlled(params)
    make_ahead(params, pieces_of, [(params, entry) for entry in clips.values()])
    with replacing(RESULTS / "objects") as folder:
        for name, entry in clips.items():
            for place, piece in pieces(controlled, entry):
                collect(piece, folder / name / place)


def pieces_of(params: Params, entry: ClipEntry) -> None:
    """Makes the pieces of a clip, where they are missing."""
    for _ in pieces(Controlled(params), entry):
        pass


def pieces(controlled: Controlled, entry: ClipEntry) -> Iterator[tuple[str, Piece]]:
    """A clip's pieces and their places in its folder of results/objects."""
    yield "source", controlled.method.source(entry)
    conditions = controlled.conditions(entry)
    for edit, prompt in entry.edits.items():
        yield f"edit/{edit}", controlled.method.edit(entry, prompt)
        for kind, shown in conditions.items():
            yield f"{kind}/{edit}", controlled.edit(entry, prompt, kind, shown)


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
