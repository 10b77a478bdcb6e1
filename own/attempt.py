"""One's own clip in one command: read, tuned, inverted, edited by every prompt, and shown beside its edits."""

import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import psutil
import torch
from diffusers import UNet2DConditionModel
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from ruamel.yaml import YAML
from torch import Tensor

from benchmarks import full_size
from benchmarks.cost import shape
from benchmarks.memory import line
from benchmarks.tables import RESULTS, read
from footage.lists import clip_name, count_frames, frame_rate
from measures.clips import ClipEntry
from own.background import read_mask
from own.bundle import save_bundle
from own.method import OwnMethod
from publish import figures
from studies.ahead import make_ahead
from studies.machine import chosen_device
from studies.presets import compose
from studies.settings import Params, explain
from studies.stages import edits_of
from studies.store import Piece
from tav import hub
from tav.clip import read_frames, write_clip
from tav.errors import InputError

SHOWN = 8  # frames of a row of the contact sheet, at most
RATE = 8  # frames a second that are taken of a video, about: those that a clip is shown at
LARGE = 320  # channels of the first level of Stable Diffusion: what memory was measured of
LARGE_PRESET = "demo"  # of params/: settings for such a model
RESERVE = 1.0  # GB that stay free
MODES = {  # as benchmarks/memory.py names them, the fastest first: what they change in params.yaml
    "lean": full_size.MODES["lean"],
    "bf16-lean": full_size.MODES["bf16-lean"],
    "low-memory": full_size.MODES["low-memory"],
}


def edit_own_clip(params: Params, options: Namespace) -> None:
    """Tunes on a clip and samples its edits, with everything that params.yaml says of model and method.

    options: clip, a video, a GIF or a folder of frames; caption, "" to have BLIP-2 write it; edit, a list of prompts;
    model, frames, stride, size, steps and out, None for what params.yaml, the clip and the memory at hand give;
    until_learnt, which is `tune.stop: measure`; window and overlap, see `OwnMethod`; preview, steps between looks at
    the first edit, or None; keep, words of the caption or a mask's file, what alone is changed, or None; save, a folder
    for the tuned weights and the noise, see `own.bundle`, or None.
    Writes source.mp4, an mp4 of every edit, clips.webp, sheet.jpg and index.html into the folder `out`. Pieces are
    those of the store: a second call with another prompt tunes nothing.
    """
    if options.save and options.window:
        raise InputError("--save keeps a model that takes its clip at once: leave out --window or --save")
    if options.save and params.tune.tuned == "everything":
        raise InputError("--save keeps the weights that the paper tunes: leave it out, or set tune.tuned to paper")
    if options.window and params.tune.frames == "shuffled":
        raise InputError("--window takes frames in turn: leave it out, or set tune.frames to in-order")
    name = clip_name(options.clip.stem if options.clip.is_file() else options.clip.name)
    caption = options.caption or _caption(options.clip, options.captioner)
    if options.keep:
        _check_keep(options.keep, caption)
    params, scaled = at_scale(params, options.model or params.model)
    settings, said = chosen(params, options)
    edits = {}
    for prompt in dict.fromkeys(options.edit):
        edits[clip_name(prompt, edits)] = prompt
    entry = {"source": settings.pop("source"), "caption": caption, "edits": edits}
    try:
        params = Params.model_validate(params.model_dump(mode="json") | settings | {"clips": {name: entry}})
    except ValidationError as error:
        raise InputError(explain(error)) from None
    for text in scaled + said:
        print(text)
    make_ahead(params, edits_of, [(params, name)])  # of one clip nothing: it sets the number of threads
    entry, folder = params.clips[name], options.out or Path("results", "own", name)

    def show_preview(step: int, frames: Tensor) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"preview-{step:04}.webp").write_bytes(figures.animate({"": frames}, params.clip.fps))

    windows = {"window": options.window, "overlap": options.overlap} if options.window else {}
    looks = {"look_every": options.preview, "look": show_preview}
    method = OwnMethod(params, **windows, **looks)
    edit = _keeping(method, params, entry, options.keep) if options.keep else method.edit
    clips = {"source": read_frames(method.source(entry).folder)}
    clips |= {name: read_frames(edit(entry, prompt).folder) for name, prompt in entry.edits.items()}
    if options.save:
        noise = method.start_noise(entry, method.start(entry, "inverted"))
        kept = {"caption": caption, "tune": params.tune.model_dump(), "source": entry.source.model_dump()}
        kept["inflate"] = params.inflate.model_dump() | {"seed": params.tune.seed, "lora": params.lora}
        pipe = method.pipe_on(entry, "save", params.edit.solver)
        save_bundle(options.save, pipe, noise, params.model, **kept)
    page = write_page(folder, name, caption, entry.edits, clips, params.clip.fps)
    print(f"open {page}; another --edit tunes nothing")


def _keeping(method: OwnMethod, params: Params, entry: ClipEntry, keep: str) -> Callable[[ClipEntry, str], Piece]:
    """`method.edit` that changes nothing but what `keep`, a mask's file or words of the caption, says."""
    if _stands_in(keep, entry.caption):
        return partial(method.edit_inside, words=keep)
    (frames, *size), source = shape(params), entry.source
    mask = read_mask(Path(keep), frames, tuple(size), params.clip.fit, source.start, source.stride)
    return partial(method.edit_inside, mask=mask)


def _check_keep(keep: str, caption: str) -> None:
    """InputError for what is neither words of the caption nor a file: before a clip is tuned for it."""
    if not _stands_in(keep, caption) and not Path(keep).exists():
        raise InputError(
            f"{keep!r} is no file, and the caption {caption!r} does not have it: give words that stand in it, or a mask"
        )


