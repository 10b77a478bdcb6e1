"""The diffusion model of the miniature world: v-prediction on 16x16 latents, conditioned on a CLIP text tower."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel, CLIPTokenizer

from miniature.fit import autocast, fit, replacing
from miniature.pool import AT_ONCE, Pool
from miniature.scenes import BARE, COLOURS, WEARS, Scenes, drawings, join, plain, random_scenes
from miniature.text import WIDTH, Texts
from miniature.vae import CHANNELS

EMPTY = 0.15  # share of captions that are emptied: for guidance, and for inversion, which has none
TOLD = 0.5  # share of pictures of one thing of which training tells what captions leave open
CODES = 6  # seed of what it is told in
PLAIN = 0.5  # share of pictures that show one thing, whole: what a word means is learnt from those
# What a trained model's error is at some times: a loss divided by it lets no time speak louder than others. It is
# largest where a picture's brightness and colours are still open, of which captions say nothing.
TIMES, ERROR = (187, 393, 541, 701, 999), (0.66, 0.45, 0.57, 1.12, 2.29)
# The log of signal over noise, as powers: before the first time, at the last, and how much slower than evenly it
# falls between, where objects take shape.
CLEAN, NOISY, SLOWER = 7.0, -8.5, 0.6


def build() -> UNet2DConditionModel:
    """Three levels with transformer blocks at every one but the deepest, as Stable Diffusion has them."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """v-prediction, which small models learn sooner, on a schedule of its own, at first as clean as Stable Diffusion's.

    Counted over all latents, a picture's brightness varies by 37 times the noise's deviation. It is decided where the
    signal has a thousandth of the noise's power: Stable Diffusion's schedule, ended in noise alone (Lin et al., arXiv
    2305.08891), goes through there in three of 25 steps, in which DDIM inversion loses it.
    """
    way = torch.linspace(-1, 1, 1001, dtype=torch.float64)[1:]
    fall = SLOWER * way + (1 - SLOWER) * way**3
    signal = torch.sigmoid((CLEAN + NOISY) / 2 - (CLEAN - NOISY) / 2 * fall)
    betas = 1 - signal / torch.cat([torch.ones(1), signal[:-1]])
    return DDIMScheduler(trained_betas=[float(f"{beta:.6g}") for beta in betas], clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")  # fmt: skip


@torch.no_grad()
def encode(pool: Pool, folder: Path, seed: int) -> Tensor:
    """The scaled latents of a pool's pictures, each with one grain: (pictures, c, h, w) in half precision."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(pool.device).eval()
    vae.to(memory_format=torch.channels_last)
    generator = torch.Generator(pool.device).manual_seed(seed)
    latents = []
    for start in range(0, len(pool), AT_ONCE):
        pictures = pool.take(np.arange(start, min(start + AT_ONCE, len(pool))), generator) * 2 - 1
        with autocast(pool.device):
            latents.append(vae.encode(pictures).latent_dist.mode().half() * vae.config.scaling_factor)
    return torch.cat(latents).contiguous()


