"""The pipeline's stages: `python -m tav tune CLIP` and the like, run in the folder that holds params.yaml.

Exit codes: 0 done, 2 bad input, 3 a loss that is not finite, 4 out of memory; each with one line on stderr. 1 is a bug.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tav.config import ClipEntry, Params, load_params
from tav.errors import InputError, NumericalError

RESULTS = Path("results")

# The settings that each stage of dvc.yaml reads, which are its `params`; {} is a clip's name. No device: where a stage
# runs changes its results by rounding only.
USES = {
    "tune": "model inflate clip.num_frames clip.size clip.fit tune clips.{}.source clips.{}.caption",
    "invert": "model inflate clip.num_frames invert clips.{}.caption",
    "edit": "model inflate clip.num_frames edit clips.{}.edits",
    "01_method": "model",
    "02_results": "model clip tune invert edit score clips",
    "report": "model device inflate clip tune invert edit score clips",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        options = _parser().parse_args(arguments)
        _run(options.verb, getattr(options, "name", ""))
    except InputError as error:
        return _fail(error, 2)
    except NumericalError as error:
        return _fail(error, 3)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail("out of memory: lower clip.size or clip.num_frames, or set tune.gradient_checkpointing to true", 4)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; `python -m tav --help` lists what there is")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m tav", description="The stages of the pipeline: `dvc repro` runs what is stale.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, what, help) in VERBS.items():
        sub = verbs.add_parser(verb, help=help, description=help)
        if what:
            sub.add_argument("name", metavar=what)
    return parser


def _run(verb: str, name: str) -> None:
    params = load_params()
    before = _used(params, verb, name)
    VERBS[verb][0](params, name)
    # DVC hashes the settings after the command: without this check it would file results under settings they are not of
    after = _used(load_params(), verb, name)
    if changed := [key for key in before if before[key] != after.get(key)]:
        raise InputError(f"params.yaml changed while {verb} {name} was running ({', '.join(changed)}): run it again")


def _used(params: Params, verb: str, name: str) -> dict:
    """The settings that a stage reads, by their keys; a clip that is not there has none, a new notebook has all."""
    settings = params.model_dump(mode="json")
    keys = USES.get(name if verb == "notebook" else verb, " ".join(settings)).format(name, name)
    return {key: _look_up(settings, key) for key in keys.split()}


def _look_up(settings: dict, key: str):
    for part in key.split("."):
        settings = settings.get(part, {})
    return settings


def tune_clip(params: Params, name: str) -> None:
    """Reads a clip, encodes it once and tunes on it; resumes a run of the same inputs that was interrupted."""
    from tav import read_clip, save_tuned, tune
    from tav.clip import write_frames

    entry = _entry(params, name)
    pipe = _load(params)
    span = {"start": entry.source.start, "stride": entry.source.stride}
    clip = read_clip(entry.source.path, params.clip.num_frames, params.clip.size, fit=params.clip.fit, **span)
    posterior = pipe.encode_posterior(clip)
    state = Path(".state/tune") / f"{name}-{_fingerprint(params, name)}.safetensors"
    steps = tune(pipe, posterior, entry.caption, state=state, **params.tune.model_dump())
    losses = list(_progress(steps, params.tune.steps, f"tune {name}"))
    with _replacing(RESULTS / "tune" / name) as folder:
        save_tuned(pipe, folder / "tuned.safetensors")
        _save(folder / "posterior.safetensors", parameters=posterior.parameters)
        write_frames(folder / "source", (clip + 1) / 2)
        with (folder / "losses.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("step", "loss"), *losses])
    state.unlink(missing_ok=True)


def invert_clip(params: Params, name: str) -> None:
    """Inverts the tuned clip's latents to noise, and samples it back: what is lost here, no edit keeps."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from tav.clip import write_frames

    entry, pipe = _entry(params, name), _load_tuned(params, name)
    posterior = DiagonalGaussianDistribution(_read("tune", name, "posterior")["parameters"].to(pipe.device))
    latents = pipe.scale(posterior.mode())
    _label(pipe, f"invert {name}")
    noise = pipe.invert(latents, num_inference_steps=params.invert.steps)
    _label(pipe, f"reconstruct {name}")
    frames = pipe(entry.caption, noise, params.invert.steps, guidance_scale=1.0, output_type="pt").frames[0]
    with _replacing(RESULTS / "invert" / name) as folder:
        _save(folder / "inverted.safetensors", noise=noise, latents=latents)
        write_frames(folder / "reconstruction", frames)


