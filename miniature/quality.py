"""What the models can do, on fresh seeded samples: reports/quality.json, sheets, and the tables in README.md."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from matplotlib.figure import Figure
from PIL import Image

from measures.judge import Judge
from miniature import captioner, control, video
from miniature import judge as judging
from miniature.cli import FOLDERS
from miniature.vae import pictures
from miniature.world import OBJECTS, PLACES, STYLES, TRAINED, Scene, describe, draw, random_scene
from publish.figures import strip, styled, write

HERE = Path("miniature")
REPORTS = HERE / "reports"
SEED, SAMPLES, STEPS, GUIDANCE = 4242, 500, 25, 3.0
SHOWN = ("straight", "arc", "closer", "turn", "enter", "cross")  # motions of the clips in the sheet
BUDGET = 480  # minutes that two CPU cores may take for all of the training


@torch.no_grad()
def main(models: Path) -> None:
    """Measure the published models in `models` and write the reports."""
    REPORTS.mkdir(exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reader, judge = Reader(models / "clip", device), Judge.load(models / "judge", device)
    found = {"vae": autoencoder(models, device), "clip": retrieval(reader), "judge": judging.measure(models, device)}
    found |= {"agreement": agreement(judge), "captioner": captioner.measure(models, device)}
    found |= diffusion(models, judge, device)
    seen = training(models)
    if seen.keys() >= control.FOLDERS.keys():
        found["control"] = control.measure(models, device, judge)
        show_control(models, device)
    if "video" in seen:
        found["video"] = video.measure(models, device, judge)
        show_video(models, device)
    if any(facts.get("losses") for facts in seen.values()):
        write(losses(seen), REPORTS / "losses.png")
    (REPORTS / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    readme = HERE / "README.md"
    marked = re.compile(r"(<!-- quality -->\n).*(<!-- end -->)", re.S)
    readme.write_text(marked.sub(lambda match: match[1] + table(found, seen) + match[2], readme.read_text()))


def training(models: Path) -> dict[str, dict]:
    """What the published weights of every stage have seen, as `fit.progress` has it."""
    paths = {stage: models / folder / "training.json" for stage, folder in FOLDERS.items()}
    return {stage: json.loads(path.read_text()) for stage, path in paths.items() if path.exists()}


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
    _sheet(torch.cat(sheets), 12, REPORTS / "vae.png")
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


def diffusion(models: Path, judge: Judge, device: torch.device) -> dict:
    """What the judge reads off generated pictures, and off renderings of the same captions: the measure's ceiling."""
    truths, drawn = sample(models, SAMPLES, device)
    _sheet(drawn[:96], 12, REPORTS / "unet.png")
    real = [draw(Scene(*truth, ((0.5, 0.53, 0.65, 0.0),), variant=i)) for i, truth in enumerate(truths)]
    return {"unet": accuracy(judge, drawn, truths), "renderings": accuracy(judge, _tensor(real), truths)}


@torch.no_grad()
def sample(models: Path, count: int, device: torch.device) -> tuple[list[tuple[str, str, str]], torch.Tensor]:
    """(object, style, place) at random, and what the stock pipeline draws of them: (count, 3, 64, 64) in [-1, 1]."""
    pipe = StableDiffusionPipeline.from_pretrained(models, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(SEED + 3)
    truths = [tuple(str(rng.choice(list(part))) for part in (TRAINED, STYLES, PLACES)) for _ in range(count)]
    drawn = []
    for start in range(0, count, 25):
        captions = [describe(*truth) for truth in truths[start : start + 25]]
        generator = torch.Generator().manual_seed(SEED + start)
        options = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=64, width=64, generator=generator)
        drawn.append(pipe(captions, output_type="pt", **options).images.cpu() * 2 - 1)
    return truths, torch.cat(drawn)


def show_control(models: Path, device: torch.device) -> None:
    """Write control.png: eight scenes drawn, sampled without condition, and each condition with its samples below."""
    rng = np.random.default_rng(SEED + 4)
    scenes = [control.training_scene(rng) for _ in range(8)]
    captions, pictures = [scene.caption for scene in scenes], [draw(scene) for scene in scenes]
    conditions = [control.conditions(*pair) for pair in zip(scenes, pictures, strict=True)]
    rows = []
    for stage in (None, *control.FOLDERS):
        drawn = torch.from_numpy(np.stack([each[stage] for each in conditions] if stage else pictures))
        rows += [control.as_input(drawn), control.sample(models, stage, captions, drawn, device)]
    _sheet(torch.cat(rows) * 2 - 1, 8, REPORTS / "control.png", colours=256)


def show_video(models: Path, device: torch.device) -> None:
    """Write video.jpg: a clip sampled from its caption for each motion in `SHOWN`."""
    rng = np.random.default_rng(SEED + 5)
    captions = [video.random_clip(rng, motion)[0].caption for motion in SHOWN]
    clips = video.sample(models, captions, steps=STEPS, seed=SEED, device=device)
    write(strip(dict(zip(captions, clips, strict=True)), range(video.NUM_FRAMES)), REPORTS / "video.jpg")


