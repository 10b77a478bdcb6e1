"""Scores of frames that any tool made, as a line of CSV."""

import csv
import os
import sys
from argparse import Namespace
from pathlib import Path

from torch import Tensor

from footage.lists import count_frames
from measures.clips import ClipEntry, Source
from measures.evaluate import Evaluator
from studies.settings import Params
from tav.clip import frame_size, read_clip, read_frames
from tav.errors import InputError, one_line

CLIP, EDIT = "clip", "edit"


def score_frames(params: Params, options: Namespace) -> None:
    """Prints CLIP's, PickScore's and flow's measures of an edited clip, by the models that params.yaml names.

    options: frames, what is scored, and source, what it was made from: a video, a GIF or a folder of frames each;
    prompt; caption, "" to leave frame accuracy out; start and stride, which frames of the source they are; out, a CSV
    that gets the line, None to print it alone.
    """
    if not options.prompt.strip():
        raise InputError("--prompt is empty: say what the frames should show")
    edited = read_all(options.frames)
    source = read_clip(options.source, len(edited), tuple(edited.shape[-2:]), options.start, options.stride)
    entry = ClipEntry(
        source=Source(path=os.devnull, start=options.start, stride=options.stride),
        caption=options.caption or options.prompt,
        edits={EDIT: options.prompt},
    )
    settings = params.score.model_dump() | {"judge": "", "device": params.device}  # a judge reads one world alone
    evaluator = Evaluator({CLIP: entry}, lambda _: (source + 1) / 2, **settings)
    row = {"frames": str(options.frames), "prompt": options.prompt, **evaluator.score(CLIP, EDIT, edited)}
    if not options.caption:
        del row["frame accuracy"]  # which of two texts fits better
    row = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
    write_row(row, options.out)


def read_all(path: Path) -> Tensor:
    """All frames of a video, a GIF or a folder of frames at their own size, f 3 h w in [0, 1]."""
    if path.is_dir():
        try:
            return read_frames(path)
        except RuntimeError as error:
            raise InputError(f"{path} holds frames of several sizes: make them one") from error
    return (read_clip(path, count_frames(path), frame_size(path)) + 1) / 2


def write_row(row: dict[str, str], file: Path | None) -> None:
    """Prints a line of CSV under its header, and adds it to a file whose header, if it has one, is the same."""
    csv.writer(sys.stdout, lineterminator="\n").writerows([row.keys(), row.values()])
    if file is None:
        return
    new = not file.exists() or not file.stat().st_size
    if not new and (header := file.open(newline="").readline().strip()) != ",".join(row):
        raise InputError(f"{file} has other columns ({one_line(header)}): name another file with --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", newline="") as to:
        csv.writer(to, lineterminator="\n").writerows([row.keys(), row.values()] if new else [row.values()])
