"""What the world must be able to show before a tuned model is looked at, written to miniature/reports.

All from the untuned models and drawn clips. A gate whose model is not there yet is open, and so does not hold.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn.functional import avg_pool2d

from measures.judge import Judge, hue, wrapped
from measures.protocol import margins, worth
from measures.truth import Truth, asks, identity_stability, read, read_truth, recall, swaps, truth_scores
from miniature import control, judge, video
from miniature.clips import DATA, as_asked
from miniature.control import GUIDANCE, STEPS
from miniature.fit import digest
from miniature.judge import FRESH
from miniature.pool import Pool
from miniature.scenes import (
    GREY_COLOURS,
    PLACES,
    SIZE,
    STYLES,
    Renderer,
    Scenes,
    Thing,
    describe,
    names,
    objects,
    plain,
    random_scenes,
)
from tav import load_pipeline, read_clip
from tav.clip import read_frames
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline

HERE = Path("miniature")
SEED = 7331
FRAMES = 8  # of a clip
ROUNDING = 2  # of 255
OPEN = 64  # samples of one caption
OPEN_QUESTIONS = "drawing", "colour", "facing"  # what it leaves open
QUESTIONS = "object", "drawing", "style", "place", "facing", "colour"  # that the judge has to know
SAMPLES, SHOWN = 500, 100  # samples that are judged, and that are looked at
EDITED = 120  # edited frames that are looked at, of all methods that there are
ASKED = "object", "style", "place"  # what is named of a picture that is looked at
SEARCHED = Path("benchmarks/results/settings")  # what benchmarks/search.py has tried, a file a method
LISTS = "development", "evaluation", "several"  # of clips that gates are measured on


@dataclass(frozen=True)
class Gate:
    """What has to hold: `low` <= measured <= `high`; `measured` is None while what it `lacks` is missing."""

    about: str
    needs: str  # the bound, in words
    unit: str
    measured: float | None
    low: float = -np.inf
    high: float = np.inf
    lacks: str = "model"

    @property
    def holds(self) -> bool:
        return self.measured is not None and self.low <= self.measured <= self.high


def main(models: Path, device: torch.device) -> list[Gate]:
    """Measure what there are models for; write reports/gates.json, sheets, and the table in README.md.

    A part that is known for these weights and lists of clips is not measured again; each is written when it is known.
    """
    file, readme = HERE / "reports" / "gates.json", HERE / "README.md"
    file.parent.mkdir(exist_ok=True)
    found = json.loads(file.read_text()) if file.exists() else {}
    lists = hashlib.sha256(b"".join((DATA / f"{name}.yaml").read_bytes() for name in LISTS)).hexdigest()[:8]
    load, asked = cache(partial(Judge.load, models / "judge", device)), wanted(SAMPLES)
    reader, base = ("judge/reader", "judge/finder"), ("vae", "text_encoder", "unet")
    parts: dict[str, tuple[tuple[str, ...], Callable[[], dict]]] = {
        "vae": (("vae",), lambda: autoencoder(models, device)),
        "pictures": (("vae", *reader), lambda: judge.measure(models, device)["drawn"]),  # no gate: the hardest ones
        "clips": (reader, lambda: on_clips(load())),
        "several": (reader, lambda: several(load())),
        "trivial": (reader, lambda: trivial(load(), device)),
        "inversion": (base, lambda: inversion(models, device)),
        "samples": ((*base, *reader), lambda: right(load(), asked, sampled(models, device, asked))),
        "open": ((*base, *reader), lambda: openness(models, load(), device)),
        "foreign": ((*base, *reader, video.FOLDER), lambda: foreign(models, load(), device)),
        "room": ((*base, *reader), lambda: room(models, load(), device)),
        "control": ((*base, *reader, *control.FOLDERS.values()), lambda: control.measure(models, device, load())),
    }
    found = {name: figures for name, figures in found.items() if name in (*parts, "of")}
    if searched := sorted(SEARCHED.glob("*.csv")):
        found["guidance"] = inside(searched)
    for name, (needs, measure) in parts.items():
        if not all((models / folder).exists() for folder in needs):
            continue
        of = digest(models, *needs) + lists
        if found.setdefault("of", {}).get(name) != of:
            print(name, flush=True)
            found[name], found["of"][name] = measure(), of
            file.write_text(json.dumps(found, indent=2) + "\n")
    found["eye"] = by_eye(asked, file.parent)
    if (models / "judge" / "finder").exists():
        found["edited"] = agreement(load(), file.parent)
    file.write_text(json.dumps(found, indent=2) + "\n")
    gates = table(found)
    marked = re.compile(r"(<!-- gates -->\n).*(<!-- end -->)", re.S)
    readme.write_text(marked.sub(lambda match: match[1] + markdown(gates) + match[2], readme.read_text()))
    return gates


@torch.no_grad()
def autoencoder(models: Path, device: torch.device, count: int = 256) -> dict:
    """Mean PSNR in dB of fresh pictures with grain, layouts never seen: of objects seen in training and of others."""
    vae = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32).to(device)
    figures, sheet = {}, []
    for number, (name, seen) in enumerate((("seen", True), ("unseen", False))):
        pool = Pool(count, SEED + number, device, among=names(seen), layouts=FRESH)
        real = pool.take(np.arange(count), torch.Generator(device).manual_seed(SEED))
        parts = [vae.decode(vae.encode(part * 2 - 1).latent_dist.mode()).sample for part in real.split(32)]
        again = (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
        figures[name] = round(float(decibels(real, again).mean()), 2)
        sheet += [real[:12], again[:12]]
    _save(torch.cat(sheet), 12, HERE / "reports" / "vae.png")
    return figures


def decibels(one: Tensor, other: Tensor) -> Tensor:
    """PSNR of each of n pictures in [0, 1] against its other: n."""
    return -10 * (one - other).square().mean((1, 2, 3)).log10()


def listed(which: str) -> list[tuple[str, dict]]:
    """Names of a list's clips and what it says of them; their videos have to be there."""
    clips = YAML(typ="safe").load(DATA / f"{which}.yaml")["clips"]
    if any(not Path(facts["source"]["path"]).exists() for facts in clips.values()):
        raise InputError(f"clips of {which}.yaml are not drawn yet: run python -m miniature clips")
    return list(clips.items())


