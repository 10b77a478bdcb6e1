"""The stages of the method, for all clips of params.yaml: pieces are taken from the store into results/."""

import shutil
from pathlib import Path

from studies.ahead import make_ahead
from studies.method import Method
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.store import RECORD, Piece


def tune(params: Params) -> None:
    """Tunes on every clip: results/tune/<clip>/{tuned.safetensors, losses.csv, source}."""
    make_ahead(params, weights_of, [(params, name) for name in params.clips])
    method = Method(params)
    with replacing(RESULTS / "tune") as folder:
        for name, entry in params.clips.items():
            collect(method.weights(entry), folder / name)
            collect(method.source(entry), folder / name / "source")


def invert(params: Params) -> None:
    """Inverts every tuned clip and samples it back: results/invert/<clip>/{inverted.safetensors, reconstruction}."""
    make_ahead(params, noise_of, [(params, name) for name in params.clips])
    method = Method(params)
    with replacing(RESULTS / "invert") as folder:
        for name, entry in params.clips.items():
            collect(method.noise(entry), folder / name)
            collect(method.reconstruction(entry), folder / name / "reconstruction")


def edit(params: Params) -> None:
    """Samples every edit of every clip: results/edit/<clip>/<edit>."""
    make_ahead(params, edits_of, [(params, name) for name in params.clips])
    with replacing(RESULTS / "edit") as folder:
        collect_edits(Method(params), params, folder)


def weights_of(params: Params, clip: str) -> None:
    """Makes a clip's frames and the weights tuned on it, where they are missing."""
    Method(params).weights(params.clips[clip])


def noise_of(params: Params, clip: str) -> None:
    """Makes a clip's inverted noise and its reconstruction, where they are missing."""
    method, entry = Method(params), params.clips[clip]
    method.noise(entry)
    method.reconstruction(entry)


def edits_of(params: Params, clip: str) -> None:
    """Makes a clip's edits, where they are missing, and all that they take."""
    method, entry = Method(params), params.clips[clip]
    for prompt in entry.edits.values():
        method.edit(entry, prompt)


def collect_edits(method: Method, params: Params, folder: Path) -> None:
    """Every edit of every clip of `params` as `method` samples it: `folder`/<clip>/<edit>."""
    for name, entry in params.clips.items():
        for edit, prompt in entry.edits.items():
            collect(method.edit(entry, prompt), folder / name / edit)


def collect(piece: Piece, folder: Path) -> None:
    """Copies the files of a piece into a folder."""
    shutil.copytree(piece.folder, folder, ignore=shutil.ignore_patterns(RECORD), dirs_exist_ok=True)
