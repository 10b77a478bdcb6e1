"""CogVideo's role: a clip from text alone, by a model that was trained on video. It never sees the source."""

from collections.abc import Iterable, Iterator

import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, DiffusionPipeline, MotionAdapter
from diffusers.utils import logging
from torch import Tensor

from peers._ddim import Sampling
from peers._settings import Model
from tav.clip import fit_pictures
from tav.errors import InputError, loading
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    model: Model = "models/miniature/text-to-video",
) -> Iterator[Tensor]:
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
    for prompt in prompts:
        with pipe.at_hand(pipe.text_encoder), pipe.at_hand(pipe.vae):  # an adapter's pipeline shares them
            sampled = video(
                prompt,
                negative_prompt=sampling.negative_prompt,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
                generator=torch.Generator().manual_seed(sampling.seed),
                output_type="pt",
                **settings,
            ).frames[0]
        if len(sampled) < frames:
            raise InputError(f"{model} makes {len(sampled)} frames and the clip has {frames}: shorten the clip")
        yield fit_pictures(sampled[:frames].float(), (height, width)).clamp(0, 1)


def _load(pipe: TuneAVideoPipeline, model: str) -> tuple[DiffusionPipeline, int | None]:
    """The text-to-video pipeline, on the device of `pipe`, and how many frames it can be asked for, if it can."""
    placed = {"dtype": pipe.unet.dtype}
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what cannot be loaded is said once, below
    try:
        with loading(model, "give a motion adapter or a text-to-video model"):
            if _is_adapter(model):
                return _animated(pipe, MotionAdapter.from_pretrained(model, **placed))
            return DiffusionPipeline.from_pretrained(model, **placed).to(pipe.device), None
    finally:
        logging.set_verbosity(level)


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