def _with_truth(source: dict) -> tuple[Tensor, Truth]:
    """The frames of a clip's source, f 3 64 64 in [-1, 1], and its truth."""
    return tuple(each(**source, num_frames=FRAMES, size=SIZE) for each in (read_clip, read_truth))


def per_frame(models: Path, device: torch.device) -> TuneAVideoPipeline:
    """The untuned image model, which sees every frame of a clip by itself."""
    pipe = load_pipeline(models, FRAMES, norm="frame", attention="own", temporal=False).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inversion(models: Path, device: torch.device) -> dict:
    """The development clips inverted in 25 steps and sampled back, without guidance or caption.

    deviation: of the noise of every frame, the mean over clips and frames, and the least and greatest of a frame; high:
    of what is left of it when each latent's 3 x 3 neighbourhood is taken away, over the same of random noise; psnr: in
    dB of the frames sampled back, the mean and the least of a clip.
    """
    pipe, deviation, high, psnr = per_frame(models, device), [], [], []
    for _name, facts in listed("development"):
        clip = read_clip(**facts["source"], num_frames=FRAMES, size=SIZE)
        noise = pipe.invert(pipe.encode_clip(clip.to(device)), STEPS)
        back = pipe("", latents=noise, num_inference_steps=STEPS, guidance_scale=1.0, output_type="pt").frames[0]
        random = torch.randn(noise.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
        deviation.append(noise.std((1, 2, 3)))
        high.append(_sharp(noise).std((1, 2, 3)) / _sharp(random).std())
        psnr.append(decibels(clip / 2 + 0.5, back.cpu()).mean())
    deviation, high, psnr = torch.stack(deviation).cpu(), torch.stack(high).cpu(), torch.stack(psnr)
    spread = {f"{name} {end}": float(getattr(values, end)())
              for name, values in (("deviation", deviation), ("high", high), ("psnr", psnr))
              for end in ("mean", "min", "max")}  # fmt: skip
    return {name: round(value, 3) for name, value in spread.items()}


def _sharp(latents: Tensor) -> Tensor:
    return latents - avg_pool2d(latents, 3, 1, 1, count_include_pad=False)


def wanted(count: int) -> list[tuple[str, str, str]]:
    """Objects, styles and places at random."""
    rng = np.random.default_rng(SEED)
    return [tuple(str(rng.choice(part)) for part in (names(True), list(STYLES), list(PLACES))) for _ in range(count)]


def sampled(models: Path, device: torch.device, asked: list[tuple[str, str, str]]) -> Tensor:
    """A sample of each object, style and place at `GUIDANCE`, n 3 64 64; a sheet shows the first."""
    captions = [describe(style, [Thing(thing)], place) for thing, style, place in asked]
    drawn = control.Sampler(models, device)(captions, SEED)
    _save(drawn[:SHOWN], 10, HERE / "reports" / "samples.png")
    return drawn


def right(reader: Judge, asked: list[tuple[str, str, str]], drawn: Tensor) -> dict:
    """Per cent of samples whose object, style and place, and all three, the judge reads as asked."""
    return _shares(asked, _said(reader, drawn))


def by_eye(asked: list[tuple[str, str, str]], folder: Path) -> dict:
    """Per cent of the samples shown whose object, style and place, and all three, were named as asked by who knew none.

    `folder` holds samples.png and samples.json: the digest of the sheet that the labels were given for, and a triple
    for each picture. Nothing where there are no labels, labels of another sheet, or of fewer pictures.
    """
    shown, given = asked[:SHOWN], _labels(folder, "samples")
    return _shares(shown, given) if given and len(given) == len(shown) else {}


def show_edited(results: Path, seed: int = SEED) -> None:
    """Write reports/edited.png, ten in a row: EDITED frames of the edits in `results`, which the stages of a run made,
    as many of every method and variant, in an order that does not tell which."""
    rng, methods = np.random.default_rng(seed), {}
    for folder in sorted(path.parent for path in results.glob("*/**/00000.png")):
        part, *where = folder.relative_to(results).parts
        if part in ("edit", "peers", "ablate"):
            methods.setdefault((part, *where[:-2]), []).append(folder)
    if not methods:
        raise InputError(f"there are no edits in {results}: run `make reproduce` first")
    chosen = [list(methods.values())[number % len(methods)] for number in range(EDITED)]
    frames = [read_frames(folders[rng.integers(len(folders))]) for folders in chosen]
    frames = torch.stack([clip[rng.integers(len(clip))] for clip in frames])
    _save(frames[torch.from_numpy(rng.permutation(EDITED))], 10, HERE / "reports" / "edited.png")


def agreement(reader: Judge, folder: Path) -> dict:
    """Per cent of the edited frames of `show_edited` of which judge and eye name the same object, style and place, and
    all three; an object that the eye cannot tell is "nothing". As `by_eye`, of edited.png and edited.json."""
    given = _labels(folder, "edited")
    if len(given) != EDITED:
        return {}
    sheet = torch.from_numpy(np.array(Image.open(folder / "edited.png").convert("RGB")))
    pictures = rearrange(sheet, "(y h) (x w) c -> (y x) c h w", h=SIZE, w=SIZE).float() / 255
    return _shares(given, _said(reader, pictures))


def _labels(folder: Path, name: str) -> list[tuple[str, str, str]]:
    """The labels in `folder`/`name`.json, if they were given for the sheet `name`.png beside it."""
    path, sheet = folder / f"{name}.json", folder / f"{name}.png"
    if not path.exists() or not sheet.exists():
        return []
    given = json.loads(path.read_text())
    own = given["sheet"] == hashlib.sha256(sheet.read_bytes()).hexdigest()
    return [tuple(label) for label in given["labels"]] if own else []


def _said(reader: Judge, pictures: Tensor) -> list[tuple[str, str, str]]:
    """What the judge reads as ASKED off each picture."""
    names = reader.read(pictures).names
    return list(zip(*(names[question] for question in ASKED), strict=True))


def _shares(one: list[tuple[str, str, str]], other: list[tuple[str, str, str]]) -> dict:
    """Per cent of the pictures of which two say the same of each of ASKED, and of all."""
    same = np.array(one) == np.array(other)
    shares = dict(zip(ASKED, same.mean(0), strict=True), all=same.all(1).mean())
    return {name: round(100 * float(share), 1) for name, share in shares.items()}


def openness(models: Path, reader: Judge, device: torch.device, captions: int = 4) -> dict:
    """How far samples of one caption differ in drawing, colour and facing, over how far drawn pictures do.

    That is the chance that two differ, as the judge reads them; means over captions of different objects, nan where it
    reads all drawn pictures of one alike.
    """
    rng, ratios, sampler = np.random.default_rng(SEED), [], control.Sampler(models, device)
    chosen = rng.choice([name for name in names(True) if len(objects()[name].drawings) > 1], captions, replace=False)
    for number, name in enumerate(chosen):
        style, place = str(rng.choice(list(STYLES))), str(rng.choice(list(PLACES)))
        made = reader.read(sampler([describe(style, [Thing(str(name))], place)] * OPEN, SEED + 1000 * number))
        pool = Pool(OPEN, SEED + number, device, layouts=FRESH, draw=partial(_alike, str(name), style, place))
        drawn = reader.read(pool.take(np.arange(OPEN), torch.Generator(device).manual_seed(SEED)).cpu())
        both = [[differing(read.names[question]) for read in (made, drawn)] for question in OPEN_QUESTIONS]
        ratios.append([sampled / there if there else np.nan for sampled, there in both])
    return dict(zip(OPEN_QUESTIONS, np.mean(ratios, 0).round(3).tolist(), strict=True))


def _alike(name: str, style: str, place: str, rng: np.random.Generator, n: int) -> Scenes:
    """Plain pictures of one caption."""
    drawn, same = plain(rng, n, FRESH), random_scenes(rng, n, [name], FRESH)
    own = {what: getattr(same, what) for what in ("drawing", "colour", "paint", "facing")}
    where = {"style": np.full(n, list(STYLES).index(style)), "place": np.full(n, list(PLACES).index(place))}
    return drawn.with_(**own, **where)


def differing(read: list[str]) -> float:
    """The chance that two of these, taken at random, are not the same: 0 to 1."""
    counts = np.unique(read, return_counts=True)[1]
    return 1 - float((counts * (counts - 1)).sum()) / (len(read) * (len(read) - 1))


def room(models: Path, reader: Judge, device: torch.device) -> dict:
    """How often two frames of a clip differ in drawing or colour: of the development clips, and of their edits made
    frame by frame by the untuned model."""
    pipe, source, edited = per_frame(models, device), [], []
    for _name, facts in listed("development"):
        clip, truth = _with_truth(facts["source"])
        noise = pipe.invert(pipe.encode_clip(clip.to(device)), STEPS)
        options = dict(latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt")
        source.append(1 - identity_stability(reader.read(clip / 2 + 0.5), truth))
        edited += [1 - identity_stability(reader.read(frames.cpu()), truth)
                   for frames in pipe(list(facts["edits"].values()), **options).frames]  # fmt: skip
    return {"source": round(float(np.nanmean(source)), 4), "edited": round(float(np.nanmean(edited)), 4)}


def trivial(reader: Judge, device: torch.device, seed: int = SEED) -> dict:
    """Mean "edited in motion" of the evaluation clips' edits, by three that are no methods, as the judge reads them.

    source: the clip left as it is. repeated: one frame of the edit as it should be, again and again. drawn: the edit
    as it should be, which is the most that a method can have.
    """
    found: dict[str, list[float]] = {"source": [], "repeated": [], "drawn": []}
    for name, facts in listed("evaluation"):
        clip = json.loads((DATA / "clips" / f"{name}.json").read_text())
        frames, truth = _with_truth(facts["source"])
        frames = frames / 2 + 0.5
        render, source = Renderer(device, range(clip["layout"], clip["layout"] + 1)), read(reader, frames, truth)
        for prompt in facts["edits"].values():
            asked = asks(prompt, reader.answers)
            look = as_asked(clip, prompt)[facts["source"]["start"] :: facts["source"]["stride"]][:FRAMES]
            edit = render(look, torch.Generator(device).manual_seed(seed)).pictures.cpu()
            shown = {"source": (source, frames)}
            for what, pictures in (("repeated", edit[FRAMES // 2].expand_as(edit)), ("drawn", edit)):
                shown[what] = read(reader, pictures, truth), pictures
            for what, (reading, pictures) in shown.items():
                found[what].append(truth_scores(reading, truth, asked, pictures, frames)["edited in motion"])
    return {what: round(float(np.nanmean(values)), 3) for what, values in found.items()}


def foreign(models: Path, reader: Judge, device: torch.device) -> dict:
    """Means over the evaluation clips' edits of place and style of what claims ask of keeping the source, by the
    text-to-video model, which never sees it."""
    names, edits = ("edited in motion", "identity kept"), []
    for _name, facts in listed("evaluation"):
        edits += [(facts["source"], facts["edits"][kind]) for kind in ("place", "style") if kind in facts["edits"]]
    clips, found = video.sample(models, [prompt for _, prompt in edits], seed=SEED, device=device), []
    for (source, prompt), frames in zip(edits, clips, strict=True):
        original, truth = _with_truth(source)
        reading, asked = read(reader, frames, truth), asks(prompt, reader.answers)
        found.append([truth_scores(reading, truth, asked, frames, original / 2 + 0.5)[name] for name in names])
    return dict(zip(names, np.nanmean(found, 0).round(3).tolist(), strict=True))


def on_clips(reader: Judge) -> dict:
    """Of the frames of all clips of one thing, evaluated and developed on, in which it can be seen: per cent that the
    judge reads rightly, per question; medians of the errors of hue, in degrees, and centre, in per cent of the side."""
    right: dict[str, list[Tensor]] = {question: [] for question in QUESTIONS}
    hues, centres = [], []
    for _name, facts in [*listed("evaluation"), *listed("development")]:
        frames, truth = _with_truth(facts["source"])
        (shown,), counts = truth.shown, truth.visible[:, 0]
        reading = read(reader, frames / 2 + 0.5, truth)
        said = {"style": truth.style, "place": truth.place, **vars(shown)}
        said = {question: [said.get(question)] * FRAMES for question in QUESTIONS}
        said["facing"] = ["right" if facing > 0 else "left" for facing in truth.facing[:, 0].tolist()]
        for question, answers in said.items():
            named = zip(reading.names[question], answers, strict=True)
            right[question].append(torch.tensor([name == answer for name, answer in named])[counts])
        off = reading.things[:, 0, :2] - truth.things[:, 0, :2]
        centres.append(100 * off.norm(dim=1)[counts])
        if shown.colour not in GREY_COLOURS:
            hues.append(wrapped(hue(reading.colour) - hue(torch.tensor(shown.paint))).abs()[counts])
    shares = {question: 100 * float(torch.cat(each).float().mean()) for question, each in right.items()}
    errors = {"hue": float(torch.cat(hues).nanmedian()), "centre": float(torch.cat(centres).nanmedian())}
    return {name: round(value, 2) for name, value in (shares | errors).items()}


def several(reader: Judge) -> dict:
    """Of the things of the clips of several, per cent that the judge reads at their places and that it takes for
    another of the clip, as the captions have them: means over clips."""
    found: dict[str, list[float]] = {"recall": [], "swaps": []}
    for _name, facts in listed("several"):
        frames, truth = _with_truth(facts["source"])
        reading = read(reader, frames / 2 + 0.5, truth)
        asked = asks(facts["caption"], reader.answers)
        if len(truth.shown) > 1:
            found["recall"].append(recall(reading, truth, asked))
            found["swaps"].append(swaps(reading, truth, asked))
    return {what: round(100 * float(np.nanmean(values)), 2) for what, values in found.items()}


def inside(searched: Iterable[Path]) -> dict:
    """Per method whether the best of its tries has a guidance scale between the least and the greatest tried.

    searched: a CSV a method, a row per try and edit, named by `settings`.
    """
    found = {}
    for path in searched:
        tries = pd.read_csv(path)
        measure = worth(path.stem)
        scales = tries["settings"].str.extract(r"guidance_scale=(\S+)", expand=False).astype(float)
        best = float(scales[tries["settings"] == tries.groupby("settings")[measure].mean().idxmax()].iloc[0])
        found[path.stem] = bool(scales.min() < best < scales.max())
    return found


def table(found: dict) -> list[Gate]:
    """Every gate with what was found for it."""

    def gate(about: str, needs: str, unit: str, figure: Callable[[], float], low=-np.inf, high=np.inf, **more) -> Gate:
        try:
            measured = figure()
        except KeyError:
            measured = None
        return Gate(about, needs, unit, measured, low, high, **more)

    enough = margins()
    gates = [
        gate(f"open: {what} of {OPEN} samples of a caption, over drawn pictures'", "0.5", "",
             lambda what=what: found["open"][what], 0.5)
        for what in OPEN_QUESTIONS
    ]  # fmt: skip
    gates.append(gate("room: frames edited one by one differ, over the source's", "3", "",
                      lambda: found["room"]["edited"] / max(found["room"]["source"], 1e-3), 3))  # fmt: skip
    for question in QUESTIONS:
        gates.append(gate(f"judge on drawn clips: {question}", "95 %", " %",
                          lambda question=question: found["clips"][question], 95))  # fmt: skip
    gates += [
        gate("judge on drawn clips: error of the hue", "10 degrees", " degrees",
             lambda: found["clips"]["hue"], high=10),
        gate("judge on drawn clips: error of the centre", "1.5 % of the side", " %",
             lambda: found["clips"]["centre"], high=1.5),
        gate("judge on drawn clips of several things: recall", "95 %", " %", lambda: found["several"]["recall"], 95),
        gate("judge on drawn clips of several things: taken for another", "at most 2 %", " %",
             lambda: found["several"]["swaps"], high=2),
        gate("the source itself, edited in motion", "at most 0.05", "", lambda: found["trivial"]["source"], high=0.05),
        gate("one edited frame repeated, edited in motion", "at most 0.05", "",
             lambda: found["trivial"]["repeated"], high=0.05),
        gate("the edit as it should be, edited in motion", "0.9", "", lambda: found["trivial"]["drawn"], 0.9),
        gate("text-to-video, edited in motion", f"less than {enough['edited_in_motion']:g}, as claims ask", "",
             lambda: found["foreign"]["edited in motion"], high=np.nextafter(enough["edited_in_motion"], 0)),
        gate("text-to-video, identity kept", f"less than {enough['identity_kept']:g}, as claims ask", "",
             lambda: found["foreign"]["identity kept"], high=np.nextafter(enough["identity_kept"], 0)),
        gate("VAE, fresh pictures", "30 dB", " dB", lambda: found["vae"]["seen"], 30),
        gate("VAE, objects never seen", "29 dB", " dB", lambda: found["vae"]["unseen"], 29),
        gate("inverted noise: deviation", "0.9 to 1.1", "", lambda: found["inversion"]["deviation mean"], 0.9, 1.1),
        gate("inverted noise: its high frequencies, over random noise's", "0.9 to 1.1", "",
             lambda: found["inversion"]["high mean"], 0.9, 1.1),
        gate("drawn clips, inverted and sampled back", "27 dB", " dB", lambda: found["inversion"]["psnr mean"], 27),
    ]  # fmt: skip
    for question in ("object", "style", "place"):
        gates.append(gate(f"{SAMPLES} samples at guidance {GUIDANCE:g}: {question}, by the judge", "95 %", " %",
                          lambda question=question: found["samples"][question], 95))  # fmt: skip
    gates.append(gate(f"{SHOWN} of them: object, style and place, by blind eye", "90 %", " %",
                      lambda: found["eye"]["all"], 90, lacks="labels of these"))  # fmt: skip
    gates.append(gate(f"judge and blind eye on {EDITED} edited frames: object, style and place", "85 %", " %",
                      lambda: found["edited"]["all"], 85, lacks="labels of these"))  # fmt: skip
    gates.append(gate("best guidance on development clips: inside its grid, of the methods searched", "100 %", " %",
                      lambda: 100 * sum(found["guidance"].values()) / len(found["guidance"]), 100,
                      lacks="search"))  # fmt: skip
    for stage in control.FOLDERS:
        gates += [
            gate(f"{stage}: error of the centre, over that without", "a third", "",
                 lambda stage=stage: found["control"][stage]["centre_px"] / found["control"]["none"]["centre_px"],
                 high=1 / 3),
            gate(f"{stage}: overlap of the masks", "0.7", "", lambda stage=stage: found["control"][stage]["iou"], 0.7),
        ]  # fmt: skip
    return gates


def markdown(gates: list[Gate]) -> str:
    """The gates as a table."""
    rows = ["| gate | at least | measured | holds |", "|---|---|---|---|"]
    for gate in gates:
        measured = f"no {gate.lacks} yet" if gate.measured is None else f"{gate.measured:.4g}{gate.unit}"
        holds = "" if gate.measured is None else "yes" if gate.holds else "no"
        rows.append(f"| {gate.about} | {gate.needs} | {measured} | {holds} |")
    return "\n".join(rows) + "\n"


def _save(pictures: Tensor, columns: int, path: Path) -> None:
    """Pictures n 3 h w in [0, 1] as one PNG; one that differs by rounding alone stays, as its labels do."""
    arrays = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(arrays[start : start + columns], 1) for start in range(0, len(arrays), columns)]
    sheet = np.concatenate(rows)
    if path.exists():
        former = np.asarray(Image.open(path).convert("RGB"))
        if former.shape == sheet.shape and np.abs(former.astype(int) - sheet).max() <= ROUNDING:
            return
    Image.fromarray(sheet).save(path, optimize=True)
