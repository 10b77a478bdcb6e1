"""All measures of an edited clip in one row, and what a table of such rows says of the methods."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
from torch import Tensor

from tav.clip import read_frames
from tav.config import Params
from tav.judge import Judge
from tav.motion import (
    TRUSTED,
    explained,
    ff_alpha,
    ff_beta,
    motion_fidelity,
    optical_flow,
    point_tracks,
    semantic_score,
    warp_error,
)
from tav.score import ClipScorer, Interval, bootstrap, clip_scores
from tav.truth import asks, truth_beside, truth_scores

RESULTS = Path("results")
METHOD = "Tune-A-Video"
SOURCE = "the source clip itself"
REPEATED = "one edited frame, repeated"


class Evaluator:
    """Scores edits of the clips of params.yaml: by CLIP, by flow and tracks, and by a judge where truth is known."""

    def __init__(self, params: Params, square: int | None = None, source: Callable[[str], Tensor] | None = None):
        """`square`: see `ClipScorer`. `source` gives a clip's frames; by default those that the stage tune kept."""
        self.params = params
        self.scorer = ClipScorer(params.score.clip_model, params.device, square)
        self.judge = Judge.load(params.score.judge, params.device) if params.score.judge else None
        self.source = source or cache(lambda clip: read_frames(RESULTS / "tune" / clip / "source"))
        self._seen = cache(self._of_source)
        self._prompt = cache(self.scorer.embed_prompt)

    def score(self, clip: str, edit: str, frames: Tensor) -> dict[str, float]:
        """Every measure of one edit, frames f 3 h w in [0, 1]; those that cannot be taken are nan or not there."""
        entry, original, source = self.params.clips[clip], self.source(clip), self._seen(clip)
        prompt = entry.edits[edit]
        texts = self._prompt(prompt), self._prompt(entry.caption)
        row = clip_scores(self.scorer.embed_frames(frames), *texts)
        if self.judge:
            reading = self.judge.read(frames)
            if source["truth"]:
                asked = asks(prompt, self.judge.answers)
                row |= truth_scores(reading, source["truth"], asked, frames, original)
        row["motion fidelity"] = motion_fidelity(point_tracks(frames, source["where"]), source["tracks"])
        row["warp error"] = warp_error(frames, *source["flow"])
        row["FF-alpha"] = ff_alpha(frames, original, source["flow"][0]) if source["explained"] else math.nan
        row["FF-beta"] = ff_beta(optical_flow(frames), source["flow"][0])
        if source["truth"]:
            row["Semantic"] = semantic_score(frames, original, source["truth"].mask)
        return row

    def table(self, methods: Mapping[str, Mapping[tuple[str, str], Tensor]]) -> pd.DataFrame:
        """A row per method and (clip, edit): method, clip, edit and every measure."""
        rows = [
            {"method": method, "clip": clip, "edit": edit} | self.score(clip, edit, frames)
            for method, edits in methods.items()
            for (clip, edit), frames in edits.items()
        ]
        return pd.DataFrame(rows)

    def _of_source(self, clip: str) -> dict:
        frames, size = self.source(clip), self.params.clip
        truth = truth_beside(self.params.clips[clip].source, size.num_frames, size.size)
        where = truth.mask[0] if truth else None  # else a background that stands still outweighs what moves
        flow = optical_flow(frames), optical_flow(frames, backward=True)
        seen = {"truth": truth, "flow": flow, "where": where, "tracks": point_tracks(frames, where)}
        return seen | {"explained": explained(frames, flow[0]) >= TRUSTED}  # below, FF-alpha is 0 whatever the edit


def edits_in(params: Params, folder: str | Path) -> dict[tuple[str, str], Tensor]:
    """The frames of every edit of params.yaml under `folder`/<clip>/<edit>."""
    pairs = [(clip, edit) for clip, entry in params.clips.items() for edit in entry.edits]
    return {(clip, edit): read_frames(Path(folder) / clip / edit) for clip, edit in pairs}


def trivial(edits: Mapping[tuple[str, str], Tensor], source) -> dict[str, dict[tuple[str, str], Tensor]]:
    """The two methods that do nothing: the source clip itself, and the middle frame of each edit repeated."""
    return {
        SOURCE: {pair: source(pair[0]) for pair in edits},
        REPEATED: {pair: frames[len(frames) // 2].expand_as(frames) for pair, frames in edits.items()},
    }


def means(scores: pd.DataFrame, measures: Iterable[str]) -> dict[str, dict[str, Interval]]:
    """Per measure and method the mean over edits with its interval over clips; edits without a value are left out."""
    return {
        measure: {method: over_clips(group, measure) for method, group in scores.groupby("method", sort=False)}
        for measure in measures
    }


def gains(scores: pd.DataFrame, measure: str, method: str, other: str) -> Interval:
    """What `method` has more than `other` of a measure, edit by edit, of the same seed if there are several.

    The mean with its interval over clips; what only one of the two has is left out.
    """
    pairs = scores.set_index([key for key in ("method", "seed", "clip", "edit") if key in scores])[measure]
    gain = (pairs[method] - pairs[other]).rename(measure).reset_index()
    return over_clips(gain, measure)


def over_clips(scores: pd.DataFrame, measure: str) -> Interval:
    """The mean of a measure with an interval that resamples clips, each with its edits (and seeds)."""
    if measure not in scores or scores[measure].isna().all():
        return Interval(math.nan, math.nan, math.nan)
    return bootstrap(scores.dropna(subset=[measure]).groupby("clip")[measure].apply(list).to_dict())
