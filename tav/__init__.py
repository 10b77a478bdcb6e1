"""Tune-A-Video: one-shot tuning of an image diffusion model into a text-to-video editor.

Names are imported when they are first used: diffusers and transformers take seconds, and whoever reads a clip or a
setting alone does not need them.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tav.checkpoint import load_tuned, save_tuned
    from tav.clip import read_clip
    from tav.model import tuned_parameters
    from tav.pipeline import TuneAVideoPipeline, load_pipeline
    from tav.tune import tune

__all__ = ["TuneAVideoPipeline", "load_pipeline", "load_tuned", "read_clip", "save_tuned", "tune", "tuned_parameters"]

_MODULES = {
    "TuneAVideoPipeline": "tav.pipeline",
    "load_pipeline": "tav.pipeline",
    "load_tuned": "tav.checkpoint",
    "read_clip": "tav.clip",
    "save_tuned": "tav.checkpoint",
    "tune": "tav.tune",
    "tuned_parameters": "tav.model",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Importing the module tav.tune would put it in the place of the function of that name, which stays."""
        if name not in _MODULES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
