"""The measures of the edits that a run made: what its sections put into their tables."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor

from measures.evaluate import Evaluator
from measures.tables import Stored
from studies.settings import Params
from tav.clip import read_frames


def evaluator(params: Params, source: Callable[[str], Tensor] | None = None) -> Evaluator:
    """Scores edits of the clips of params.yaml; `source` gives a clip's frames, by default those that `tune` kept."""
    source = source or cache(lambda clip: read_frames(f"results/tune/{clip}/source"))
    return Evaluator(params.clips, source, **params.score.model_dump(), device=params.device)


def edits_in(params: Params, folder: str | Path) -> Stored:
    """The frames of every edit (clip, edit) of params.yaml under `folder`/<clip>/<edit>."""
    pairs = [(clip, edit) for clip, entry in params.clips.items() for edit in entry.edits]
    return Stored({(clip, edit): Path(folder) / clip / edit for clip, edit in pairs})
