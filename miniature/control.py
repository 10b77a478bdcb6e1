"""ControlNets (edges, mask) and a T2I-Adapter (pose) over the published UNet: where things are, not only what."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel, CLIPTokenizer

from measures.conditions import draw_edges, draw_pose
from miniature.clips import FRAMES, WORDS, move
from miniature.contrastive import tokenize
from miniature.fit import autocast, digest, fit, made_once, progress, replacing
from miniature.unet import SHARD, scheduler, timesteps
from miniature.world import Scene, draw, masks, random_scene

if TYPE_CHECKING:  # training does not depend on the judge
    from measures.judge import Judge

FOLDERS = {"edges": "controlnet-edges", "mask": "controlnet-mask", "pose": "t2i-adapter-pose"}
SEED, SAMPLES, STEPS, GUIDANCE = 6120, 64, 25, 3.0


def mask(visible: np.ndarray) -> np.ndarray:
    """White where a thing is seen: the visible parts, (things, h, w) in [0, 1] -> (h, w) of 0 and 255."""
    return (visible.sum(0) > 0.5) * np.uint8(255)


def conditions(scene: Scene, picture: np.ndarray) -> dict[str, np.ndarray]:
    """All three conditions of a scene and its picture: {stage: uint8 (h, w), of pose (h, w, 3)}."""
    size = len(picture)
    return {"edges": draw_edges(picture), "mask": mask(masks(scene, size)), "pose": draw_pose(scene.things, size)}


def training_scene(rng: np.random.Generator) -> Scene:
    """A picture's scene, or in half of the cases things as a clip's frame has them, which go further to the sides."""
    scene = random_scene(rng)
    if rng.random() < 0.5:
        return scene
    return replace(scene, things=tuple(move(str(rng.choice(list(WORDS))), rng)[rng.integers(FRAMES)]))


def as_input(drawn: Tensor) -> Tensor:
    """Pictures or conditions as models take them: (b, h, w) or (b, h, w, 3) uint8 -> (b, 3, h, w) in [0, 1]."""
    drawn = drawn[..., None].expand(-1, -1, -1, 3) if drawn.ndim == 3 else drawn
    return drawn.permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: list[np.ndarray]) -> Tensor:
    """Scaled latents (b, 4, h / 4, w / 4), float16 on the CPU, of pictures (h, w, 3) uint8."""
    with autocast(vae.device):
        posterior = vae.encode(as_input(torch.from_numpy(np.stack(pictures))).to(vae.device) * 2 - 1).latent_dist
    return (posterior.mode() * vae.config.scaling_factor).half().cpu().contiguous()


def encode(shards: int, folder: Path, device: torch.device) -> list[Path]:
    """Draw and encode pictures and their conditions once, for all stages: shards of `SHARD` with captions."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)

    def make(shard):
        rng, parts, captions = np.random.default_rng([SEED, shard]), {"latents": [], **{s: [] for s in FOLDERS}}, []
        for _ in range(SHARD // 64):
            scenes = [training_scene(rng) for _ in range(64)]
            pictures = [draw(scene) for scene in scenes]
            parts["latents"].append(latents_of(vae, pictures))
            drawn = [conditions(*pair) for pair in zip(scenes, pictures, strict=True)]
            for stage in FOLDERS:
                parts[stage].append(torch.from_numpy(np.stack([one[stage] for one in drawn])))
            captions += [scene.caption for scene in scenes]
        parts = {name: torch.cat(part).contiguous() for name, part in parts.items()}
        return parts, {"captions": json.dumps(captions)}

    return made_once(f"control/{digest(folder, 'vae')}", shards, make)


class Captioned:
    """The named tensors of some shards in memory, and what the text encoder makes of the shards' captions."""

    def __init__(self, paths: list[Path], names: list[str], folder: Path, device: torch.device) -> None:
        captions, self.device = [], device
        parts = {name: [] for name in names}
        for path in paths:
            with safe_open(path, "pt") as file:
                captions += json.loads(file.metadata()["captions"])
                for name in names:
                    parts[name].append(file.get_tensor(name))
        self.parts = {name: torch.cat(part) for name, part in parts.items()}
        distinct = [*sorted(set(captions)), ""]
        row = {caption: place for place, caption in enumerate(distinct)}
        self.row = torch.tensor([row[caption] for caption in captions])
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).to(device).eval()
        with torch.no_grad():
            self.text = torch.cat([text(part.to(device))[0] for part in tokenize(tokenizer, distinct).split(256)])

    def batch(self, rng: np.random.Generator, count: int, empty: float) -> list[Tensor]:
        """The named tensors of `count` samples and last their text states; a share `empty` of captions is emptied."""
        chosen = torch.from_numpy(rng.integers(len(self.row), size=count))
        row = torch.where(torch.from_numpy(rng.random(count) < empty), len(self.text) - 1, self.row[chosen])
        return [part[chosen].to(self.device) for part in self.parts.values()] + [self.text[row.to(self.device)]]


def build(stage: str, unet: UNet2DConditionModel) -> ControlNetModel | T2IAdapter:
    """What is trained. A ControlNet starts as the UNet's encoder behind zeros: at first it changes nothing.

    The UNet's first level has no text, and diffusers adds an adapter's first feature to what such a level hands on:
    the features lie at 8x8, 8x8 and 4x4, which is the plan of the adapter made for XL.
    """
    if stage == "pose":
        channels = list(unet.config.block_out_channels)
        return T2IAdapter(channels=channels, num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter_xl")
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32))


