"""What consistency and motion alone can be won by: the source itself, and a still picture."""

from torch import Tensor

from baselines import per_frame
from tav.pipeline import TuneAVideoPipeline


def source(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    source_caption: str,
    edit_prompt: str,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    negative_prompt: str = "",
) -> Tensor:
    """The clip as it is, f 3 h w in [0, 1]: all of its motion and none of the edit."""
    return (clip + 1) / 2


def repeated(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    source_caption: str,
    edit_prompt: str,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    negative_prompt: str = "",
    captioned_inversion: bool = True,
) -> Tensor:
    """The middle frame that `per_frame` makes of the clip, in place of all frames: consistent, and without motion."""
    settings = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "negative_prompt": negative_prompt}
    frames = per_frame.edit(
        pipe, clip, source_caption, edit_prompt, captioned_inversion=captioned_inversion, **settings
    )
    return frames[len(frames) // 2].expand_as(frames)