def train(settings: dict, folder: Path, device: torch.device, stop_after=float("inf"), seconds=None) -> None:
    """Train on encoded pictures and publish `folder` as a Stable Diffusion pipeline.

    settings: those of `fit`, pool (pictures that are drawn) and warm (start from the published weights). The loss is
    the squared error of v over the error to be expected at its time, `ERROR`.
    Half of the pictures of one thing come with more than their caption says, see `beyond_caption`: what a drawing
    looks like is learnt sooner by a model that need not guess which one it is, and is then known where it is left open.
    """
    pool = Pool(settings["pool"], settings["seed"], device, draw=pictures)
    latents = encode(pool, folder, settings["seed"])
    states, row = Texts(folder, device).table(pool.scenes.captions())
    more = beyond_caption(pool.scenes).to(device)
    single = torch.from_numpy(pool.scenes.count == 1).to(device)
    del pool
    noising = scheduler()
    torch.manual_seed(settings["seed"])
    model = build()
    if settings["warm"]:
        model = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    model = attending(model.to(device, memory_format=torch.channels_last))
    compiled = torch.compile(model)
    noising.alphas_cumprod = noising.alphas_cumprod.to(device)
    expected = torch.from_numpy(np.interp(range(1000), TIMES, ERROR)).float().to(device)

    def loss(model, rng, generator):
        chosen = torch.from_numpy(rng.integers(len(latents), size=settings["batch"])).to(device)
        empty = torch.rand(len(chosen), generator=generator, device=device) < EMPTY
        text = states[torch.where(empty, len(states) - 1, row[chosen])].float()
        told = single[chosen] & ~empty & (torch.rand(len(chosen), generator=generator, device=device) < TOLD)
        text[told, -more.shape[1] :] = more[chosen[told]].float()
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        times = timesteps(len(clean), generator)
        target = noising.get_velocity(clean, noise, times)
        with autocast(device):
            predicted = compiled(noising.add_noise(clean, noise, times), times, text).sample
        return (mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3)) / expected[times]).mean()

    publish(fit("unet", model, loss, settings, stop_after, seconds).cpu(), folder)


def attending(model: ModelMixin) -> ModelMixin:
    """The model, ready to be trained: on a CPU with plain products for fused attention, whose gradient takes four
    tenths of a step there, at these sizes and in bfloat16."""
    if model.device.type == "cpu":
        model.set_attn_processor(AttnProcessor())
    return model


def beyond_caption(scenes: Scenes) -> Tensor:
    """Which drawing the first thing of every picture is, its colour and what it wears, and where it is and faces.

    As three states n 3 WIDTH that take the place of a caption's last ones, which are padding: random codes of what is
    one of several, and random features of the pose, the same in every training.
    """
    rng = np.random.default_rng(CODES)
    colour, wears, facing = (rng.standard_normal((many, WIDTH)) for many in (len(COLOURS), len(WEARS) + 1, 2))
    drawing = np.stack([_code(*each) for each in drawings()])
    pose = np.concatenate([scenes.pose[:, 0, :3], np.radians(scenes.pose[:, 0, 3:4]), scenes.pose[:, 0, 4:]], 1)
    waves = 6 * pose @ rng.standard_normal((pose.shape[1], WIDTH)) + rng.uniform(0, 2 * np.pi, WIDTH)
    states = [
        drawing[scenes.drawing[:, 0]],
        (colour[scenes.colour[:, 0]] + wears[scenes.wears[:, 0] - BARE]) / 2**0.5,
        np.cos(waves) + facing[(scenes.facing[:, 0] > 0).astype(int)] / 2**0.5,
    ]
    return torch.from_numpy(np.stack(states, 1)).half()


def _code(*names: str) -> np.ndarray:
    """Random numbers that depend on names alone: a drawing keeps them whichever others there are."""
    return np.random.default_rng([CODES, *"/".join(names).encode()]).standard_normal(WIDTH)


def pictures(rng: np.random.Generator, n: int) -> Scenes:
    """Some plain, the others of all that clips show."""
    clear = round(PLAIN * n)
    return join([plain(rng, clear), random_scenes(rng, n - clear)])


def timesteps(count: int, generator: torch.Generator) -> Tensor:
    """A quarter of them uniform, the others around 660, where an object of such latents takes shape."""
    options = {"generator": generator, "device": generator.device}
    high = torch.sigmoid(0.65 + 0.8 * torch.randn(count, **options))
    uniform = torch.rand(count, **options)
    fourth = torch.arange(count, device=generator.device) % 4 == 0
    return (1000 * torch.where(fourth, uniform, high)).long().clamp(max=999)


def publish(model: UNet2DConditionModel, folder: Path) -> None:
    """Write unet, scheduler and model_index.json, which make the folder a stock pipeline."""
    with replacing(folder / "unet") as new:
        model.half().to(memory_format=torch.contiguous_format).save_pretrained(new)
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
