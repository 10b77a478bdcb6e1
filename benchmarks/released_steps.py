"""One step of the released implementation, timed: run by benchmarks/released.py in the libraries of 2022.

Imports nothing of this repository. Prints one line of JSON: seconds of every lap, GB held before and at the peak.
"""

import json
import resource
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

request = json.loads(sys.argv[1])
for name in request.pop("without"):
    sys.modules[name] = None  # what is not there, diffusers does without

import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler  # noqa: E402
from tuneavideo.models.unet import UNet3DConditionModel  # noqa: E402

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TUNED = ("attn1.to_q", "attn2.to_q", "attn_temp")
GUIDANCE_SCALE = 12.5
TEXT_ENCODER = 123_060_480  # parameters, which do not load here


class Laps(list):
    """Moments; a GPU's work is waited for."""

    def lap(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.append(time.perf_counter())


def tune(unet, vae, text, clip, laps: Laps, count: int, device: str) -> None:
    """As its script does: the VAE at every step, AdamW over all parameters, of which only some have gradients."""
    noising = DDPMScheduler(**SCHEDULE)
    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    for _ in range(count):
        with torch.no_grad():
            latents = vae.encode(clip).latent_dist.sample()
        latents = latents.transpose(0, 1)[None].float() * 0.18215  # 1 c f h w
        noise = torch.randn_like(latents)
        timestep = torch.randint(0, 1000, (1,), device=device)
        noisy = noising.add_noise(latents, noise, timestep)
        with half(device):
            predicted = unet(noisy, timestep, text).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([p for p in unet.parameters() if p.grad is not None], 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        laps.lap()


@torch.no_grad()
def invert(unet, text, latents, laps: Laps, count: int, device: str) -> None:
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(50)
    for timestep in scheduler.timesteps[:count]:
        with half(device):
            predicted = unet(latents, timestep, text).sample
        latents = scheduler.step(predicted, timestep, latents).prev_sample
        laps.lap()


@torch.no_grad()
def edit(unet, text, latents, laps: Laps, count: int, device: str) -> None:
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(50)
    both = torch.cat([text, text])
    for timestep in scheduler.timesteps[:count]:
        with half(device):
            without, with_text = unet(torch.cat([latents, latents]), timestep, both).sample.chunk(2)
        predicted = without + GUIDANCE_SCALE * (with_text - without)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
        laps.lap()


def attend(query, key, value, attn_bias=None):
    """What xformers computes, (b, n, d) each, by the kernels that are in torch today."""
    heads = query[:, None], key[:, None], value[:, None]
    return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=attn_bias)[:, 0]


def save_memory(unet) -> None:
    """As its configurations ask for on a GPU: attention of frames and of text by xformers, that over time without."""
    for name in ("diffusers.models.attention", "tuneavideo.models.attention"):
        sys.modules[name].xformers = SimpleNamespace(ops=SimpleNamespace(memory_efficient_attention=attend))
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            module._use_memory_efficient_attention_xformers = True


def half(device: str):
    """Its configurations' mixed precision, fp16, on a GPU."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()


def peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")  # where getrusage would name the process that started this one, if it was larger
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return next(int(line.split()[1]) * 1024 / 1e9 for line in status.open() if line.startswith("VmHWM"))


def main(step: str, device: str, frames: int, size: int, count: int, checkpointing: bool, models: dict) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
              "up_block_types": ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3}  # fmt: skip
    with torch.device(device):
        unet = UNet3DConditionModel(**models["unet"], **blocks)
    if device == "cuda":
        save_memory(unet)
    unet.requires_grad_(False)
    for name, module in unet.named_modules():
        if name.endswith(TUNED):
            module.requires_grad_(True)
    unet.to(device)
    text = torch.randn(1, 77, 768, device=device)
    laps, latents = Laps(), torch.randn(1, 4, frames, size // 8, size // 8, device=device)
    if step == "tune":
        dtype = torch.float16 if device == "cuda" else torch.float32
        with torch.device(device):
            vae = AutoencoderKL(**models["vae"]).requires_grad_(False).to(dtype)
        clip = torch.rand(frames, 3, size, size, device=device, dtype=dtype) * 2 - 1
        encoder = torch.ones(TEXT_ENCODER, device=device, dtype=dtype)  # noqa: F841  held, as its script holds it
        if checkpointing:
            unet.enable_gradient_checkpointing()
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    held = peak()
    laps.lap()
    if step == "tune":
        tune(unet, vae, text, clip, laps, count, device)
    else:
        {"invert": invert, "edit": edit}[step](unet, text, latents, laps, count, device)
    seconds = [end - start for start, end in zip(laps, laps[1:])]  # noqa: B905
    print(json.dumps({"seconds": seconds, "held GB": held, "peak GB": peak()}))


if __name__ == "__main__":
    main(**request)
