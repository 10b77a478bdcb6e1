"""The method's pieces: a clip's frames, its posterior, the tuned weights, the inverted noise, and frames of edits."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from measures.clips import ClipEntry
from studies.digests import digest_of_model
from studies.models import (
    label,
    load_model,
    load_weights,
    save_tensors,
    save_weights,
    scheduler,
    tune_with_progress,
)
from studies.settings import Params
from studies.sources import source_frames
from studies.stopping import learnt
from studies.store import Piece, Store
from tav.checkpoint import read_safetensors
from tav.clip import read_frames, write_frames
from tav.pipeline import TuneAVideoPipeline

LOADING = load_model, load_weights, scheduler  # the code that whatever a tuned model makes depends on
SAME_RESULT = {"save_every", "recompute"}  # of `tune`: they change its cost alone


class Method:
    """Tune-A-Video as params.yaml sets it: every piece of a clip, taken from the store or made.

    A model is loaded when the first piece is missing, and kept for the next ones.
    """

    def __init__(self, params: Params, store: Store | None = None):
        self.params, self.store = params, store or Store()
        self._pipe: TuneAVideoPipeline | None = None
        self._weights = ""  # the digest of the tuned weights that it has now
        self._own_code: tuple[str, ...] = ()  # what a method that changes this one adds to the code of its pieces

    def source(self, entry: ClipEntry) -> Piece:
        """See `source_frames`: a clip is decoded once."""
        return source_frames(self.params, entry, self.store)

    def posterior(self, entry: ClipEntry) -> Piece:
        """The VAE's posterior of a clip's pictures: posterior.safetensors with `parameters`, f 2c h w."""
        source = self.source(entry)
        needs = {"source": source.digest, "model": needs_of_image_model(self.params)}

        def make(folder: Path) -> None:
            if self._pipe is None:
                self._load()
            make_posterior(folder, self._pipe, read_frames(source.folder) * 2 - 1)

        return self.store.take("posterior", needs, (make_posterior, load_model), make)

    def weights(self, entry: ClipEntry) -> Piece:
        """The weights tuned on a clip, tuned.safetensors (of the whole UNet if all of it is tuned), and losses.csv."""
        posterior = self.posterior(entry)
        needs = self._needs_of_model() | {"posterior": posterior.digest, "caption": entry.caption}
        needs["tune"] = self.params.tune.model_dump(exclude=SAME_RESULT)
        code = (make_weights, load_model, *self._own_code)
        if self.params.tune.stop == "measure":
            needs["watched"] = {"clip": digest_of_model(self.params.score.clip_model), "prompt": entry.first_edit}
            needs["watched"] |= {"guidance_scale": self.params.edit.guidance_scale}
            code += (learnt,)

        def make(folder: Path) -> None:
            if self._weights or self._pipe is None:  # else it is the image model's weights still
                self._load()
            self._weights = "unknown"
            self._make_weights(folder, read_posterior(posterior.folder, self._pipe), entry)

        return self.store.take("weights", needs, code, make)

    def noise(self, entry: ClipEntry) -> Piece:
        """The noise f c h w that a clip inverts to under its tuned weights: inverted.safetensors with `noise`."""
        posterior = self.posterior(entry)
        needs = self.needs(entry) | {"posterior": posterior.digest, "invert": self.params.invert.model_dump()}

        def make(folder: Path) -> None:
            pipe = self.pipe_on(entry, "invert", self.params.invert.solver)
            make_noise(folder, pipe, posterior.folder, self.params)

        return self.store.take("noise", needs, (make_noise, *LOADING, *self._own_code), make)

    def reconstruction(self, entry: ClipEntry) -> Piece:
        """Frames sampled back from the inverted noise, by the caption and unguided: what is lost here stays lost."""
        settings = {"num_inference_steps": self.params.invert.steps, "guidance_scale": 1.0}
        start = {"noise": self.noise(entry).digest}
        return self._sampled(entry, entry.caption, start, self.params.invert.solver, settings)

    def edit(self, entry: ClipEntry, prompt: str, noise: str = "") -> Piece:
        """Frames of a clip's edit. noise: "inverted" or "random"; by default what edit.noise says."""
        settings = {"num_inference_steps": self.params.edit.steps, **guidance(self.params)}
        settings["guidance_interval"] = self.params.edit.guidance_interval
        return self._sampled(entry, prompt, self.start(entry, noise), self.params.edit.solver, settings)

    def start(self, entry: ClipEntry, noise: str = "") -> dict:
        """What names the noise that sampling starts from, among the needs of a piece; `noise` as in `edit`."""
        if (noise or self.params.edit.noise) == "random":
            return {"seed": self.params.tune.seed}
        return {"noise": self.noise(entry).digest}

    def start_noise(self, entry: ClipEntry, start: Mapping) -> Tensor:
        """The noise f c h w that a `start` names; random noise is drawn on the CPU from its seed."""
        if "noise" in start:
            return read_safetensors(self.noise(entry).folder / "inverted.safetensors")["noise"]
        parameters = read_safetensors(self.posterior(entry).folder / "posterior.safetensors")["parameters"]
        shape = parameters.chunk(2, dim=1)[0].shape
        return torch.randn(shape, generator=torch.Generator().manual_seed(start["seed"]))

    def pipe_on(self, entry: ClipEntry, task: str, solver: str) -> TuneAVideoPipeline:
        """The pipeline with the weights tuned on a clip and a solver; its progress bars say what it is about to do."""
        weights = self.weights(entry)
        if self._weights != weights.digest:
            whole = self.params.tune.tuned == "everything"
            if whole or self._pipe is None:
                self._load()
            load_weights(self._pipe, weights.folder / "tuned.safetensors", whole)
            self._weights = weights.digest
        self._pipe.scheduler = scheduler(self._schedule, solver)
        label(self._pipe, task)
        return self._pipe

    def _make_weights(self, folder: Path, posterior: DiagonalGaussianDistribution, entry: ClipEntry) -> None:
        """Tunes the model that is loaded."""
        make_weights(folder, self._pipe, posterior, entry.caption, self.params, self._ended(posterior, entry))

    def _ended(self, posterior: DiagonalGaussianDistribution, entry: ClipEntry) -> Callable[[], bool] | None:
        """What ends the tuning of the model that is loaded, if that is not the number of steps."""
        if self.params.tune.stop == "steps":
            return None
        return learnt(self._pipe, posterior, entry.caption, entry.first_edit, self.params)

    def _load(self) -> None:
        """Loads the model anew, with the weights of the image model."""
        self._pipe = None  # so that two models are never in memory
        self._pipe = load_model(self.params)
        self._weights, self._schedule = "", self._pipe.scheduler.config

    def needs(self, entry: ClipEntry) -> dict:
        """What everything depends on that is made with the weights tuned on a clip."""
        return self._needs_of_model() | {"weights": self.weights(entry).digest}

    def _sampled(self, entry: ClipEntry, prompt: str, start: dict, solver: str, settings: dict) -> Piece:
        needs = self.needs(entry) | {"prompt": prompt, "start": start, "solver": solver, "settings": settings}

        def make(folder: Path) -> None:
            noise = self.start_noise(entry, start)
            make_frames(folder, self.pipe_on(entry, f"edit: {prompt}", solver), prompt, noise, settings)

        return self.store.take("frames", needs, (make_frames, *LOADING, *self._own_code), make)

    def _needs_of_model(self) -> dict:
        """What the inflated model depends on; the seed is that of T-Attn's first weights."""
        inflated = {"inflate": self.params.inflate.model_dump(), "num_frames": self.params.clip.num_frames}
        return {"model": needs_of_image_model(self.params), **inflated, "seed": self.params.tune.seed}


