"""The measures of edits: every edit's scores are a piece, which the sections put into their tables."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from measures.clips import ClipEntry
from measures.tables import Stored
from studies.digests import digest_of_model, digest_of_truth
from studies.settings import Params
from studies.sources import kept_frames
from studies.store import Store
from tav.clip import to_pictures
from tav.errors import InputError, loading

if TYPE_CHECKING:
    from measures.evaluate import Evaluator
    from measures.judge import Judge

FILE = "scores.json"


class Scores:
    """Scores edits of clips as params.yaml's `score` says, by `Evaluator`, whose models are loaded when needed."""

    def __init__(self, params: Params, source: Callable[[str], Tensor] | None = None, store: Store | None = None):
        """source: name of a clip -> its frames, f 3 h w in [0, 1]; by default those that the stage `tune` kept."""
        self.params, self.clips, self.store = params, params.clips, store or Store()
        self.source = cache(source or (lambda clip: kept_frames(params, f"results/tune/{clip}/source")))
        self._digest_of_source = cache(lambda clip: _digest(self.source(clip)))

    @cached_property
    def evaluator(self) -> Evaluator:
        """What takes the measures of edits that have none yet."""
        from measures.evaluate import Evaluator  # seconds that a table of scores that are there does not need

        square = self.params.clip.is_square
        clips = {
            name: entry if square and digest_of_truth(entry.source.path) else _without_truth(entry)
            for name, entry in self.clips.items()
        }
        return Evaluator(clips, self.source, **self.params.score.model_dump(), device=self.params.device)

    @cached_property
    def judge(self) -> Judge | None:
        """What reads facts off frames, if one is named."""
        from measures.judge import Judge

        judge = self.params.score.judge
        return Judge.load(judge, self.params.device) if judge else None

    def table(self, methods: Mapping[str, Mapping[tuple[str, str], Tensor]]) -> pd.DataFrame:
        """A row per method and (clip, edit), frames f 3 h w in [0, 1]: method, clip, edit and every measure."""
        rows = [
            {"method": method, "clip": clip, "edit": edit} | self.score(clip, edit, frames)
            for method, edits in methods.items()
            for (clip, edit), frames in edits.items()
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["method", "clip", "edit"], dtype=object)

    def score(self, clip: str, edit: str, frames: Tensor) -> dict[str, float]:
        """Every measure of one edit, frames f 3 h w in [0, 1]; those that cannot be taken are nan or not there."""
        entry = self.clips[clip]
        if frames.shape != self.source(clip).shape:
            shapes = f"{tuple(frames.shape)} and {tuple(self.source(clip).shape)}"
            raise InputError(f"edit {edit} of {clip} and its source have the shapes {shapes}: run `dvc repro`")
        needs = {"frames": _digest(frames), "source": self._digest_of_source(clip), "models": self._models}
        needs |= {"prompt": entry.edits[edit], "caption": entry.caption, "truth": digest_of_truth(entry.source.path)}
        needs |= entry.source.model_dump(exclude={"path"})

        return self._kept(needs, ("measures.evaluate.Evaluator",), lambda: self.evaluator.score(clip, edit, frames))

    def led(self, clip: str, edit: str, by: str, frames: Tensor) -> dict[str, float]:
        """What is drawn of an edit under the condition of the clip `by`: see `followed`, and whether it is the edit."""
        path = self.followed(by, frames)
        return path and path | {"edit success": self.score(clip, edit, frames).get("edit success", math.nan)}

    def followed(self, clip: str, frames: Tensor) -> dict[str, float]:
        """How closely frames f 3 h w in [0, 1] keep to where a clip has its things, see `measures.truth.followed`.

        Nothing where no judge is named, or no truth is known of the clip.
        """
        source = self.clips[clip].source
        if not (self.params.score.judge and self.params.clip.is_square and digest_of_truth(source.path)):
            return {}
        needs = {"frames": _digest(frames), "judge": self._models["judge"], "truth": digest_of_truth(source.path)}
        needs |= source.model_dump(exclude={"path"})

        def take() -> dict[str, float]:
            from measures.truth import followed, truth_beside

            return followed(self.judge.read(frames), truth_beside(source, len(frames), self.params.clip.size))

        return self._kept(needs, ("measures.truth.followed", "measures.truth.truth_beside"), take)

    def _kept(self, needs: dict, code: tuple[str, ...], take: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `take`, whose `code` it is, says of frames: taken once."""

        def make(folder: Path) -> None:
            (folder / FILE).write_text(json.dumps(take()))

        piece = self.store.take("scores", needs, (*code, "measures.judge.Judge"), make)
        with loading(piece.folder / FILE, f"delete {piece.folder}, it is made again"):
            return json.loads((piece.folder / FILE).read_text())

    def unread(self) -> str:
        """What stays open because there is no judge, or no truth of a clip; an empty text where nothing does."""
        clips = [clip for clip, entry in self.clips.items() if not digest_of_truth(entry.source.path)]
        square = self.params.clip.is_square
        if square and not clips and self.params.score.judge:
            return ""
        no_truth = f"No truth lies beside {', '.join(clips)}: there" if square else "Truth is of square frames: here"
        why = no_truth if self.params.score.judge else "`score.judge` names no judge:"
        return (
            f"{why} edit success, identity stability and motion correlation are not measured, and claims that "
            "rest on them alone stay open. What CLIP, flow and tracks give needs neither judge nor truth."
        )

    @cached_property
    def _models(self) -> dict:
        models = self.params.score.model_dump()
        return {name: digest_of_model(model) for name, model in models.items()}


def _without_truth(entry: ClipEntry) -> ClipEntry:
    """A clip as one that nothing lies beside."""
    return entry.model_copy(update={"source": entry.source.model_copy(update={"path": os.devnull})})


def edits_in(params: Params, folder: str | Path) -> Stored:
    """The frames of every edit (clip, edit) of params.yaml under `folder`/<clip>/<edit>."""
    pairs = [(clip, edit) for clip, entry in params.clips.items() for edit in entry.edits]
    return Stored({(clip, edit): Path(folder) / clip / edit for clip, edit in pairs})


def _digest(frames: Tensor) -> str:
    return hashlib.sha256(to_pictures(frames).tobytes() + repr(tuple(frames.shape)).encode()).hexdigest()[:32]
