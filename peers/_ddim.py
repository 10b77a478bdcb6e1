"""DDIM inversion that keeps its trajectory, and DDIM sampling in which a clip's source may run beside its edit."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from peers._attention import transformer_blocks
from tav.errors import InputError
from tav.model import ClipAttnProcessor, ClipGroupNorm
from tav.pipeline import TuneAVideoPipeline


def encode(pipe: TuneAVideoPipeline, clip: Tensor) -> Tensor:
    """The latents f c h w of a clip f 3 h w in [-1, 1]; InputError if `pipe` is more than the image model."""
    blocks = transformer_blocks(pipe.unet)
    clip_attention = any(isinstance(block.attn1.processor, ClipAttnProcessor) for block in blocks)
    temporal = any(hasattr(block, "attn_temp") for block in blocks)
    if clip_attention or temporal or isinstance(pipe.unet.conv_norm_out, ClipGroupNorm):
        raise InputError("this method takes the image model: load it with attention own, temporal false and norm frame")
    return pipe.encode_clip(clip)


def invert(
    pipe: TuneAVideoPipeline, latents: Tensor, steps: int, prompt: str, attention: str = "own"
) -> dict[int, Tensor]:
    """DDIM inversion of latents f c h w: what they are at each timestep of sampling, the least noise first.

    The last inversion is kept with `pipe` and taken again where nothing differs: the edits of a clip follow each other,
    and the weights of an image model stay as they are. attention: what is set in the UNet, by any name.
    """
    asked, (kept, kept_latents, trajectory) = (steps, prompt, attention), getattr(pipe, "_inversion", (None,) * 3)
    if kept == asked and torch.equal(kept_latents, latents):
        return trajectory
    seen = []  # what the UNet is called with at every step
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append((int(args[1]), args[0])))
    try:
        noise = pipe.invert(latents, num_inference_steps=steps, prompt=prompt)
    finally:
        handle.remove()
    timesteps, before = zip(*seen, strict=True)
    trajectory = dict(zip(timesteps, [*before[1:], noise], strict=True))
    pipe._inversion = asked, latents, trajectory
    return trajectory


def noise_of(trajectory: Mapping[int, Tensor]) -> Tensor:
    """The end of an inversion, where sampling starts."""
    return trajectory[max(trajectory)]


def schedule(pipe: TuneAVideoPipeline, steps: int) -> DDIMScheduler:
    """A scheduler of its own, set to `steps`."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=pipe.device)
    return scheduler


@torch.no_grad()
def sample(
    pipe: TuneAVideoPipeline,
    latents: Tensor,
    prompt: str,
    steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    start: int = 0,
    source: Mapping[int, Tensor] | None = None,
    source_prompt: str = "",
    around: Callable[[int], AbstractContextManager] = lambda step: nullcontext(),
) -> Tensor:
    """Frames f 3 h w in [0, 1] from latents f c h w as they are before step `start` of `steps` (DDIM, eta 0).

    The UNet's batch is whole clips: negative prompt and edit prompt under guidance, else the edit prompt alone. With
    `source`, a trajectory from `invert`, the source's latents of the same timestep come before them with
    `source_prompt`; what the UNet predicts for them is not used. Every call of the UNet is made within `around(step)`.
    """
    scheduler = schedule(pipe, steps)
    text, negative_text = pipe.embed([prompt], [negative_prompt] if guidance_scale > 1 else None)
    texts = [text] if negative_text is None else [negative_text, text]
    edited = len(texts)
    if source:
        texts = [pipe.embed([source_prompt])[0], *texts]
    texts = torch.cat(texts).repeat_interleave(pipe.num_frames, dim=0)
    latents = latents.to(pipe.device, pipe.unet.dtype)
    with pipe.progress_bar(total=steps - start) as bar:
        for step, timestep in list(enumerate(scheduler.timesteps))[start:]:
            clips = ([source[int(timestep)]] if source else []) + [latents] * edited
            with around(step):
                predicted = pipe.unet(torch.cat(clips), timestep, texts).sample
            predicted = predicted.split(pipe.num_frames)
            guided = predicted[-1]
            if edited == 2:
                guided = predicted[-2] + guidance_scale * (predicted[-1] - predicted[-2])
            latents = scheduler.step(guided, timestep, latents).prev_sample
            bar.update()
    return pipe.decode_clip(latents)
