"""How well the diffusion model knows its objects, asked without a judge: which caption explains a noisy picture best?

The caption of every object seen in training is tried on pictures that show one thing, whole and upright, and the one
that leaves the least error wins (a diffusion classifier: Li et al., arXiv 2303.16203). Chance is one in 14.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from miniature.fit import autocast
from miniature.judge import FRESH
from miniature.pool import Pool
from miniature.scenes import PLACES, STYLES, Scenes, Thing, describe, drawings, names, plain
from miniature.text import Texts
from miniature.unet import encode, scheduler

TIMES = 500, 620, 740  # where an object takes shape
SEED = 123


def unsaid(rng: np.random.Generator, count: int) -> Scenes:
    """Plain pictures of layouts never seen, of which nothing but object and place is said."""
    scenes = plain(rng, count, FRESH)
    return scenes.with_(says=np.zeros_like(scenes.says))


@torch.no_grad()
def right(folder: Path, device: torch.device, count: int = 144) -> dict[str, float]:
    """The share of `count` pictures whose object is told, by each of TIMES and by their errors together.

    folder: of a published pipeline.
    """
    model = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).to(device).eval()
    pool = Pool(count, SEED, device, layouts=FRESH, draw=unsaid)
    latents, texts, known = encode(pool, folder, SEED).float(), Texts(folder, device), names(seen=True)
    scenes, generator = pool.scenes, torch.Generator(device).manual_seed(SEED)
    truth = torch.tensor([known.index(drawings()[number][0]) for number in scenes.drawing[:, 0]], device=device)
    where = [
        (list(STYLES)[style], list(PLACES)[place]) for style, place in zip(scenes.style, scenes.place, strict=True)
    ]
    asked = [texts.states([describe(style, [Thing(name)], place) for style, place in where]) for name in known]
    noising, found, total = scheduler(), {}, torch.zeros(count, len(known), device=device)
    for time in TIMES:
        noise = torch.randn(latents.shape, generator=generator, device=device)
        times = torch.full((count,), time, device=device)
        noisy, target = noising.add_noise(latents, noise, times), noising.get_velocity(latents, noise, times)
        errors = []
        for text in asked:
            with autocast(device):
                predicted = model(noisy, times, text).sample
            errors.append((predicted.float() - target).square().mean((1, 2, 3)))
        of_time = torch.stack(errors, 1)
        total += of_time
        found[f"at time {time}"] = _share(of_time, truth)
    return found | {"together": _share(total, truth)}


def _share(errors: torch.Tensor, truth: torch.Tensor) -> float:
    return round(float((errors.argmin(1) == truth).float().mean()), 3)
