"""ControlNets (edges, mask) and a T2I-Adapter (pose) over the published UNet: where things are, not only what."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from measures.conditions import draw_edges, draw_pose
from miniature.fit import autocast, digest, fit, made_once, replacing
from miniature.moves import FRAMES, WORDS, move
from miniature.pool import AT_ONCE, Pool
from miniature.scenes import BARE, MOTIONS, SIZE, Renderer, Scenes, join, objects, random_scenes
from miniature.text import Texts
from miniature.unet import attending, encode, scheduler, timesteps

if TYPE_CHECKING:  # training does not depend on the judge
    from measures.judge import Judge

FOLDERS = {"edges": "controlnet-edges", "mask": "controlnet-mask", "pose": "t2i-adapter-pose"}
SEED, SAMPLES, STEPS, GUIDANCE = 6120, 64, 25, 4.0  # steps and guidance as of those who edit
BATCH = 25  # pictures that are sampled together
EACH = 4  # frames that are taken of a clip
SINGLE = [motion for motion in WORDS if motion != "cross"]  # motions of one thing
WORKERS = min(16, os.cpu_count() or 1)


def training_scenes(rng: np.random.Generator, n: int) -> Scenes:
    """n pictures' scenes: half are those the UNet was trained on, half are single frames of clips, whose things go
    further to the sides and bend more."""
    clips = -(-(n - n // 2) // EACH)
    chosen = [FRAMES * clip + rng.choice(FRAMES, EACH, replace=False) for clip in range(clips)]
    moving = move_all(rng, random_scenes(rng, clips), SINGLE)[np.concatenate(chosen)]
    return join([random_scenes(rng, n // 2), moving[: n - n // 2]])


def move_all(rng: np.random.Generator, looks: Scenes, motions: Sequence[str]) -> Scenes:
    """Clips, FRAMES of each look, one clip after the other: single things move in one of `motions`, several cross."""
    clips = []
    for number, count in enumerate(looks.count.tolist()):
        motion = str(rng.choice(motions)) if count == 1 else "cross"
        kind = objects()[looks.things(number)[0].object].kind
        look = looks[np.full(FRAMES, number)]
        clips.append(look.with_(**move(motion, rng, count), motion=np.full(FRAMES, MOTIONS.index(WORDS[motion][kind]))))
    return join(clips)


def edges(pictures: np.ndarray) -> Tensor:
    """White outlines of pictures, grain and all, as a clip has it: (n, h, w, 3) uint8 -> (n, h, w) of 0 and 255."""
    with ThreadPoolExecutor(WORKERS) as pool:  # OpenCV leaves other threads alone
        return torch.from_numpy(np.stack(list(pool.map(draw_edges, pictures))))


def mask(visible: Tensor) -> Tensor:
    """White where a thing is seen: the visible parts, (n, things, h, w) in [0, 1] -> (n, h, w) of 0 and 255."""
    return (visible.sum(1) > 0.5).byte() * 255


def pose(scenes: Scenes) -> Tensor:
    """The keypoints of every scene's things, see `draw_pose`: (n, 64, 64, 3) uint8."""
    things = [keypoints(scenes, number) for number in range(len(scenes))]
    with ProcessPoolExecutor(WORKERS, get_context("fork")) as pool:  # many small calls: threads would take turns
        return torch.from_numpy(np.stack(list(pool.map(draw_pose, things, chunksize=256))))


def keypoints(scenes: Scenes, number: int) -> np.ndarray:
    """What is drawn of a scene's things: (things, 5), the centre's x and y, the longer side, the angle, the facing."""
    there = slice(scenes.count[number])
    return np.concatenate([scenes.pose[number, there, :4], scenes.facing[number, there, None]], 1)