@styled
def losses(seen: dict[str, dict]) -> Figure:
    """Training losses over pictures seen, a panel for every stage that has kept them."""
    kept = {stage: np.array(facts["losses"]) for stage, facts in seen.items() if facts.get("losses")}
    rows = -(-len(kept) // 4)
    figure = Figure(figsize=(2.4 * min(len(kept), 4), 2 * rows), layout="constrained")
    for number, (stage, pairs) in enumerate(kept.items(), 1):
        axes = figure.add_subplot(rows, min(len(kept), 4), number)
        axes.plot(pairs[:, 0] / 1000, pairs[:, 1])
        axes.set(title=stage, xlabel="thousand pictures seen", ylabel="" if number % 4 != 1 else "loss")
        axes.set_xlim(left=0)
    return figure


def accuracy(judge: Judge, drawn: torch.Tensor, truths: list[tuple[str, str, str]]) -> dict:
    """Shares of pictures whose object, style and place the judge reads as in their captions (per cent)."""
    names = judge.read((drawn + 1) / 2).names
    read = zip(*(names[question] for question in ("object", "style", "place")), strict=True)
    right = np.array([np.array(seen) == np.array(truth) for seen, truth in zip(read, truths, strict=True)])
    shares = dict(zip(("object", "style", "place"), right.mean(0), strict=True), all=right.all(1).mean())
    return {name: round(100 * float(share), 1) for name, share in shares.items()}


def draw_for_labelling(models: Path) -> None:
    """Write labels.png, ten by ten samples, to be looked at: what each shows goes into labels.csv."""
    _, drawn = sample(models, 100, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    _sheet(drawn, 10, HERE / "labels.png")


def agreement(judge: Judge) -> dict:
    """Judge and eye on the generated pictures of labels.png: shares of labels.csv that the judge reads too (per cent).

    Where the object cannot be told by looking it is "unclear", which counts as a disagreement.
    """
    sheet = np.asarray(Image.open(HERE / "labels.png").convert("RGB"))
    drawn = _tensor([cell for row in np.split(sheet, len(sheet) // 64) for cell in np.split(row, 10, axis=1)])
    labels = list(csv.DictReader((HERE / "labels.csv").open()))
    shares = accuracy(judge, drawn, [(row["object"], row["style"], row["place"]) for row in labels])
    unclear = sum(row["object"] == "unclear" for row in labels)
    return {**shares, "unclear": unclear}


def table(found: dict, seen: dict) -> str:
    """The figures as Markdown."""
    unet, real, judge, eye = (found[name] for name in ("unet", "renderings", "judge", "agreement"))
    judge, captions = judge["renderings"], found["captioner"]
    three = ("object", "style", "place")

    def shares(figures: dict, *names: str) -> str:
        return " / ".join(f"{figures[name]:.1f}" for name in names) + " %"

    rows = [
        ("VAE", "PSNR, 256 fresh pictures", f"{found['vae']['psnr']} dB", "26 dB", "30 dB"),
        ("VAE", "PSNR, objects never trained on", f"{found['vae']['psnr_held_out']} dB", "", ""),
        ("CLIP", "finds its caption among 100", f"{found['clip']['retrieval_of_100']} %", "80 %", "95 %"),
        ("judge", "object / style / place / count of fresh renderings", shares(judge, *three, "count"),
         "97 / 99 / 99 / 97 %", "99 % each"),
        ("judge", "mean centre error at 64 px", f"{judge['centre_mean']} px", "1.5 px", "1 px"),
        ("judge", "object / style / place as the eye, 100 generated pictures", shares(eye, *three), "85 %", "95 %"),
        ("judge", "all three as the eye", f"{eye['all']} % ({eye['unclear']} unclear to the eye)", "85 %", "95 %"),
        ("captioner", "object / style / place / count / motion of the clips",
         shares(captions, *three, "count", "motion"), "", ""),
        ("UNet", f"judge reads object / style / place off {SAMPLES} samples", shares(unet, *three), "", ""),
        ("UNet", "judge reads all three right", f"{unet['all']} %", "60 %", "90 %"),
        ("renderings", "judge reads all three right: the ceiling", f"{real['all']} %", "", ""),
    ]  # fmt: skip
    names = {"edges": "ControlNet, edges", "mask": "ControlNet, mask", "pose": "T2I-Adapter, pose",
             "none": "without control", "drawn": "drawn pictures: the ceiling"}  # fmt: skip
    for stage, figures in found.get("control", {}).items():
        target = (f"half of {found['control']['none']['centre_px']} px", "2 px, 0.7") if stage in FOLDERS else ("", "")
        measured = f"{figures['centre_px']} px, {figures['iou']}"
        rows.append((names[stage], "centre error at 64 px, IoU of the object", measured, *target))
    for which, figures in found.get("video", {}).items():
        name, target = {"sampled": ("text-to-video", ("60 %", "90 %"))}.get(
            which, ("drawn clips: the ceiling", ("", ""))
        )
        rows.append((name, "one object in all frames / and the caption's", shares(figures, "same", "right"), *target))
        rows.append((name, "moves as its caption says", shares(figures, "motion"), "", ""))
    lines = ["| model | measure | measured | CPU target | goal |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| stage | pictures seen | minutes of training |", "| --- | --- | --- |"]
    lines += [f"| {stage} | {facts['pictures']:,} | {facts['seconds'] / 60:.0f} |" for stage, facts in seen.items()]
    spent = sum(facts["seconds"] for facts in seen.values()) / 60
    lines += [f"| **all** | | **{spent:.0f}** of {BUDGET} |"]
    return "\n".join(lines) + "\n"


def _tensor(drawn: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _sheet(drawn: torch.Tensor, columns: int, path: Path, colours: int = 0) -> None:
    """Save pictures (b, 3, h, w) in [-1, 1] as one PNG, of that many colours if not of all."""
    uint8 = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(uint8[i : i + columns], axis=1) for i in range(0, len(uint8), columns)]
    sheet = Image.fromarray(np.concatenate(rows))
    (sheet.quantize(colours) if colours else sheet).save(path, optimize=True)
