"""The report's player: edits of every method beside their source, frame by frame, with what was measured of each."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from measures.tables import METHOD
from peers import PEERS
from studies.results import reading
from studies.settings import Params
from studies.sources import kept_frames
from tav.clip import to_pictures

LONGER_SIDE = 128  # pixels of a frame, at most
READINGS = {  # measure: what the page calls it, and how it says it
    "edit success": ("as asked", "{:.0%}"),
    "right object": ("object", "{:.0%}"),
    "right style": ("style", "{:.0%}"),
    "right place": ("place", "{:.0%}"),
    "motion correlation": ("motion", "{:.2f}"),
    "text alignment": ("text", "{:.1f}"),
    "frame consistency": ("consistency", "{:.1f}"),
}


def write_player(params: Params, results: Path, out: Path) -> dict:
    """Writes `out`/player, a strip of frames per clip, edit and method, and returns what the page's script is given.

    Methods are Tune-A-Video and the peers whose edits are in `results`. A strip has a clip's frames side by side.
    """
    compared = results / "notebooks/04_baselines/scores.csv"
    scores, clips = read_scores(compared) if compared.is_file() else {}, []
    for clip, entry in params.clips.items():
        (out / "player" / clip).mkdir(parents=True)
        source = kept_frames(params, results / "tune" / clip / "source")
        height, width = source.shape[-2:]
        shown = {"name": clip, "caption": entry.caption, "source": _write(source, out, clip, "source")}
        shown |= {"aspect": f"{width} / {height}", "edits": []}
        for edit, prompt in entry.edits.items():
            views = [
                {"method": method, "strip": _write(frames, out, clip, f"{edit}-{slug}")}
                | {"said": _said(scores.get((method, clip, edit), {}))}
                for slug, method, frames in _methods(params, results, clip, edit)
            ]
            shown["edits"].append({"name": edit, "prompt": prompt, "views": views})
        clips.append(shown)
    return {"frames": params.clip.num_frames, "fps": params.clip.fps, "clips": clips}


def _methods(params: Params, results: Path, clip: str, edit: str) -> Iterator[tuple[str, str, Tensor]]:
    """A short name, a method's name and its frames of an edit, f 3 h w in [0, 1]."""
    yield "ours", METHOD, kept_frames(params, results / "edit" / clip / edit)
    for peer in params.peers:
        folder = results / "peers" / peer / clip / edit
        if folder.is_dir():
            yield peer, PEERS[peer].name, kept_frames(params, folder)


def _write(frames: Tensor, out: Path, clip: str, name: str) -> str:
    """Writes a strip and returns its path as the page links it."""
    scale = min(1, LONGER_SIDE / max(frames.shape[-2:]))
    if scale < 1:
        size = [round(side * scale) for side in frames.shape[-2:]]
        frames = interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)
    path = f"player/{clip}/{name}.webp"
    strip = Image.fromarray(to_pictures(torch.cat(list(frames), dim=-1)[None])[0])
    strip.save(out / path, "WEBP", quality=75, method=4)
    return path


def _said(row: Mapping[str, float]) -> str:
    """What was measured of an edit, in a line."""
    return ", ".join(f"{name} {form.format(row[key])}" for key, (name, form) in READINGS.items() if key in row)


def read_scores(path: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """A notebook's scores.csv, the measures that were taken: {(method, clip, edit): {measure: value}}."""
    with reading(path):
        table = pd.read_csv(path).set_index(["method", "clip", "edit"])
    return {key: row.dropna().to_dict() for key, row in table.iterrows()}
