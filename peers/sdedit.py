"""SDEdit: noise to a certain strength, then denoise with the edit prompt."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from peers._ddim import Sampling, encode, sample, schedule
from peers._settings import Share
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    strength: Share = 0.5,
) -> Iterator[Tensor]:
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
    start = sampling.steps - round(strength * sampling.steps)
    generator = torch.Generator().manual_seed(sampling.seed)
    noise = torch.randn(1, *latents.shape[1:], generator=generator).to(latents)
    if start == 0:
        latents = noise.expand_as(latents)
    elif start < sampling.steps:
        scheduler = schedule(pipe, sampling.steps)
        latents = scheduler.add_noise(latents, noise, scheduler.timesteps[start])
    for prompt in prompts:
        yield sample(pipe, latents, prompt, sampling, start=start)
