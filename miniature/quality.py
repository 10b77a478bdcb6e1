"""What the models can do, on fresh seeded samples: reports/quality.json, sheets, and the table in README.md."""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from miniature.vae import pictures
from miniature.world import OBJECTS, PLACES, STYLES, TRAINED, Scene, describe, draw, random_scene

HERE = Path("miniature")
REPORTS = HERE / "reports"
SEED, SAMPLES, STEPS, GUIDANCE = 4242, 240, 25, 3.0


@torch.no_grad()
def main(models: Path) -> None:
    """Measure the published models in `models` and write the reports."""
    REPORTS.mkdir(exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reader = Reader(models / "clip", device)
    found = {"vae": autoencoder(models, device), "clip": retrieval(reader), **diffusion(models, reader, device)}
    seen = {stage: json.loads((models / stage / "training.json").read_text()) for stage in ("vae", "clip", "unet")}
    (REPORTS / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    readme = HERE / "README.md"
    marked = re.compile(r"(<!-- quality -->\n).*(<!-- end -->)", re.S)
    readme.write_text(marked.sub(lambda match: match[1] + table(found, seen) + match[2], readme.read_text()))


def autoencoder(models: Path, device: torch.device) -> dict:
    """PSNR in dB of 256 fresh pictures, and of 128 with objects never seen in training."""
    vae = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32).to(device)
    fresh = pictures(np.random.default_rng(SEED), 256)
    rng = np.random.default_rng(SEED + 1)
    strangers = [name for name, thing in OBJECTS.items() if thing.held_out]
    unseen = [
        Scene(str(rng.choice(strangers)), str(rng.choice(list(STYLES))), str(rng.choice(list(PLACES))), scene.things)
        for scene in (random_scene(rng) for _ in range(128))
    ]
    unseen = _tensor([draw(scene) for scene in unseen])
    figures, sheets = {}, []
    for name, real in (("psnr", fresh), ("psnr_held_out", unseen)):
        drawn = torch.cat(
            [vae.decode(vae.encode(part.to(device)).latent_dist.mode()).sample for part in real.split(32)]
        )
        drawn = drawn.clamp(-1, 1).cpu()
        decibels = -10 * ((real - drawn) / 2).square().mean((1, 2, 3)).log10()
        figures[name] = round(decibels.mean().item(), 2)
        sheets += [real[:12], drawn[:12]]
    _sheet("vae", torch.cat(sheets), 12)
    return figures


class Reader:
    """CLIP that chooses among captions which one a picture shows."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model = open_clip.create_model(f"local-dir:{folder}", device=device).eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.device = device

    def similarity(self, real: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """(pictures, captions) cosines, of pictures (b, 3, 64, 64) in [-1, 1]."""
        seen = torch.cat([self.model.encode_image(part.to(self.device), normalize=True) for part in real.split(64)])
        tokens = self.tokenizer(captions).to(self.device)
        read = torch.cat([self.model.encode_text(part, normalize=True) for part in tokens.split(256)])
        return (seen @ read.T).cpu()

    def accuracy(self, real: torch.Tensor, truths: list[tuple[str, str, str]]) -> dict:
        """Shares of pictures whose best caption, of all objects, styles and places, has these right (per cent)."""
        choices = list(product(TRAINED, STYLES, PLACES))
        best = self.similarity(real, [describe(*choice) for choice in choices]).argmax(1).tolist()
        right = np.array(
            [[a == b for a, b in zip(choices[i], truth, strict=True)] for i, truth in zip(best, truths, strict=True)]
        )
        shares = dict(zip(("object", "style", "place"), right.mean(0), strict=True), all=right.all(1).mean())
        return {name: round(100 * float(share), 1) for name, share in shares.items()}


def retrieval(reader: Reader) -> dict:
    """Share of pictures that find their caption among 100 that differ in object, style, place or count (per cent)."""
    rng, rounds = np.random.default_rng(SEED + 2), []
    for _ in range(5):
        scenes = {}
        while len(scenes) < 100:
            scene = random_scene(rng)
            scenes[scene.object, scene.style, scene.place, scene.count] = scene
        captions = [describe(*truth) for truth in scenes]
        best = reader.similarity(_tensor([draw(scene) for scene in scenes.values()]), captions).argmax(1)
        rounds.append((best == torch.arange(100)).float().mean().item())
    return {"retrieval_of_100": round(100 * float(np.mean(rounds)), 1)}


def diffusion(models: Path, reader: Reader, device: torch.device) -> dict:
    """CLIP's reading of generated pictures, and of renderings of the same captions: the measure's ceiling."""
    pipe = StableDiffusionPipeline.from_pretrained(models, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(SEED + 3)
    truths = [tuple(str(rng.choice(list(part))) for part in (TRAINED, STYLES, PLACES)) for _ in range(SAMPLES)]
    truths[:24] = [(name, style, place) for (name, place), style in product(zip(TRAINED, PLACES), STYLES)]  # noqa: B905
    drawn = []
    for start in range(0, SAMPLES, 24):
        captions = [describe(*truth) for truth in truths[start : start + 24]]
        generator = torch.Generator().manual_seed(SEED + start)
        options = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=64, width=64, generator=generator)
        drawn.append(pipe(captions, output_type="pt", **options).images.cpu() * 2 - 1)
    drawn = torch.cat(drawn)
    _sheet("unet", drawn[:96], 12)
    real = [draw(Scene(*truth, ((0.5, 0.53, 0.65, 0.0),), variant=i)) for i, truth in enumerate(truths)]
    return {"unet": reader.accuracy(drawn, truths), "renderings": reader.accuracy(_tensor(real), truths)}


def table(found: dict, seen: dict) -> str:
    """The figures as Markdown."""
    unet, real = found["unet"], found["renderings"]
    three, ceiling = (" / ".join(f"{shares[k]}" for k in ("object", "style", "place")) for shares in (unet, real))
    rows = [
        ("VAE", "PSNR, 256 fresh pictures", f"{found['vae']['psnr']} dB", "26 dB", "30 dB"),
        ("VAE", "PSNR, objects never trained on", f"{found['vae']['psnr_held_out']} dB", "", ""),
        ("CLIP", "finds its caption among 100", f"{found['clip']['retrieval_of_100']} %", "80 %", "95 %"),
        ("CLIP", "reads object / style / place off a rendering", f"{ceiling} %", "", ""),
        ("CLIP", "reads all three right", f"{real['all']} %", "", ""),
        ("UNet", f"CLIP reads object / style / place off {SAMPLES} samples", f"{three} %", "", ""),
        ("UNet", "CLIP reads all three right", f"{unet['all']} %", "60 % (by a judge)", "90 % (by a judge)"),
    ]
    lines = ["| model | measure | measured | CPU target | goal |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| model | pictures seen | minutes of training |", "| --- | --- | --- |"]
    lines += [f"| {stage} | {facts['pictures']:,} | {facts['seconds'] / 60:.0f} |" for stage, facts in seen.items()]
    return "\n".join(lines) + "\n"


def _tensor(drawn: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _sheet(name: str, drawn: torch.Tensor, columns: int) -> None:
    """Save pictures (b, 3, h, w) in [-1, 1] as one PNG."""
    uint8 = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(uint8[i : i + columns], axis=1) for i in range(0, len(uint8), columns)]
    Image.fromarray(np.concatenate(rows)).save(REPORTS / f"{name}.png", optimize=True)
