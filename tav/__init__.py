"""Tune-A-Video: one-shot tuning of an image diffusion model into a text-to-video editor."""

from tav.checkpoint import load_tuned, save_tuned
from tav.clip import read_clip
from tav.model import tuned_parameters
from tav.pipeline import TuneAVideoPipeline, load_pipeline
from tav.tune import tune

__all__ = ["TuneAVideoPipeline", "load_pipeline", "load_tuned", "read_clip", "save_tuned", "tune", "tuned_parameters"]
