"""A clip from its file to the tuned model and its noise, for the stages whose clips `tune` and `invert` do not have."""

from pathlib import Path

from torch import Tensor

from studies.settings import Params
from studies.stages import label, load_model, read_source, tune_with_progress
from tav.pipeline import TuneAVideoPipeline


def tuned(params: Params, name: str, state: Path | None = None) -> tuple[TuneAVideoPipeline, Tensor]:
    """The model tuned on a clip, and the clip's inverted noise f c h w; the clip is encoded once.

    `state`: see `tav.tune`.
    """
    pipe = load_model(params)
    posterior = pipe.encode_posterior(read_source(params, name))
    tune_with_progress(pipe, posterior, params, name, state)
    label(pipe, f"invert {name}")
    return pipe, pipe.invert(pipe.scale(posterior.mode()), params.invert.steps)
