"""All measures of an edited clip in one row."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
from torch import Tensor

from tav import motion
from tav.clip import read_frames
from tav.config import Params
from tav.judge import Judge
from tav.score import ClipScorer, PickScorer
from tav.truth import asks, truth_beside, truth_scores

RESULTS = Path("results")
TGVE = "ViT-L-14/openai"  # the CLIP of the TGVE script, and
SQUARE = 480  # the pixels that it makes every frame's sides of first


class Evaluator:
    """Scores edits of the clips of params.yaml: by CLIP, by flow and tracks, and by a judge where truth is known.

    With the CLIP of the TGVE script, frames are prepared for it and PickScore as that script does: 480x480 first.
    """

    def __init__(self, params: Params, source: Callable[[str], Tensor] | None = None):
        """`source` gives a clip's frames; by default those that the stage tune kept."""
        self.params, of, device = params, params.score, params.device
        square = SQUARE if of.clip_model == TGVE else None
        self.scorer = ClipScorer(of.clip_model, device, square)
        self.accuracy = ClipScorer(of.accuracy_model, device) if of.accuracy_model else None
        self.pick = PickScorer(of.pick_model, device, square) if of.pick_model else None
        self.judge = Judge.load(of.judge, device) if of.judge else None
        self.source = source or cache(lambda clip: read_frames(RESULTS / "tune" / clip / "source"))
        self._seen = cache(self._of_source)

    def score(self, clip: str, edit: str, frames: Tensor) -> dict[str, float]:
        """Every measure of one edit, frames f 3 h w in [0, 1]; those that cannot be taken are nan or not there."""
        entry, original, source = self.params.clips[clip], self.source(clip), self._seen(clip)
        texts = entry.edits[edit], entry.caption
        row = self.scorer.score(frames, *texts)
        if self.accuracy:
            row["frame accuracy"] = self.accuracy.score(frames, *texts)["frame accuracy"]
        if self.pick:
            row["PickScore"] = self.pick.score(frames, entry.edits[edit])
        if self.judge and source["truth"]:
            asked = asks(entry.edits[edit], self.judge.answers)
            row |= truth_scores(self.judge.read(frames), source["truth"], asked, frames, original)
        tracks = motion.point_tracks(frames, source["where"])
        row["motion fidelity"] = motion.motion_fidelity(tracks, source["tracks"])
        row["warp error"] = motion.warp_error(frames, *source["flow"])
        row["FF-alpha"] = motion.ff_alpha(frames, original, source["flow"][0]) if source["explained"] else math.nan
        row["FF-beta"] = motion.ff_beta(motion.optical_flow(frames), source["flow"][0])
        if source["truth"]:
            row["Semantic"] = motion.semantic_score(frames, original, source["truth"].mask)
        return row

    def unread(self) -> str:
        """What stays open because there is no judge, or no truth beside a clip; an empty text where nothing does."""
        clips = [clip for clip in self.params.clips if not self._seen(clip)["truth"]]
        if not clips and self.judge:
            return ""
        why = f"No truth lies beside {', '.join(clips)}: there" if self.judge else "`score.judge` names no judge:"
        return (
            f"{why} edit success, identity stability and motion correlation are not measured, and claims that "
            "rest on them alone stay open. What CLIP, flow and tracks give needs neither judge nor truth."
        )

    def table(self, methods: Mapping[str, Mapping[tuple[str, str], Tensor]]) -> pd.DataFrame:
        """A row per method and (clip, edit): method, clip, edit and every measure."""
        rows = [
            {"method": method, "clip": clip, "edit": edit} | self.score(clip, edit, frames)
            for method, edits in methods.items()
            for (clip, edit), frames in edits.items()
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["method", "clip", "edit"], dtype=object)

    def _of_source(self, clip: str) -> dict:
        frames, size = self.source(clip), self.params.clip
        truth = truth_beside(self.params.clips[clip].source, size.num_frames, size.size)
        where = truth.mask[0] if truth else None  # else a background that stands still outweighs what moves
        flow = motion.optical_flow(frames), motion.optical_flow(frames, backward=True)
        seen = {"truth": truth, "flow": flow, "where": where, "tracks": motion.point_tracks(frames, where)}
        explained = motion.explained(frames, flow[0]) >= motion.TRUSTED  # else FF-alpha is 0 whatever the edit
        return seen | {"explained": explained}
