"""CogVideo's role: a clip from text alone, by a model that was trained on video. It never sees the source."""

import torch
import torch.nn.functional as F
from diffusers import AnimateDiffPipeline, DDIMScheduler, DiffusionPipeline, MotionAdapter
from diffusers.utils import logging
from torch import Tensor

from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    source_caption: str,
    edit_prompt: str,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    negative_prompt: str = "",
    model: str = "models/miniature/text-to-video",
) -> Tensor:
    """Sample the edit prompt from random noise; of the clip only its length and size are used.

    The paper compares with CogVideo (Hong et al., arXiv 2205.15868), which no current library runs. `model`, a folder
    or a Hub id, takes its place: a MotionAdapter (Guo et al., AnimateDiff, arXiv 2307.04725), which is put on the image
    model of `pipe` and shares its scheduler; or a whole text-to-video pipeline such as CogVideoX (Yang et al., arXiv
    2408.06072, Hub id THUDM/CogVideoX-2b), of whose clip, sampled at its own length and size, the first frames are
    taken, resized and cropped.

    Raises InputError if the model cannot be loaded or makes fewer frames than the clip has.
    """
    frames, (height, width) = len(clip), clip.shape[-2:]
    video, longest = _load(pipe, model)
    settings = {} if longest is None else {"num_frames": frames, "height": height, "width": width}
    if longest is not None and frames > longest:
        raise InputError(f"{model} makes {longest} frames and the clip has {frames}: shorten the clip")
    video.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    with pipe.at_hand(pipe.text_encoder), pipe.at_hand(pipe.vae):  # an adapter's pipeline shares them
        sampled = video(
            edit_prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **settings,
        ).frames[0]
    if len(sampled) < frames:
        raise InputError(f"{model} makes {len(sampled)} frames and the clip has {frames}: shorten the clip")
    return _fit(sampled[:frames].float(), (height, width))


def _load(pipe: TuneAVideoPipeline, model: str) -> tuple[DiffusionPipeline, int | None]:
    """The text-to-video pipeline, on the device of `pipe`, and how many frames it can be asked for, if it can.

    The last one is kept with `pipe`: the edits of a clip follow each other, and the image model's weights, of which an
    adapter's pipeline has a copy, stay as they are.
    """
    kept, loaded = getattr(pipe, "_text_to_video", (None, None))
    if kept == model:
        return loaded
    placed = {"dtype": pipe.unet.dtype}
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what cannot be loaded is said once, below
    try:
        if _is_adapter(model):
            loaded = _animated(pipe, MotionAdapter.from_pretrained(model, **placed))
        else:
            loaded = DiffusionPipeline.from_pretrained(model, **placed).to(pipe.device), None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot load {model} ({reason}): give a motion adapter or a text-to-video model") from error
    finally:
        logging.set_verbosity(level)
    pipe._text_to_video = model, loaded
    return loaded


def _animated(pipe: TuneAVideoPipeline, adapter: MotionAdapter) -> tuple[DiffusionPipeline, int]:
    """The image model of `pipe` with a motion adapter put on it, and the longest clip that this makes."""
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    video = AnimateDiffPipeline(**parts, motion_adapter=adapter, scheduler=scheduler)
    video.unet.to(pipe.device)
    if video.unet.dtype != pipe.unet.dtype:  # diffusers warns of a dtype that is given, even of the same
        video.unet.to(pipe.unet.dtype)
    return video, adapter.config.motion_max_seq_length


def _is_adapter(model: str) -> bool:
    try:
        return MotionAdapter.load_config(model).get("_class_name") == MotionAdapter.__name__
    except OSError:  # a pipeline has no config.json of its own
        return False


def _fit(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames f 3 h w scaled until they cover (h, w), and cropped to it around their centre."""
    scale = max(target / side for target, side in zip(size, frames.shape[-2:], strict=True))
    if scale != 1:
        inner = [round(side * scale) for side in frames.shape[-2:]]
        frames = F.interpolate(frames, inner, mode="bilinear", antialias=True)
    top, left = ((side - target) // 2 for side, target in zip(frames.shape[-2:], size, strict=True))
    return frames[..., top : top + size[0], left : left + size[1]].clamp(0, 1)