def make_posterior(folder: Path, pipe: TuneAVideoPipeline, clip: Tensor) -> None:
    """Encodes a clip f 3 h w in [-1, 1]."""
    save_tensors(folder / "posterior.safetensors", parameters=pipe.encode_posterior(clip).parameters)


def make_weights(
    folder: Path,
    pipe: TuneAVideoPipeline,
    posterior: DiagonalGaussianDistribution,
    caption: str,
    params: Params,
    ended: Callable[[], bool] | None = None,
    resumes: bool = True,
    look: Callable[[int], None] | None = None,
) -> None:
    """Tunes `pipe` on a clip's posterior; goes on with what an interrupted run left in `folder`.

    ended, look: see `tune_with_progress`. resumes: whether a state is kept; none is with `ended`, which has read more.
    """
    state = folder / "state.safetensors"
    kept = state if resumes and not ended else None
    if params.tune.frames == "shuffled":
        order = torch.randperm(len(posterior.parameters), generator=torch.Generator().manual_seed(params.tune.seed))
        posterior = DiagonalGaussianDistribution(posterior.parameters[order])
    losses = tune_with_progress(pipe, posterior, caption, params.tune, kept, ended, look)
    save_weights(pipe, folder / "tuned.safetensors", params.tune.tuned == "everything")
    with (folder / "losses.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("step", "loss"), *losses])
    state.unlink(missing_ok=True)


def make_noise(folder: Path, pipe: TuneAVideoPipeline, posterior: Path, params: Params) -> None:
    """Inverts the mode of a clip's posterior; what is drawn for it is drawn on the CPU, from the seed of tuning."""
    latents = pipe.scale(read_posterior(posterior, pipe).mode())
    steps = {"num_inference_steps": params.invert.steps, "diffused_steps": params.invert.diffused_steps}
    steps |= {"stock": params.invert.stock}
    generator = torch.Generator().manual_seed(params.tune.seed)
    save_tensors(folder / "inverted.safetensors", noise=pipe.invert(latents, generator=generator, **steps))


def make_frames(folder: Path, pipe: TuneAVideoPipeline, prompt: str, noise: Tensor, settings: dict) -> None:
    """Samples a prompt's clip from noise f c h w."""
    write_frames(folder, pipe(prompt, noise, output_type="pt", **settings).frames[0])


def read_posterior(folder: Path, pipe: TuneAVideoPipeline) -> DiagonalGaussianDistribution:
    """The posterior in a piece, on the model's device."""
    parameters = read_safetensors(folder / "posterior.safetensors")["parameters"]
    return DiagonalGaussianDistribution(parameters.to(pipe.device))


def guidance(params: Params) -> dict:
    """The settings of `edit` that guide sampling, as the pipeline takes them."""
    return {"guidance_scale": params.edit.guidance_scale, "negative_prompt": params.edit.negative_prompt}


def needs_of_image_model(params: Params) -> dict:
    """What the image model depends on: its weights' digest or revision, what is merged into them, and their dtype."""
    return {"of": digest_of_model(params.model), "lora": digest_of_model(params.lora), "dtype": params.memory.dtype}
