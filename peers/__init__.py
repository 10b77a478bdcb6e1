"""The methods that Tune-A-Video stands beside, on the same image model, one file each and one signature for all.

    PEERS[name].edit(pipe, clip, caption, prompts, sampling, **own) -> an iterator of frames, one clip per prompt

pipe: the image model, `load_pipeline(model, num_frames=f, attention="own", temporal=False, norm="frame")`. It is left
    as it was found: whatever a method changes in its UNet is put back.
clip: f 3 h w in [-1, 1], as many frames as `pipe` has. It is encoded and inverted once, whatever the prompts.
caption: what the clip shows. prompts: what it is to become, one after the other.
frames: f 3 h w in [0, 1].
sampling: see `Sampling`. own: the method's own settings, see its docstring; its signature has their types, ranges and
defaults, which are the original's.

None of them tunes weights. The originals' settings are for Stable Diffusion, 50 steps and 512x512 pictures.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from peers import fatezero, per_frame, plug_and_play, sdedit, text2video_zero, text_to_video, tokenflow, vidtome
from peers._ddim import Sampling

__all__ = ["PEERS", "Peer", "Sampling", "own_settings"]


class Peer(NamedTuple):
    """A method by its published name and where it was published, and the function that edits as it does."""

    name: str
    venue: str
    edit: Callable


PEERS = {
    "per-frame": Peer("DDIM inversion, frame by frame", "ICLR 2021", per_frame.edit),
    "sdedit": Peer("SDEdit", "ICLR 2022", sdedit.edit),
    "plug-and-play": Peer("Plug-and-Play", "CVPR 2023", plug_and_play.edit),
    "text2video-zero": Peer("Text2Video-Zero", "ICCV 2023", text2video_zero.edit),
    "fatezero": Peer("FateZero", "ICCV 2023", fatezero.edit),
    "tokenflow": Peer("TokenFlow", "ICLR 2024", tokenflow.edit),
    "vidtome": Peer("VidToMe", "CVPR 2024", vidtome.edit),
    "text-to-video": Peer("Text-to-video", "in the role of CogVideo, ICLR 2023", text_to_video.edit),
}


def own_settings(peer: str) -> dict[str, tuple]:
    """A method's own settings, {name: (type, default)}, as `pydantic.create_model` takes them."""
    parameters = inspect.signature(PEERS[peer].edit).parameters.values()
    return {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
