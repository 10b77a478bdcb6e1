"""The methods that Tune-A-Video stands beside, on the same image model, one file each and one signature for all.

    METHODS[name](pipe, clip, source_caption, edit_prompt, steps=, guidance_scale=, seed=, **settings) -> frames

pipe: the image model, `load_pipeline(model, num_frames=f, attention="own", temporal=False, norm="frame")`. It is left
    as it was found: whatever a method changes in its UNet is put back.
clip: f 3 h w in [-1, 1], as many frames as `pipe` has. frames: f 3 h w in [0, 1].
steps, guidance_scale: DDIM steps of sampling, and of inversion where a method inverts, and classifier-free guidance.
seed: of whatever is random; a seed gives the same frames every time.
settings: negative_prompt, and the method's own: see its docstring and `defaults`, which are the original's.

None of them tunes weights. The originals' settings are for Stable Diffusion, 50 steps and 512x512 pictures.
"""

import inspect
from collections.abc import Callable

from peers import (
    attention_fusion,
    feature_propagation,
    first_frame_attention,
    per_frame,
    plug_and_play,
    sdedit,
    text_to_video,
)

METHODS: dict[str, Callable] = {
    "per-frame": per_frame.edit,
    "sdedit": sdedit.edit,
    "plug-and-play": plug_and_play.edit,
    "first-frame-attention": first_frame_attention.edit,
    "attention-fusion": attention_fusion.edit,
    "feature-propagation": feature_propagation.edit,
    "text-to-video": text_to_video.edit,
}


def defaults(method: str) -> dict:
    """A method's own settings and their defaults, {name: value}."""
    parameters = inspect.signature(METHODS[method]).parameters.values()
    own = (parameter for parameter in parameters if parameter.default is not parameter.empty)
    return {parameter.name: parameter.default for parameter in own if parameter.name != "negative_prompt"}
