"""The stages of a clip: tune, invert, edit. Each reads params.yaml's settings and leaves its results in results/."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from tqdm import tqdm
from transformers.utils import logging

from measures.clips import ClipEntry
from studies.settings import Params, settings_of
from tav.checkpoint import load_tuned, read_safetensors, save_tuned
from tav.clip import read_clip, write_frames
from tav.errors import InputError
from tav.pipeline import load_pipeline
from tav.tune import tune

RESULTS = Path("results")
DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def tune_clip(params: Params, name: str) -> None:
    """Reads a clip, encodes it once and tunes on it; resumes a run of the same inputs that was interrupted."""
    if params.tune.tuned == "everything":
        raise InputError("tune.tuned is everything, which no tuned.safetensors holds: use it in a variant of ablation")
    clip, pipe = read_source(params, name), load_model(params)
    posterior = pipe.encode_posterior(clip)
    state = Path(".state/tune") / f"{name}-{fingerprint(params, name)}.safetensors"
    losses = tune_with_progress(pipe, posterior, params, name, state)
    with replacing(RESULTS / "tune" / name) as folder:
        save_tuned(pipe, folder / "tuned.safetensors")
        _save(folder / "posterior.safetensors", parameters=posterior.parameters)
        write_frames(folder / "source", (clip + 1) / 2)
        with (folder / "losses.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("step", "loss"), *losses])
    state.unlink(missing_ok=True)


def invert_clip(params: Params, name: str) -> None:
    """Inverts the tuned clip's latents to noise, and samples it back: what is lost here, no edit keeps."""
    entry, pipe = find_clip(params, name), load_model(params)
    load_tuned(pipe, result("tune", name, "tuned"))
    latents = pipe.scale(read_posterior(pipe, name).mode())
    label(pipe, f"invert {name}")
    noise = pipe.invert(latents, num_inference_steps=params.invert.steps)
    label(pipe, f"reconstruct {name}")
    frames = pipe(entry.caption, noise, params.invert.steps, guidance_scale=1.0, output_type="pt").frames[0]
    with replacing(RESULTS / "invert" / name) as folder:
        _save(folder / "inverted.safetensors", noise=noise, latents=latents)
        write_frames(folder / "reconstruction", frames)


def edit_clip(params: Params, name: str) -> None:
    """Samples every edit of a clip from its inverted noise."""
    pipe = load_model(params)
    load_tuned(pipe, result("tune", name, "tuned"))
    noise = read_safetensors(result("invert", name, "inverted"))["noise"]
    with replacing(RESULTS / "edit" / name) as folder:
        sample_edits(pipe, params, name, noise, folder)


def tune_with_progress(pipe, posterior, params: Params, name: str, state: Path | None) -> list[tuple[int, float]]:
    """Tunes `pipe` on a clip's posterior with a progress bar; returns (step, loss)."""
    steps = tune(pipe, posterior, find_clip(params, name).caption, state=state, **params.tune.model_dump())
    losses = []
    with tqdm(steps, f"tune {name}", params.tune.steps, disable=_quiet()) as bar:
        for step, loss in bar:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            losses.append((step, loss))
    return losses


def sample_edits(pipe, params: Params, name: str, noise: torch.Tensor, folder: Path) -> None:
    """Samples every edit of a clip into `folder`/<edit>, from its inverted noise or what `start_noise` makes of it."""
    task = {"latents": start_noise(params, noise), "num_inference_steps": params.edit.steps, **guidance(params)}
    for edit, prompt in find_clip(params, name).edits.items():
        label(pipe, f"edit {name} {edit}")
        write_frames(folder / edit, pipe(prompt, **task, output_type="pt").frames[0])


def start_noise(params: Params, inverted: torch.Tensor) -> torch.Tensor:
    """What sampling starts from: a clip's inverted noise f c h w or, with edit.noise random, the seed's noise."""
    return random_noise(params, inverted) if params.edit.noise == "random" else inverted


def random_noise(params: Params, like: torch.Tensor) -> torch.Tensor:
    """Noise of the same shape, drawn on the CPU from tune.seed."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(params.tune.seed))


def guidance(params: Params) -> dict:
    """The settings of `edit` that guide sampling, as the pipeline takes them."""
    return {"guidance_scale": params.edit.guidance_scale, "negative_prompt": params.edit.negative_prompt}


def read_source(params: Params, name: str) -> torch.Tensor:
    """The frames of a clip of params.yaml, f 3 h w in [-1, 1]."""
    source = find_clip(params, name).source
    return read_clip(
        source.path, params.clip.num_frames, params.clip.size, source.start, source.stride, params.clip.fit
    )


def find_clip(params: Params, name: str) -> ClipEntry:
    """A clip of params.yaml; InputError if it has none of that name."""
    if name not in params.clips:
        raise InputError(f"params.yaml has no clip {name}: it has {', '.join(params.clips)}")
    return params.clips[name]


def load_model(params: Params):
    """The inflated model on its device, set up to give the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    logging.disable_progress_bar()  # what is worth a line, such as a caption that is cut, tav says itself
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    device = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(params.device, params.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but no GPU can be used: set device to auto or cpu in params.yaml")
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings = params.inflate.model_dump() | {"seed": params.tune.seed, "lora": params.lora}
    settings |= {"frames_at_once": params.memory.attention_frames, "dtype": DTYPES[params.memory.dtype]}
    pipe = load_pipeline(params.model, params.clip.num_frames, **settings)
    pipe.vae_frames = params.memory.vae_frames
    (pipe.unet if params.memory.offload else pipe).to(device)
    pipe.unet.to(memory_format=torch.channels_last)  # a tuning step is 8 % faster with it (benchmarks/results)
    return pipe


def result(verb: str, name: str, part: str) -> Path:
    """The file of an earlier stage's result; InputError if that stage has not run."""
    path = RESULTS / verb / name / f"{part}.safetensors"
    if not path.exists():
        raise InputError(f"{path} does not exist: run `python -m studies {verb} {name}` first")
    return path


def read_posterior(pipe, name: str) -> DiagonalGaussianDistribution:
    """The posterior of a clip that `tune_clip` encoded, on the model's device."""
    parameters = read_safetensors(result("tune", name, "posterior"))["parameters"]
    return DiagonalGaussianDistribution(parameters.to(pipe.device))


def _save(path: Path, **tensors) -> None:
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its place when it is complete: no result is ever half written."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def fingerprint(params: Params, name: str) -> str:
    """Names the inputs of a tuning: what is resumed must be the same run."""
    digest = hashlib.sha256(json.dumps(settings_of(params, "tune", name)).encode())
    for path in _files(Path(params.clips[name].source.path)):
        digest.update(path.read_bytes())
    for path in _files(Path(params.model)):  # gigabytes: their names, sizes and times have to do
        digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder in a fixed order; a Hub id has none."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _quiet() -> bool | None:
    return bool(os.environ.get("TQDM_DISABLE")) or None  # None: tqdm shows a bar on a terminal only


def label(pipe, text: str) -> None:
    """What the progress bars of `pipe` say from now on."""
    pipe.set_progress_bar_config(desc=text, disable=_quiet())
