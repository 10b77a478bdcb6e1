"""The picture autoencoder: 64x64 pictures to 16x16 latents of four channels."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import l1_loss

from miniature.fit import autocast, fit, replacing
from miniature.world import draw, random_scene


def build() -> AutoencoderKL:
    """Three levels, the first of 16 channels: what full resolution costs is what a small autoencoder costs."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Fresh pictures of the training distribution: (count, 3, 64, 64) in [-1, 1]."""
    batch = np.stack([draw(random_scene(rng)) for _ in range(count)])
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train and publish to `folder`/vae: L1 on pictures and on their differences between neighbours, a little KL."""
    model = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32) if settings["warm"] else build()

    def loss(model, rng, generator):
        real = pictures(rng, settings["batch"]).to(device)
        with autocast(device):
            posterior = model.encode(real).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            drawn = model.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = posterior.kl().mean() / real[0].numel()
        edges = sum(l1_loss(drawn.diff(dim=dim), real.diff(dim=dim)) for dim in (2, 3))
        return l1_loss(drawn, real) + settings["edges"] * edges + settings["kl"] * kl

    model = fit("vae", model.to(device), loss, settings, stop_after)
    with torch.no_grad():
        real = pictures(np.random.default_rng(settings["seed"]), 1024).to(device)
        standardise(model, model.encode(real).latent_dist.mode())
    with replacing(folder / "vae") as new:
        model.half().save_pretrained(new)


@torch.no_grad()
def standardise(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions around the latents.

    The diffusion model then meets channels of mean 0 and deviation 1; what the autoencoder draws does not change.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    before, after = model.quant_conv, model.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[..., 0, 0] @ mean
    after.weight *= std[None, :, None, None]
    model.register_to_config(scaling_factor=1.0)