def predict(
    unet: nn.Module, model: nn.Module, noisy: Tensor, times: Tensor, text: Tensor, condition: Tensor, stage: str
) -> Tensor:
    """The UNet's prediction under a condition (b, 3, 64, 64) in [0, 1], as the stock pipelines combine the two."""
    if stage == "pose":
        return unet(noisy, times, text, down_intrablock_additional_residuals=model(condition)).sample
    down, middle = model(noisy, times, text, controlnet_cond=condition, return_dict=False)
    return unet(noisy, times, text, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample


def train(stage: str, settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train `stage` and publish it to its folder, with training.json, what its weights have seen.

    settings: those of `fit`, and shards (of 4,096 pictures), empty (share of captions emptied, so that the condition
    is read) and warm (start from the published folder).
    """
    data = Captioned(encode(settings["shards"], folder, device), ["latents", stage], folder, device)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(settings["seed"])
    model, noising = build(stage, unet), scheduler()
    if settings["warm"]:
        model = type(model).from_pretrained(folder / FOLDERS[stage], torch_dtype=torch.float32)
    unet, model = (part.to(device, memory_format=torch.channels_last) for part in (unet, model))
    for part in [unet] if stage == "pose" else [unet, model]:
        part.set_attn_processor(AttnProcessor())  # for so few tokens a third faster on CPUs than the fused one

    def loss(model, rng, generator):
        latents, condition, text = data.batch(rng, settings["batch"], settings["empty"])
        latents, condition = latents.float(), as_input(condition)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = timesteps(len(latents), generator).to(device)
        target = noising.get_velocity(latents, noise, times)
        with autocast(device):
            noisy = noising.add_noise(latents, noise, times)
            predicted = predict(unet, model, noisy, times, text, condition, stage)
        return mse_loss(predicted.float(), target)

    settings = {**settings, "made_from": digest(folder, "vae", "text_encoder", "unet")}
    model = fit(stage, model, loss, settings, stop_after).cpu()
    with replacing(folder / FOLDERS[stage]) as new:
        model.half().save_pretrained(new)
        (new / "training.json").write_text(json.dumps(progress(stage, settings)) + "\n")


@torch.no_grad()
def sample(models: Path, stage: str | None, captions: list[str], drawn: Tensor, device: torch.device) -> Tensor:
    """Pictures (b, 3, 64, 64) in [0, 1] of captions under conditions, (b, h, w) or (b, h, w, 3) uint8: stock pipelines.

    stage: None samples without condition. Picture i starts from the same noise under every stage.
    """
    load = {"torch_dtype": torch.float32}
    pipe = StableDiffusionPipeline.from_pretrained(models, **load)
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    parts["requires_safety_checker"] = False
    if stage == "pose":
        adapter = T2IAdapter.from_pretrained(models / FOLDERS[stage], **load)
        pipe = StableDiffusionAdapterPipeline(**parts, adapter=adapter)
    elif stage:
        controlnet = ControlNetModel.from_pretrained(models / FOLDERS[stage], **load)
        pipe = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
    pipe.to(device).set_progress_bar_config(disable=True)
    options = {"image": as_input(drawn).to(device)} if stage else {}
    options["generator"] = [torch.Generator().manual_seed(SEED + number) for number in range(len(captions))]
    options.update(num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=64, width=64)
    return torch.from_numpy(pipe(captions, output_type="np", **options).images).permute(0, 3, 1, 2)


def measure(models: Path, device: torch.device, judge: "Judge") -> dict:
    """How well conditions are followed on fresh scenes of one thing; "none" is what the captions alone give.

    Returns for each stage, for "none" and for the drawn pictures themselves, as the judge reads them: the mean and
    median distance of the thing's centre from the true one in pixels of 64, the mean intersection over union of its
    mask with the true one, and the median error of the angle in degrees.
    """
    rng, scenes = np.random.default_rng([SEED, 1, 1]), []
    while len(scenes) < SAMPLES:
        scene = training_scene(rng)
        if scene.count == 1 and all(0.2 < place < 0.8 for place in scene.things[0][:2]):
            scenes.append(scene)
    pictures = [draw(scene) for scene in scenes]
    drawn = [conditions(*pair) for pair in zip(scenes, pictures, strict=True)]
    drawn = {stage: torch.from_numpy(np.stack([one[stage] for one in drawn])) for stage in FOLDERS}
    things, truth, found = torch.tensor([scene.things[0] for scene in scenes]), drawn["mask"] > 0, {}
    for stage in (*FOLDERS, "none", "drawn"):
        if stage == "drawn":
            seen = as_input(torch.from_numpy(np.stack(pictures)))
        else:
            condition = None if stage == "none" else stage
            seen = sample(models, condition, [s.caption for s in scenes], drawn[condition or "mask"], device)
        reading = judge.read(seen)
        away = 64 * (torch.stack([reading.numbers["x"], reading.numbers["y"]], 1) - things[:, :2]).norm(dim=1)
        inside = reading.mask > 0.5
        overlap = (inside & truth).sum((1, 2)) / (inside | truth).sum((1, 2))
        turned = ((reading.numbers["angle"] - things[:, 3] + 180) % 360 - 180).abs()
        found[stage] = {
            "centre_px": round(away.nanmean().item(), 2),
            "centre_px_median": round(away.nanmedian().item(), 2),
            "iou": round(overlap.mean().item(), 3),
            "angle_median": round(turned.nanmedian().item(), 1),
        }
    return found
