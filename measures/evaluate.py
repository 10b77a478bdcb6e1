"""All measures of an edited clip in one row."""

import math
from collections.abc import Callable, Mapping
from functools import cache

from torch import Tensor

from measures import motion
from measures.clips import ClipEntry
from measures.judge import Judge
from measures.score import ClipScorer, PickScorer
from measures.truth import asks, facts, read, truth_beside, truth_scores

TGVE = "ViT-L-14/openai"  # the CLIP of the TGVE script, and
SQUARE = 480  # the pixels that it makes every frame's sides of first


class Evaluator:
    """Scores edits of clips: by CLIP, by flow and tracks, and by a judge where truth is known.

    clips: the clips by their names. source: name -> the frames f 3 h w in [0, 1] that were read of a clip.
    clip_model, accuracy_model: see `ClipScorer`; pick_model: see `PickScorer`; judge: see `Judge.load`; "" does
        without.
    With the CLIP of the TGVE script, frames are prepared for it and PickScore as that script does: 480x480 first.
    """

    def __init__(
        self,
        clips: Mapping[str, ClipEntry],
        source: Callable[[str], Tensor],
        clip_model: str,
        accuracy_model: str = "",
        pick_model: str = "",
        judge: str = "",
        device: str = "auto",
    ):
        self.clips, self.source = clips, source
        square = SQUARE if clip_model == TGVE else None
        self.scorer = ClipScorer(clip_model, device, square)
        self.accuracy = ClipScorer(accuracy_model, device) if accuracy_model else None
        self.pick = PickScorer(pick_model, device, square) if pick_model else None
        self.judge = Judge.load(judge, device) if judge else None
        self._seen = cache(self._of_source)

    def score(self, clip: str, edit: str, frames: Tensor) -> dict[str, float]:
        """Every measure of one edit, frames f 3 h w in [0, 1]; those that cannot be taken are nan or not there.

        Of a clip with truth the row holds its `measures.truth.facts`, too.
        """
        entry, original, source = self.clips[clip], self.source(clip), self._seen(clip)
        texts = entry.edits[edit], entry.caption
        row = self.scorer.score(frames, *texts)
        if self.accuracy:
            row["frame accuracy"] = self.accuracy.score(frames, *texts)["frame accuracy"]
        if self.pick:
            row["PickScore"] = self.pick.score(frames, entry.edits[edit])
        if self.judge and source["truth"]:
            asked = asks(entry.edits[edit], self.judge.answers)
            reading = read(self.judge, frames, source["truth"])
            row |= truth_scores(reading, source["truth"], asked, frames, original)
        tracks = motion.point_tracks(frames, source["where"])
        row["motion fidelity"] = motion.motion_fidelity(tracks, source["tracks"])
        row["warp error"] = motion.warp_error(frames, *source["flow"])
        row["FF-alpha"] = motion.ff_alpha(frames, original, source["flow"][0]) if source["explained"] else math.nan
        row["FF-beta"] = motion.ff_beta(motion.optical_flow(frames), source["flow"][0])
        if source["truth"]:
            row |= facts(source["truth"])
            row["Semantic"] = motion.semantic_score(frames, original, source["truth"].mask)
        return row

    def _of_source(self, clip: str) -> dict:
        frames = self.source(clip)
        truth = truth_beside(self.clips[clip].source, len(frames), tuple(frames.shape[-2:]))
        where = truth.mask[0] if truth else None  # else a background that stands still outweighs what moves
        flow = motion.optical_flow(frames), motion.optical_flow(frames, backward=True)
        seen = {"truth": truth, "flow": flow, "where": where, "tracks": motion.point_tracks(frames, where)}
        explained = motion.explained(frames, flow[0]) >= motion.TRUSTED  # else FF-alpha is 0 whatever the edit
        return seen | {"explained": explained}