def _stands_in(words: str, caption: str) -> bool:
    return words.lower() in caption.lower()


def at_scale(params: Params, model: str) -> tuple[Params, list[str]]:
    """These settings, or the demo's where `model` is as large as Stable Diffusion and that of params.yaml is not, and a
    line that says so: a small model's rate and size teach a large one nothing."""
    if model == params.model or not _is_large(model) or _is_large(params.model):
        return params, []
    demo = Params.model_validate(YAML(typ="safe").load(compose(LARGE_PRESET)))
    said = f"settings are those of params/{LARGE_PRESET}.yaml: params.yaml has those of the smaller {params.model}"
    return demo.model_copy(update={"device": params.device, "lora": params.lora}), [said]


@cache
def _is_large(model: str) -> bool:
    """Whether a model has the size of Stable Diffusion; not, where nothing can be read of it."""
    if not Path(model).is_dir():
        hub.unreachable()
    with warnings.catch_warnings(action="ignore"):
        try:
            return UNet2DConditionModel.load_config(model, subfolder="unet")["block_out_channels"][0] >= LARGE
        except (OSError, KeyError):  # loading the model says what is wrong with it
            return False


def chosen(params: Params, options: Namespace) -> tuple[dict, list[str]]:
    """The settings for a clip, sections of params.yaml and its source, and a line on each choice that was made."""
    count, rate = count_frames(options.clip), frame_rate(options.clip)
    settings = params.model_dump(mode="json")
    model = options.model or params.model
    frames, size = options.frames or params.clip.num_frames, options.size or settings["clip"]["size"]
    said = []
    if frames > count:
        said.append(f"{options.clip} has {count} frames: all of them are taken, not {frames}")
        frames = count
    at_once = min(frames, options.window or frames)
    mode, fitting = fit_memory(params, model, at_once, size)
    if fitting < at_once and options.window:
        raise InputError(f"memory suffices for windows of {fitting} frames: give --window {fitting}, or lower --size")
    if fitting < at_once:
        said.append(f"memory suffices for {fitting} frames of these {frames}: give --size for more of a smaller one")
        frames = fitting
    if mode not in ("", "lean"):
        said.append(f"mode {mode}: the fastest that fits into the memory at hand")
    longest = max(1, (count - 1) // max(1, frames - 1))
    stride = options.stride or min(longest, max(1, round(rate / RATE)) if rate else longest)
    said.append(f"{frames} frames, every {stride}. of {count}, at {size} pixels; model {model}")
    for section, values in MODES.get(mode, {}).items():
        settings[section] |= values
    settings["clip"] |= {"num_frames": frames, "size": size}
    settings["tune"] |= {"steps": options.steps} if options.steps is not None else {}
    settings["tune"] |= {"stop": "measure"} if options.until_learnt else {}
    changed = {section: settings[section] for section in ("clip", "tune", "memory")} | {"model": model}
    return changed | {"source": {"path": str(options.clip), "start": 0, "stride": stride}}, said


def fit_memory(params: Params, model: str, frames: int, size: int | list[int]) -> tuple[str, int]:
    """The fastest of `MODES` in which a clip fits into the memory at hand, and how many of its frames do in it.

    The mode is "", and all frames fit, of a model smaller than Stable Diffusion or where nothing was measured. Peaks
    are those of benchmarks/results, by the line of benchmarks/memory.py.
    """
    rows = read("memory", RESULTS)
    if rows.empty or not _is_large(model):
        return "", frames
    cuda = chosen_device(params) == "cuda"
    space = (torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available) / 1e9 - RESERVE
    pixels = size**2 if isinstance(size, int) else size[0] * size[1]
    modes = [mode for mode in MODES if mode != "lean" or params.memory.dtype == "float32"]
    lines = {mode: line(rows[(rows["mode"] == mode) & (rows["step"] == "tuning")]) for mode in modes}
    known = {mode: fit for mode, fit in lines.items() if fit}
    for count in [frames, *(count for count in (24, 16, 12, 8, 4, 2) if count < frames)]:
        for mode, (held, per_pixel) in known.items():
            if held + per_pixel * count * pixels <= space:
                return mode, count
    raise InputError(f"{space:.0f} GB of memory suffice for no clip of {size} pixels with {model}: lower --size")


def write_page(folder: Path, name: str, caption: str, edits: dict, clips: dict, fps: float) -> Path:
    """Writes clips {source and edits: f 3 h w in [0, 1]} as files to look at, and a page that plays them in step."""
    folder.mkdir(parents=True, exist_ok=True)
    for what, frames in clips.items():
        write_clip(folder / f"{what}.mp4", frames, fps)
    (folder / "clips.webp").write_bytes(figures.animate_clips([clips], fps))
    indices = figures.pick_frames(len(clips["source"]), min(SHOWN, len(clips["source"])))
    labels = {"source": caption} | edits
    figures.write(
        figures.strip({labels[what]: frames for what, frames in clips.items()}, indices), folder / "sheet.jpg"
    )
    template = Environment(loader=PackageLoader("own"), autoescape=True, undefined=StrictUndefined)
    page = folder / "index.html"
    page.write_text(template.get_template("clips.html").render(name=name, labels=labels), encoding="utf-8")
    return page


def _caption(clip: Path, model: str | None) -> str:
    from footage.caption import BLIP2, Captioner  # seconds that a caption which is given does not need

    caption = Captioner(model or BLIP2).caption(clip, count_frames(clip))
    print(f"caption by BLIP-2: {caption}")
    return caption
