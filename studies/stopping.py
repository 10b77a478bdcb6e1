"""Tune no longer than needed: stop when a clip is learnt, or when what a prompt asks is being forgotten."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import torch
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn.functional import mse_loss

from studies.settings import Params
from tav.pipeline import TuneAVideoPipeline

EVERY, PATIENCE = 25, 2  # steps between checks, and checks without a gain after which tuning ends
LEAST = 0.03  # of what the error has fallen so far: less is no gain
LEVELS = 6  # noise levels, evenly spread
FALL = 2.0  # points of text alignment (a cosine, x100) below its best


@torch.no_grad()
def held_error(pipe: TuneAVideoPipeline, posterior: DiagonalGaussianDistribution, caption: str, seed: int) -> float:
    """The error of predicting a clip at held noise levels, under held noise: what tuning lowers, luck left out."""
    noising = DDPMScheduler.from_config(pipe.scheduler.config)
    latents, errors = pipe.scale(posterior.mode()).float(), []
    text = pipe.embed([caption])[0].expand(len(latents), -1, -1)
    for level in range(LEVELS):
        generator = torch.Generator().manual_seed((seed * LEVELS + level) % 2**63)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        share = (level + 0.5) / LEVELS
        timestep = torch.tensor([round(share * noising.config.num_train_timesteps)], device=latents.device)
        noisy = noising.add_noise(latents, noise, timestep)
        velocity = noising.config.prediction_type == "v_prediction"
        target = noising.get_velocity(latents, noise, timestep) if velocity else noise
        with half_as_tuned(pipe):
            predicted = pipe.unet(noisy.to(pipe.unet.dtype), timestep, text).sample
        errors.append(mse_loss(predicted.float(), target).item())
    return sum(errors) / LEVELS


def preview(pipe: TuneAVideoPipeline, prompt: str, shape: torch.Size, guidance_scale: float, steps: int = 4) -> Tensor:
    """A prompt's clip f 3 h w in [0, 1] in few steps, always from the same noise: a look, no result.

    shape: of the latents f c h w.
    """
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    with half_as_tuned(pipe):
        return pipe(prompt, noise, steps, guidance_scale=guidance_scale, output_type="pt").frames[0].cpu()


def half_as_tuned(pipe: TuneAVideoPipeline) -> torch.autocast:
    """What a model in half precision needs while its tuned weights are in float32."""
    half = pipe.text_encoder.dtype  # the UNet's own may be float32 while all of it is tuned
    return torch.autocast(pipe.device.type, half, enabled=half != torch.float32)


class Learnt:
    """Whether tuning has done its work, by two readings: the error at held noise levels, and how far a prompt is met.

    It has when PATIENCE checks in a row have not lowered the error by LEAST of its fall so far, or when text alignment
    has stayed FALL below its best for as long.
    """

    def __init__(self, error: Callable[[], float], alignment: Callable[[], float]):
        self.error, self.alignment = error, alignment
        self.first = self.lowest = error()
        self.best, self.without_gain, self.below = -math.inf, 0, 0

    def __call__(self) -> bool:
        error, alignment = self.error(), self.alignment()
        gained = self.lowest - error > LEAST * (self.first - error)
        self.without_gain = 0 if gained else self.without_gain + 1
        self.lowest = min(self.lowest, error)
        self.best = max(self.best, alignment)
        self.below = self.below + 1 if alignment < self.best - FALL else 0
        return max(self.without_gain, self.below) >= PATIENCE


def learnt(
    pipe: TuneAVideoPipeline, posterior: DiagonalGaussianDistribution, caption: str, prompt: str, params: Params
) -> Learnt:
    """Watches the tuning of `pipe` on a clip's posterior; `prompt` is what must not be forgotten."""
    from measures.score import ClipScorer, text_alignment  # seconds that tuning by steps does not need

    scorer = ClipScorer(params.score.clip_model, params.device)
    text, shape = scorer.embed_prompt(prompt), posterior.mean.shape
    return Learnt(
        lambda: held_error(pipe, posterior, caption, params.tune.seed),
        lambda: text_alignment(scorer.embed_frames(preview(pipe, prompt, shape, params.edit.guidance_scale)), text),
    )


def until(ended: Callable[[], bool], steps: Generator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """The steps of `tav.tune.tune` until, at one of the checks, a clip is learnt."""
    with closing(steps):
        for step, loss in steps:
            yield step, loss
            if step % EVERY == 0 and ended():
                return
