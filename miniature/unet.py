"""The diffusion model of the miniature world: v-prediction on 16x16 latents, conditioned on CLIP's text tower."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel, CLIPTokenizer

from miniature.contrastive import CONTEXT, WIDTH, tokenize
from miniature.fit import autocast, digest, fit, made_once, replacing
from miniature.world import draw, random_scene

SHARD = 4096  # pictures


def build() -> UNet2DConditionModel:
    """Three levels, text at 8x8 and 4x4; wide where it is cheap, so that tuning eight frames stays fast."""
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction, which small models learn sooner."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")  # fmt: skip


@torch.no_grad()
def encode(settings: dict, folder: Path, device: torch.device) -> list[Path]:
    """Draw and encode the training pictures once, in shards: latents (n, 4, 16, 16), scaled, and their captions."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)

    def make(shard):
        rng, latents, captions = np.random.default_rng([settings["seed"], 7, shard]), [], []
        for _ in range(SHARD // 64):
            scenes = [random_scene(rng) for _ in range(64)]
            real = torch.from_numpy(np.stack([draw(scene) for scene in scenes])).to(device)
            with autocast(device):
                posterior = vae.encode(real.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
            latents.append((posterior.mode() * vae.config.scaling_factor).half().cpu())
            captions += [scene.caption for scene in scenes]
        return {"latents": torch.cat(latents).contiguous()}, {"captions": json.dumps(captions)}

    return made_once(f"latents/{digest(folder, 'vae')}-{settings['seed']}", settings["shards"], make)


class Latents:
    """The shards in memory, and for every caption what the text encoder makes of it (the last is the empty prompt)."""

    def __init__(self, paths: list[Path], folder: Path, device: torch.device) -> None:
        captions = []
        for path in paths:
            with safe_open(path, "pt") as file:
                captions += json.loads(file.metadata()["captions"])
        self.latents = torch.cat([load_file(path)["latents"] for path in paths]).to(device)
        distinct = sorted(set(captions)) + [""]
        number = {caption: place for place, caption in enumerate(distinct)}
        self.caption = torch.tensor([number[caption] for caption in captions])
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).to(device).eval()
        with torch.no_grad():
            parts = tokenize(tokenizer, distinct).to(device).split(256)
            self.text = torch.cat([text(part)[0].half() for part in parts])
        assert self.text.shape[1:] == (CONTEXT, WIDTH)

    def batch(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (b, c, h, w) and text states (b, tokens, width); one caption in ten is emptied for guidance."""
        chosen = torch.from_numpy(rng.integers(len(self.latents), size=count))
        caption = torch.where(torch.from_numpy(rng.random(count) < 0.1), len(self.text) - 1, self.caption[chosen])
        return self.latents[chosen].float(), self.text[caption].float()


def train(settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train on the encoded pictures and publish `folder` as a Stable Diffusion pipeline."""
    data, noising = Latents(encode(settings, folder, device), folder, device), scheduler()
    model = build()
    if settings["warm"]:
        model = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    model = model.to(device, memory_format=torch.channels_last)
    compiled = torch.compile(model)  # with channels_last a quarter faster on two cores (measured in README)

    def loss(model, rng, generator):
        latents, text = data.batch(rng, settings["batch"])
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = timesteps(len(latents), generator).to(device)
        target = noising.get_velocity(latents, noise, times)
        with autocast(device):
            predicted = compiled(noising.add_noise(latents, noise, times), times, text).sample
        return mse_loss(predicted.float(), target)

    publish(fit("unet", model, loss, settings, stop_after).cpu(), folder)


def timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """Half of them uniform, half from the middle, where an object of 16x16 latents takes shape."""
    middle = torch.sigmoid(torch.randn(count, generator=generator) - 0.3)
    uniform = torch.rand(count, generator=generator)
    return (1000 * torch.where(torch.arange(count) % 2 == 0, uniform, middle)).long().clamp(max=999)


def publish(model: UNet2DConditionModel, folder: Path) -> None:
    """Write unet, scheduler and model_index.json, which make the folder a stock pipeline."""
    with replacing(folder / "unet") as new:
        model.half().save_pretrained(new)
    parts = {
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": scheduler(),
    }
    pipeline = StableDiffusionPipeline(
        unet=model, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
    )
    with replacing(folder / "scheduler") as new:
        parts["scheduler"].save_pretrained(new)
    pipeline.save_config(folder)
