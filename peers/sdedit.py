"""SDEdit: noise to a certain strength, then denoise with the edit prompt."""

import torch
from torch import Tensor

from peers._ddim import encode, sample, schedule
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
    strength: float = 0.5,
) -> Tensor:
    """Noise the frames, all with the same noise, and denoise them with the last `strength` of the steps.

    Meng et al., SDEdit, arXiv 2108.01073, algorithm 4 (variance preserving), in the latents of Stable Diffusion.
    strength is the paper's t_0, of which 0.3 to 0.6 balanced realism and likeness there. 0 gives the VAE's
    reconstruction, 1 starts from pure noise: the trace of the source that a schedule leaves at its end is left out.

    Not as in the paper: the deterministic DDIM step (eta 0) instead of the stochastic one, so that frames differ by
    their content only; no repetitions (K) and no mask.
    Raises InputError for a strength outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}: use 0 (the source) to 1 (noise)")
    latents = encode(pipe, clip)
    start = steps - round(strength * steps)
    noise = torch.randn(1, *latents.shape[1:], generator=torch.Generator().manual_seed(seed)).to(latents)
    if start == 0:
        latents = noise.expand_as(latents)
    elif start < steps:
        scheduler = schedule(pipe, steps)
        latents = scheduler.add_noise(latents, noise, scheduler.timesteps[start])
    return sample(pipe, latents, edit_prompt, steps, guidance_scale, negative_prompt, start=start)
