"""DDIM inversion that keeps its trajectory, and DDIM sampling in which a clip's source may run beside its edit."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from peers._attention import transformer_blocks
from tav.errors import InputError
from tav.model import ClipAttnProcessor, ClipGroupNorm
from tav.pipeline import TuneAVideoPipeline


@dataclass(frozen=True)
class Sampling:
    """How a peer samples.

    steps: DDIM steps of sampling, and of inversion where a method inverts. guidance_scale: of classifier-free guidance;
    1 does without. negative_prompt: what it guides away from. seed: of whatever is random; a seed gives the same frames
    every time.
    """

    steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str = ""


def encode(pipe: TuneAVideoPipeline, clip: Tensor) -> Tensor:
    """The latents f c h w of a clip f 3 h w in [-1, 1]; InputError if `pipe` is more than the image model."""
    blocks = transformer_blocks(pipe.unet)
    clip_attention = any(isinstance(block.attn1.processor, ClipAttnProcessor) for block in blocks)
    temporal = any(hasattr(block, "attn_temp") for block in blocks)
    if clip_attention or temporal or isinstance(pipe.unet.conv_norm_out, ClipGroupNorm):
        raise InputError("this method takes the image model: load it with attention own, temporal false and norm frame")
    return pipe.encode_clip(clip)


def invert(pipe: TuneAVideoPipeline, latents: Tensor, steps: int, prompt: str) -> dict[int, Tensor]:
    """DDIM inversion of latents f c h w: what they are at each timestep of sampling, the least noise first."""
    seen, noise = inversion(pipe, latents, steps, prompt)
    return dict(zip(seen, [*list(seen.values())[1:], noise], strict=True))


def inversion(pipe: TuneAVideoPipeline, latents: Tensor, steps: int, prompt: str) -> tuple[dict[int, Tensor], Tensor]:
    """DDIM inversion of latents f c h w: what the UNet was shown at each timestep, the least noise first; the noise."""
    seen = {}

    def keep(_, args: tuple) -> None:
        seen[int(args[1])] = args[0]

    handle = pipe.unet.register_forward_pre_hook(keep)
    try:
        noise = pipe.invert(latents, num_inference_steps=steps, prompt=prompt)
    finally:
        handle.remove()
    return seen, noise


def noise_of(trajectory: Mapping[int, Tensor]) -> Tensor:
    """The end of an inversion, where sampling starts."""
    return trajectory[max(trajectory)]


def schedule(pipe: TuneAVideoPipeline, steps: int) -> DDIMScheduler:
    """A scheduler of its own, set to `steps`."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=pipe.device)
    return scheduler


def sample_by_pipeline(pipe: TuneAVideoPipeline, noise: Tensor, prompt: str, sampling: Sampling) -> Tensor:
    """Frames f 3 h w in [0, 1] from noise f c h w, as `pipe` itself samples."""
    settings = {"guidance_scale": sampling.guidance_scale, "negative_prompt": sampling.negative_prompt}
    return pipe(prompt, noise, sampling.steps, output_type="pt", **settings).frames[0]


@torch.no_grad()
def sample(
    pipe: TuneAVideoPipeline,
    latents: Tensor,
    prompt: str,
    sampling: Sampling,
    start: int = 0,
    source: Mapping[int, Tensor] | None = None,
    source_prompt: str = "",
    around: Callable[[int], AbstractContextManager] = lambda step: nullcontext(),
) -> Tensor:
    """Frames f 3 h w in [0, 1] from latents f c h w as they are before step `start` (DDIM, eta 0).

    The UNet's batch is whole clips: negative prompt and edit prompt under guidance, else the edit prompt alone. With
    `source`, a trajectory from `invert`, the source's latents of the same timestep come before them with
    `source_prompt`; what the UNet predicts for them is not used. Every call of the UNet is made within `around(step)`.
    """
    scheduler = schedule(pipe, sampling.steps)
    guided = sampling.guidance_scale > 1
    text, negative_text = pipe.embed([prompt], [sampling.negative_prompt] if guided else None)
    texts = [negative_text, text] if guided else [text]
    edited = len(texts)
    if source:
        texts = [pipe.embed([source_prompt])[0], *texts]
    texts = torch.cat(texts).repeat_interleave(pipe.num_frames, dim=0)
    latents = latents.to(pipe.device, pipe.unet.dtype)
    with pipe.progress_bar(total=sampling.steps - start) as bar:
        for step, timestep in list(enumerate(scheduler.timesteps))[start:]:
            clips = ([source[int(timestep)]] if source else []) + [latents] * edited
            with around(step):
                predicted = pipe.unet(torch.cat(clips), timestep, texts).sample
            predicted = predicted.split(pipe.num_frames)
            towards = predicted[-1]
            if guided:
                towards = predicted[-2] + sampling.guidance_scale * (predicted[-1] - predicted[-2])
            latents = scheduler.step(towards, timestep, latents).prev_sample
            bar.update()
    return pipe.decode_clip(latents)
