"""The judge of the miniature world: what and where, read off one picture; `measures.judge` loads what is trained here.

Only its own seeds and places are used, so that it has seen no picture that the other models were trained on.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    cross_entropy,
    grid_sample,
    interpolate,
    smooth_l1_loss,
)
from transformers import ResNetConfig, ResNetForImageClassification, UperNetConfig, UperNetForSemanticSegmentation

from measures.judge import FINE, SIDE, VOTES, Judge, places, resize, with_places
from miniature.fit import autocast, digest, fit, made_once, replacing
from miniature.world import COUNTS, OBJECTS, PLACES, STYLES, Scene, compose, random_scene

ANSWERS = {"object": list(OBJECTS), "style": list(STYLES), "place": list(PLACES), "count": [str(c) for c in COUNTS]}
VARIANTS = range(1000, 1192)  # of the places that the judge learns from
FRESH = range(2000, 2064)  # of those it is measured on
SHARD = 2048  # pictures
SEED = 9191  # of the pictures it is measured on


def build() -> nn.ModuleDict:
    """Reader and finder; batch norm throughout, which two cores train several times faster than group norm."""
    labels = [f"{question}:{answer}" for question, answers in ANSWERS.items() for answer in answers]
    backbone = ResNetConfig(num_channels=5, embedding_size=16, hidden_sizes=[24, 48, 64, 96], depths=[1, 1, 1, 1],
                            layer_type="basic", out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    reader = ResNetConfig(num_channels=5, embedding_size=32, hidden_sizes=[64, 96, 128, 192], depths=[2, 2, 2, 1],
                          layer_type="basic", id2label=dict(enumerate(labels)))  # fmt: skip
    finder = UperNetConfig(backbone_config=backbone, hidden_size=24, pool_scales=[1, 2], use_auxiliary_head=False,
                           id2label=dict(enumerate(VOTES)))  # fmt: skip
    return nn.ModuleDict(
        {"reader": ResNetForImageClassification(reader), "finder": UperNetForSemanticSegmentation(finder)}
    )


def scene(rng: np.random.Generator) -> Scene:
    """Half as pictures are composed, half as clips move: partly outside, small or large, turned, two that cross."""
    base = random_scene(rng)
    things = base.things
    if rng.random() < 0.5:
        angle = rng.uniform(-50, 50) if rng.random() < 0.7 else rng.choice([0.0, rng.normal(0, 7)])
        things = ((rng.uniform(-0.02, 1.02), rng.uniform(0.25, 0.8), rng.uniform(0.34, 0.82), float(angle)),)
        if rng.random() < 0.25:
            x, y, size = rng.uniform(0.42, 0.58), rng.uniform(0.38, 0.62), rng.uniform(0.34, 0.5)
            dx, dy = rng.uniform(-0.3, 0.3), rng.uniform(-0.06, 0.06)
            things = tuple((x + way * dx, y + way * dy, size, rng.normal(0, 4)) for way in (-1, 1))
    return Scene(str(rng.choice(list(OBJECTS))), base.style, base.place, things, None, int(rng.choice(VARIANTS)))


def render(scenes: list[Scene]) -> dict[str, Tensor]:
    """Pictures and their truth.

    pictures: (b, 3, 64, 64) uint8. seen: (b, 64, 64) uint8, 255 where a thing is; owner: the number of the thing that
    is most there. things: (b, 3, 4), as in Scene, zeros after the last. answers: (b, 4), numbers of ANSWERS' answers.
    """
    rows = []
    for each in scenes:
        picture, masks = compose(each)
        masks = np.stack([_reduce(mask) for mask in masks])
        things = np.zeros((3, 4), np.float32)
        things[: each.count] = each.things
        truth = (each.object, each.style, each.place, str(each.count))
        rows.append({
            "pictures": _reduce(picture).transpose(2, 0, 1),
            "seen": (masks.sum(0).clip(0, 1) * 255).round().astype(np.uint8),
            "owner": masks.argmax(0).astype(np.uint8),
            "things": things,
            "answers": np.array([choices.index(a) for choices, a in zip(ANSWERS.values(), truth, strict=True)]),
        })  # fmt: skip
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def _reduce(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def wobble(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Float pictures (b, c, h, w) with unsteady outlines, as a young diffusion model's are; centres stay on average.

    Neighbouring pixels move alike, up to about four pixels far.
    """
    count = len(pictures)
    strength = 2 * torch.rand(count, 1, 1, 1, generator=generator) / SIDE * 2
    moves = interpolate(strength * torch.randn(count, 2, 9, 9, generator=generator), (SIDE, SIDE), mode="bicubic")
    grid = (places(SIDE) * 2 - 1 + moves).permute(0, 2, 3, 1)
    return grid_sample(pictures, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def soften(vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w) uint8 as a diffusion model might give them: latents with noise, half of them smeared."""

    def random(*shape):
        return torch.rand(*shape, 1, 1, 1, generator=generator).to(vae.device)

    count = len(pictures)
    with autocast(vae.device):
        latents = vae.encode(pictures.to(vae.device) / 127.5 - 1).latent_dist.mode().float()
        noise = torch.randn(latents.shape, generator=generator).to(vae.device)
        latents = latents + 0.4 * random(count) * noise
        smeared = avg_pool2d(latents, 3, 1, 1, count_include_pad=False)
        latents = latents.lerp(smeared, 0.6 * random(count) * (random(count) < 0.5))
        drawn = vae.decode(latents).sample.float()
    return ((drawn + 1) * 127.5).clamp(0, 255).round().byte().cpu()


def softened(settings: dict, folder: Path, device: torch.device) -> dict[str, Tensor]:
    """The pictures that went through the autoencoder, with their truth as in `render`: made once, kept in shards."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)

    def make(shard):
        rng = np.random.default_rng([settings["seed"], 7, shard])
        generator = torch.Generator().manual_seed(settings["seed"] * 1_000_003 + shard)
        parts = []
        for _ in range(SHARD // 64):
            part = render([scene(rng) for _ in range(64)])
            moved = wobble(torch.cat([part["pictures"], part["seen"][:, None]], 1).float(), generator).round().byte()
            parts.append({**part, "pictures": soften(vae, moved[:, :3], generator), "seen": moved[:, 3].contiguous()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, {}

    paths = made_once(f"judge/{digest(folder, 'vae')}-{settings['seed']}", settings["shards"], make)
    loaded = [load_file(path) for path in paths]
    return {name: torch.cat([shard[name] for shard in loaded]) for name in loaded[0]}


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w) in [0, 1] with other colours, some noise, and a third of them blurred by a reduction."""
    count = len(pictures)
    blurred = count // 3
    side = int(torch.randint(24, 56, (), generator=generator))
    small = resize(pictures[:blurred], side)
    pictures = torch.cat([interpolate(small, pictures.shape[-2:], mode="bilinear"), pictures[blurred:]])
    mixed = torch.eye(3) + 0.06 * torch.randn(count, 3, 3, generator=generator)
    shift = 0.5 + 0.06 * torch.randn(count, 3, 1, 1, generator=generator)
    grain = 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(pictures.shape, generator=generator)
    return (torch.einsum("bij,bjhw->bihw", mixed, pictures - 0.5) + shift + grain).clamp(0, 1)


class Pictures:
    """Training batches: half fresh renderings, half softened ones, in random order."""

    def __init__(self, settings: dict, folder: Path, device: torch.device) -> None:
        self.soft, self.device = softened(settings, folder, device), device

    def batch(self, rng: np.random.Generator, generator: torch.Generator, count: int) -> dict[str, Tensor]:
        """A batch as `render` gives it, but with augmented pictures in [0, 1]."""
        fresh = render([scene(rng) for _ in range(count - count // 2)])
        chosen = torch.from_numpy(rng.integers(len(self.soft["answers"]), size=count // 2))
        order = torch.from_numpy(rng.permutation(count))
        batch = {name: torch.cat([fresh[name], self.soft[name][chosen]])[order] for name in fresh}
        batch["pictures"] = augment(batch["pictures"] / 255, generator)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def train(settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train both networks on the same pictures and publish `folder`/judge; the finder learns from half of each batch.

    The reader has cross entropy per question; the finder cross entropy on whether a pixel shows a thing, and smooth L1
    on what such pixels vote for.
    """
    data = Pictures(settings, folder, device)
    torch.manual_seed(settings["seed"])
    model = Judge.load(folder / "judge", device) if settings["warm"] else None
    model = nn.ModuleDict({"reader": model.reader, "finder": model.finder}) if model else build()

    def loss(model, rng, generator):
        batch = data.batch(rng, generator, settings["batch"])
        half = settings["batch"] // 2
        with autocast(device):
            logits = model["reader"](_input(batch["pictures"])).logits.float()
            maps = model["finder"](_input(resize(batch["pictures"][:half], FINE))).logits
        chosen = logits.split([len(answers) for answers in ANSWERS.values()], 1)
        naming = sum(cross_entropy(*pair) for pair in zip(chosen, batch["answers"].T, strict=True))
        return naming + finding(resize(maps.float(), SIDE), {name: part[:half] for name, part in batch.items()})

    model = fit("judge", model.to(device, memory_format=torch.channels_last), loss, settings, stop_after)
    settle(model, data, settings)
    with replacing(folder / "judge") as new:
        for name, part in model.to("cpu", torch.float16, memory_format=torch.contiguous_format).items():
            part.save_pretrained(new / name)


def _input(pictures: Tensor) -> Tensor:
    return with_places(pictures).contiguous(memory_format=torch.channels_last)


def finding(maps: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The finder's loss: maps (b, 5, 64, 64) against what `render` says of them."""
    seen = batch["seen"] / 255
    rows = torch.arange(len(seen), device=seen.device)[:, None, None]
    own = batch["things"][rows, batch["owner"].long()].permute(0, 3, 1, 2)  # of every pixel, its thing's truth
    goal = torch.cat([own[:, :2] - places(SIDE).to(own), own[:, 2:3], own[:, 3:].deg2rad()], 1)
    off = smooth_l1_loss(maps[:, 1:4], goal[:, :3], beta=0.02, reduction="none").sum(1)
    off = off + 2 * smooth_l1_loss(maps[:, 4], goal[:, 3], beta=0.3, reduction="none")  # most are small
    weight = seen / seen.sum((1, 2), keepdim=True).clamp(min=20)  # every picture counts alike, one nearly empty less
    return 4 * binary_cross_entropy_with_logits(maps[:, 0], seen) + 20 * (weight * off).sum((1, 2)).mean()


@torch.no_grad()
def settle(model: nn.ModuleDict, data: Pictures, settings: dict) -> None:
    """Measure batch norm's means and deviations again: those of training belong to the weights before averaging."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
    model.train()
    for number in range(32):
        rng = np.random.default_rng([settings["seed"], 8, number])
        batch = data.batch(rng, torch.Generator().manual_seed(number), settings["batch"])
        model["reader"](_input(batch["pictures"]))
        model["finder"](_input(resize(batch["pictures"], FINE)))
    model.eval()


@torch.no_grad()
def measure(models: Path, device: torch.device, count: int = 1000) -> dict:
    """What the judge reads off fresh renderings, of all objects and of places it has not seen, and off the same
    pictures through the autoencoder: per cent right per question, pixels at 64 a side, degrees, and the mask's IoU.

    Angles are those of single objects.
    """
    judge = Judge.load(models / "judge", device)
    vae = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32).to(device)
    rng = np.random.default_rng(SEED)
    scenes = [random_scene(rng) for _ in range(count)]
    truth = render([
        Scene(str(rng.choice(list(OBJECTS))), each.style, each.place, each.things, None, int(rng.choice(FRESH)))
        for each in scenes
    ])  # fmt: skip
    fresh = truth["pictures"] / 255
    again = [vae.decode(vae.encode(part.to(device) * 2 - 1).latent_dist.mode()).sample for part in fresh.split(50)]
    again = (torch.cat(again).cpu() / 2 + 0.5).clamp(0, 1)
    return {"renderings": compare(judge, fresh, truth), "reconstructions": compare(judge, again, truth)}


def compare(judge: Judge, frames: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """The judge's readings of frames (b, 3, h, w) in [0, 1] against their truth as `render` gives it."""
    reading = judge.read(frames)
    figures = {}
    for question, column in zip(ANSWERS, truth["answers"].T, strict=True):
        right = [ANSWERS[question].index(name) for name in reading.names[question]] == column.numpy()
        figures[question] = 100 * float(right.mean())
    counts = truth["answers"][:, 3] + 1
    centres = torch.stack([things[:count, :2].mean(0) for things, count in zip(truth["things"], counts, strict=True)])
    found = torch.stack([reading.numbers["x"], reading.numbers["y"]], 1)
    error = SIDE * (found - centres).norm(dim=1).nan_to_num(1)  # nothing found: a whole side
    single = counts == 1
    turned = (reading.numbers["angle"] - truth["things"][:, 0, 3]).abs()[single].nan_to_num(90)
    larger = SIDE * (reading.numbers["size"] - truth["things"][:, 0, 2]).abs().nan_to_num(1)
    mask, seen = resize(reading.mask[:, None], SIDE)[:, 0] > 0.5, truth["seen"] > 127
    overlap = (mask & seen).sum((1, 2)) / (mask | seen).sum((1, 2)).clamp(min=1)
    figures |= {"centre_median": float(error.median()), "centre_mean": float(error.mean())}
    figures |= {"size_mean": float(larger.mean()), "angle_mean": float(turned.mean()), "iou": float(overlap.mean())}
    return {name: round(value, 3 if name == "iou" else 2) for name, value in figures.items()}