def edit_clip(params: Params, name: str) -> None:
    """Samples every edit of a clip from its inverted noise."""
    from tav.clip import write_frames

    entry, pipe = _entry(params, name), _load_tuned(params, name)
    noise = _read("invert", name, "inverted")["noise"]
    with _replacing(RESULTS / "edit" / name) as folder:
        for edit, prompt in entry.edits.items():
            _label(pipe, f"edit {name} {edit}")
            settings = {"guidance_scale": params.edit.guidance_scale, "negative_prompt": params.edit.negative_prompt}
            write_frames(folder / edit, pipe(prompt, noise, params.edit.steps, output_type="pt", **settings).frames[0])


def execute_notebook(params: Params, name: str) -> None:
    """Executes notebooks/<name>.py into results/notebooks/<name>."""
    from tav.notebook import run_notebook

    run_notebook(Path("notebooks") / f"{name}.py", RESULTS / "notebooks" / name)


def write_report(params: Params, name: str) -> None:
    """Writes reports/ from what the other stages made."""
    from tav.report import write_report

    write_report(params)


def write_readme(params: Params, name: str) -> None:
    """Writes what reports/ says into README: no stage's work, as DVC takes away what a stage writes before it runs."""
    from tav.report import write_readme

    write_readme()


VERBS = {  # verb -> what runs, what its argument is, what --help says
    "tune": (tune_clip, "CLIP", "tune the inflated model on one clip of params.yaml"),
    "invert": (invert_clip, "CLIP", "invert a tuned clip to noise, and sample it back as a check"),
    "edit": (edit_clip, "CLIP", "sample a tuned clip's edits from its noise"),
    "notebook": (execute_notebook, "NAME", "execute one of notebooks/ (its name without .py)"),
    "report": (write_report, "", "write reports/ from the results"),
    "readme": (write_readme, "", "write the tables of README.md from reports/"),
}


def _entry(params: Params, name: str) -> ClipEntry:
    if name not in params.clips:
        raise InputError(f"params.yaml has no clip {name}: it has {', '.join(params.clips)}")
    return params.clips[name]


def _load(params: Params):
    """The inflated model on its device, set up to give the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    import torch
    from transformers.utils import logging

    from tav import load_pipeline

    logging.disable_progress_bar()  # what is worth a line, such as a caption that is cut, tav says itself
    logging.set_verbosity_error()
    device = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(params.device, params.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but no GPU can be used: set device to auto or cpu in params.yaml")
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings = params.inflate.model_dump() | {"seed": params.tune.seed}
    return load_pipeline(params.model, params.clip.num_frames, **settings).to(device)


def _load_tuned(params: Params, name: str):
    from tav import load_tuned

    pipe = _load(params)
    load_tuned(pipe, _result("tune", name, "tuned"))
    return pipe


def _result(verb: str, name: str, part: str) -> Path:
    path = RESULTS / verb / name / f"{part}.safetensors"
    if not path.exists():
        raise InputError(f"{path} does not exist: run `python -m tav {verb} {name}` first")
    return path


def _read(verb: str, name: str, part: str) -> dict:
    from tav.checkpoint import read_safetensors

    return read_safetensors(_result(verb, name, part))


def _save(path: Path, **tensors) -> None:
    from safetensors.torch import save_file

    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its place when it is complete: no result is ever half written."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _fingerprint(params: Params, name: str) -> str:
    """Names the inputs of a tuning: what is resumed must be the same run."""
    digest = hashlib.sha256(json.dumps(_used(params, "tune", name)).encode())
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


def _progress(steps: Iterator[tuple[int, float]], total: int, label: str) -> Iterator[tuple[int, float]]:
    from tqdm import tqdm

    with tqdm(steps, label, total, disable=_quiet()) as bar:
        for step, loss in bar:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            yield step, loss


def _label(pipe, label: str) -> None:
    pipe.set_progress_bar_config(desc=label, disable=_quiet())


def _is_out_of_memory(error: Exception) -> bool:
    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def _fail(message: object, code: int) -> int:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