def conditions(scenes: Scenes, pictures: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """All three conditions of scenes, their pictures (n, 3, 64, 64) and visible parts (n, things, 64, 64), both in
    [0, 1]: {stage: uint8 (n, 64, 64), of pose (n, 64, 64, 3)}."""
    return {"edges": edges(_uint8(pictures)), "mask": mask(visible.cpu()), "pose": pose(scenes)}


def as_input(drawn: Tensor) -> Tensor:
    """Conditions as models take them: (b, h, w) or (b, h, w, 3) uint8 -> (b, 3, h, w) in [0, 1]."""
    drawn = drawn[..., None].expand(-1, -1, -1, 3) if drawn.ndim == 3 else drawn
    return drawn.permute(0, 3, 1, 2).float() / 255


def prepare(count: int, folder: Path, device: torch.device) -> Path:
    """Draw and encode `count` pictures and their conditions once, for all stages: a file of tensors and captions."""

    def make(_):
        pool = Pool(count, SEED, device, masks=True, draw=training_scenes)
        drawn = {"latents": encode(pool, folder, SEED).cpu()}
        generator, pictures, masks = torch.Generator(device).manual_seed(SEED), [], []
        for start in range(0, count, AT_ONCE):  # as `encode` takes them: the same grain
            chosen = np.arange(start, min(start + AT_ONCE, count))
            pictures.append(_uint8(pool.take(chosen, generator)))
            masks.append(mask(pool.visible[start : start + AT_ONCE].float() / 255).cpu())
        drawn |= {"edges": edges(np.concatenate(pictures)), "mask": torch.cat(masks), "pose": pose(pool.scenes)}
        return drawn, {"captions": json.dumps(pool.scenes.captions())}

    return made_once(f"control-{digest(folder, 'vae')}-{count}", 1, make)[0]


@dataclass(frozen=True)
class Captioned:
    """Samples on one device. parts: tensors of n rows each; states: of captions, the last is the empty one; row: of
    every sample's caption in `states`."""

    parts: list[Tensor]
    states: Tensor
    row: Tensor

    def batch(self, count: int, empty: float, generator: torch.Generator) -> list[Tensor]:
        """The parts of `count` samples and last their text states; a share `empty` of captions is emptied."""
        options = {"generator": generator, "device": self.row.device}
        chosen = torch.randint(len(self.row), (count,), **options)
        emptied = torch.rand(count, **options) < empty
        row = torch.where(emptied, len(self.states) - 1, self.row[chosen])
        return [part[chosen] for part in self.parts] + [self.states[row].float()]


def load(stage: str, path: Path, folder: Path, device: torch.device) -> Captioned:
    """What `stage` is trained on: latents and conditions of a file that `prepare` made."""
    with safe_open(path, "pt") as file:
        parts = [file.get_tensor(name).to(device) for name in ("latents", stage)]
        captions = json.loads(file.metadata()["captions"])
    return Captioned(parts, *Texts(folder, device).table(captions))


def build(stage: str, unet: UNet2DConditionModel) -> ControlNetModel | T2IAdapter:
    """What is trained. A ControlNet starts as the UNet's encoder behind zeros: at first it changes nothing.

    Both bring a condition of 64x64 to the latents' 16x16; the adapter has a feature for each of the UNet's levels.
    """
    if stage == "pose":
        channels = list(unet.config.block_out_channels)
        return T2IAdapter(channels=channels, num_res_blocks=2, downscale_factor=4, adapter_type="full_adapter")
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32))


