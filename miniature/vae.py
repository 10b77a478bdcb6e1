"""The picture autoencoder: 64x64 pictures to 16x16 latents of eight channels, none of which is ever empty."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from miniature.fit import autocast, fit, replacing
from miniature.pool import Pool
from miniature.scenes import SIZE

CHANNELS = 8
FLOOR = 0.3  # deviation that grain alone has in every direction of the latents, unless
MOST = 3.0  # this would be exceeded by a channel's own: then that much


def build() -> AutoencoderKL:
    """Three levels, narrow where pixels are many."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def train(settings: dict, folder: Path, device: torch.device, stop_after=float("inf"), seconds=None) -> None:
    """Train and publish to `folder`/vae: absolute and squared error of pictures, absolute error of the differences
    between neighbours, and a little KL. Only objects of training are seen."""
    pool = Pool(settings["pool"], settings["seed"], device)
    torch.manual_seed(settings["seed"])
    model = build().to(device, memory_format=torch.channels_last)

    def loss(model, rng, generator):
        real = pool.take(rng.integers(len(pool), size=settings["batch"]), generator) * 2 - 1
        with autocast(device):
            posterior = model.encode(real).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator, device=device)
            drawn = model.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = posterior.kl().float().mean() / real[0].numel()
        edges = sum(l1_loss(drawn.diff(dim=dim), real.diff(dim=dim)) for dim in (2, 3))
        error = l1_loss(drawn, real) + 2 * mse_loss(drawn, real)
        return error + settings["edges"] * edges + settings["kl"] * kl

    model = fit("vae", model, loss, settings, stop_after, seconds).float()
    standardise(model, pool, settings["seed"])
    with replacing(folder / "vae") as new:
        model.half().to(memory_format=torch.contiguous_format).save_pretrained(new)


@torch.no_grad()
def standardise(model: AutoencoderKL, pool: Pool, seed: int, count: int = 2048) -> None:
    """Turn and scale the latents, in the 1x1 convolutions around them, so that grain alone has the deviation FLOOR in
    every direction, no channel more than MOST, and channels are uncorrelated; what is drawn does not change.

    DDIM inversion in 25 steps makes noise of deviation 1 only from what has at least about 0.25: of a direction without
    any it makes none. The posterior's deviation becomes one number a channel.
    """
    chosen = np.random.default_rng([seed, 9]).integers(len(pool), size=count)
    twice, spread = [], []
    for number in range(2):
        generator = torch.Generator(pool.device).manual_seed(seed + number)
        parts = [pool.take(part, generator) * 2 - 1 for part in np.array_split(chosen, count // 64)]
        posteriors = [model.encode(part).latent_dist for part in parts]
        twice.append(torch.cat([_vectors(posterior.mean) for posterior in posteriors]).double())
        spread += [posterior.var.mean((0, 2, 3)).double() for posterior in posteriors]
    mean = twice[0].mean(0)
    grain = (twice[0] - twice[1]).T.cov() / 2
    values, axes = torch.linalg.eigh(grain)
    even = FLOOR * axes @ (values.clamp(min=1e-9) ** -0.5).diag() @ axes.T
    spans, turn = torch.linalg.eigh(even @ twice[0].T.cov() @ even.T)
    shrink = (MOST / spans.sqrt()).clamp(max=1)
    change = (turn * shrink).flip(1).T @ even  # the channel that varies most comes first
    noise = change.square() @ torch.stack(spread).mean(0)
    before, after = model.quant_conv, model.post_quant_conv
    kernel = before.weight[:CHANNELS, :, 0, 0].double()
    before.weight[:CHANNELS] = (change @ kernel)[..., None, None].to(before.weight)
    before.bias[:CHANNELS] = (change @ (before.bias[:CHANNELS].double() - mean)).to(before.bias)
    before.weight[CHANNELS:] = 0
    before.bias[CHANNELS:] = noise.log().to(before.bias)
    kernel = after.weight[..., 0, 0].double()
    after.bias += (kernel @ mean).to(after.bias)
    after.weight[:] = (kernel @ change.inverse())[..., None, None].to(after.weight)
    model.register_to_config(scaling_factor=1.0)


def _vectors(latents: Tensor) -> Tensor:
    return latents.movedim(1, -1).flatten(0, -2)