def predict(
    unet: nn.Module, model: nn.Module, noisy: Tensor, times: Tensor, text: Tensor, condition: Tensor, stage: str
) -> Tensor:
    """The UNet's prediction under a condition (b, 3, 64, 64) in [0, 1], as the stock pipelines combine the two."""
    if stage == "pose":
        return unet(noisy, times, text, down_intrablock_additional_residuals=model(condition)).sample
    down, middle = model(noisy, times, text, controlnet_cond=condition, return_dict=False)
    return unet(noisy, times, text, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample


def train(
    stage: str,
    settings: dict,
    folder: Path,
    device: torch.device,
    stop_after: float = float("inf"),
    seconds: float | None = None,
) -> None:
    """Train `stage` and publish it to its folder.

    settings: those of `fit`, and pool (pictures that are drawn) and empty (share of captions emptied, so that the
    condition is read). seconds: as in `fit`, with what comes before it.
    """
    began = time.monotonic()
    data = load(stage, prepare(settings["pool"], folder, device), folder, device)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(settings["seed"])
    model, noising = build(stage, unet), scheduler()
    unet, model = (part.to(device, memory_format=torch.channels_last) for part in (unet, model))
    for part in (unet, model):
        if isinstance(part, (UNet2DConditionModel, ControlNetModel)):
            attending(part)
    noising.alphas_cumprod = noising.alphas_cumprod.to(device)

    def loss(model, rng, generator):
        latents, condition, text = data.batch(settings["batch"], settings["empty"], generator)
        latents, condition = latents.float(), as_input(condition)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        times = timesteps(len(latents), generator)
        target = noising.get_velocity(latents, noise, times)
        with autocast(device):
            noisy = noising.add_noise(latents, noise, times)
            predicted = predict(unet, model, noisy, times, text, condition, stage)
        return mse_loss(predicted.float(), target)

    model = fit(stage, model, loss, settings, stop_after, left(seconds, began)).cpu()
    with replacing(folder / FOLDERS[stage]) as new:
        model.half().to(memory_format=torch.contiguous_format).save_pretrained(new)


def left(seconds: float | None, began: float) -> float | None:
    """What is left for training of the seconds since `began`, by the monotonic clock; at least one."""
    return None if seconds is None else max(1.0, seconds - (time.monotonic() - began))


class Sampler:
    """The stock pipeline on captions, or under the condition of a stage; picture i starts alike in every stage."""

    def __init__(self, models: Path, device: torch.device, stage: str | None = None) -> None:
        options = {"torch_dtype": torch.float32}
        self.pipe = StableDiffusionPipeline.from_pretrained(models, **options)
        parts = {name: part for name, part in self.pipe.components.items() if name != "image_encoder"}
        parts["requires_safety_checker"] = False
        if stage == "pose":
            adapter = T2IAdapter.from_pretrained(models / FOLDERS[stage], **options)
            self.pipe = StableDiffusionAdapterPipeline(**parts, adapter=adapter)
        elif stage:
            controlnet = ControlNetModel.from_pretrained(models / FOLDERS[stage], **options)
            self.pipe = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
        self.pipe.to(device).set_progress_bar_config(disable=True)

    def __call__(self, captions: list[str], seed: int = SEED, drawn: Tensor | None = None) -> Tensor:
        """A picture of each, (b, 3, 64, 64) in [0, 1]. drawn: the conditions, (b, h, w) or (b, h, w, 3) uint8."""
        settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "height": SIZE, "width": SIZE}
        pictures = []
        for start in range(0, len(captions), BATCH):
            part = captions[start : start + BATCH]
            settings["generator"] = [
                torch.Generator().manual_seed(seed + start + number) for number in range(len(part))
            ]
            if drawn is not None:
                settings["image"] = as_input(drawn[start : start + BATCH]).to(self.pipe.device)
            pictures.append(torch.from_numpy(self.pipe(part, output_type="np", **settings).images))
        return torch.cat(pictures).permute(0, 3, 1, 2)


def measure(models: Path, device: torch.device, judge: "Judge") -> dict:
    """How well conditions are followed on fresh scenes of one thing; "none" is what the captions alone give.

    Returns for each stage, for "none" and for the drawn pictures themselves, as the judge reads them: the mean and
    median distance of the thing's centre from the true one in pixels of 64 (half a side where nothing is found), the
    mean intersection over union of its mask with the true one, the median error of its angle in degrees, and per cent
    of things that face as they should.
    """
    scenes = training_scenes(np.random.default_rng([SEED, 1, 1]), 16 * SAMPLES)
    inside = ((scenes.pose[:, 0, :2] > 0.2) & (scenes.pose[:, 0, :2] < 0.8)).all(1)
    chosen = np.nonzero((scenes.count == 1) & (scenes.front == BARE) & inside)[0]
    scenes = scenes[chosen[np.linspace(0, len(chosen) - 1, SAMPLES).round().astype(int)]]
    shown = Renderer(device)(scenes, torch.Generator(device).manual_seed(SEED))
    drawn = conditions(scenes, shown.pictures, shown.visible)
    things, truth, found = torch.from_numpy(scenes.pose[:, 0]).float(), drawn["mask"] > 0, {}
    facing = np.where(scenes.facing[:, 0] > 0, "right", "left")
    for stage in (*FOLDERS, "none", "drawn"):
        if stage == "drawn":
            seen = shown.pictures.cpu()
        else:
            condition = None if stage == "none" else stage
            seen = Sampler(models, device, condition)(scenes.captions(), drawn=drawn.get(condition))
        reading = judge.read(seen)
        read = reading.things[:, 0]
        away = (SIZE * (read[:, :2] - things[:, :2]).norm(dim=1)).nan_to_num(SIZE / 2)
        covered = reading.mask > 0.5
        overlap = (covered & truth).sum((1, 2)) / (covered | truth).sum((1, 2))
        turned = ((read[:, 3] - things[:, 3] + 180) % 360 - 180).abs()
        found[stage] = {
            "centre_px": round(away.mean().item(), 2),
            "centre_px_median": round(away.median().item(), 2),
            "iou": round(overlap.mean().item(), 3),
            "angle_median": round(turned.nanmedian().item(), 1),
            "facing": round(100 * float(np.mean(np.array(reading.names["facing"]) == facing)), 1),
        }
    return found


def _uint8(pictures: Tensor) -> np.ndarray:
    """Pictures (n, 3, h, w) in [0, 1] as arrays (n, h, w, 3)."""
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
