"""The method on one's own clip, with what the paper does not have: windows, stopping early, kept backgrounds."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from tqdm import tqdm

from measures.clips import ClipEntry
from measures.score import ClipScorer, text_alignment
from own.background import edit_inside, invert_path, mask_of_words, of_latents
from own.stopping import Learnt, held_error, preview, until
from own.windows import WindowedPosterior, over_windows, windows
from studies.digests import digest_of_model
from studies.method import LOADING, SAME_RESULT, Method, guidance, make_posterior, make_weights, read_posterior
from studies.models import load_model, quiet, save_weights
from studies.settings import Params
from studies.store import Piece, Store
from tav.clip import read_frames, to_pictures, write_frames
from tav.pipeline import TuneAVideoPipeline
from tav.tune import tune

OWN = ("own.method.OwnMethod",)


class OwnMethod(Method):
    """`Method` over windows of a clip, tuned until the clip is learnt, with previews; each only if it is asked for.

    window: frames of the model where the clip has more; overlap: how many of them two windows share. until_learnt: see
    `own.stopping`; tune.steps is then the most. look: called with the step and the first edit's frames, f 3 h w in
    [0, 1], every `look_every` steps of tuning; it changes no result. Tuning over windows or until learnt begins anew
    after an interruption.
    """

    def __init__(
        self,
        params: Params,
        store: Store | None = None,
        window: int | None = None,
        overlap: int = 0,
        until_learnt: bool = False,
        look_every: int | None = None,
        look: Callable[[int, Tensor], None] | None = None,
    ):
        super().__init__(params, store)
        self.window, self.overlap, self.until_learnt = window, overlap, until_learnt
        self.look_every, self.look = look_every, look
        self._windows = windows(params.clip.num_frames, window, overlap) if window else []

    def posterior(self, entry: ClipEntry) -> Piece:
        if not self.window:
            return super().posterior(entry)
        source = self.source(entry)
        needs = {"source": source.digest, "model": self._needs_of_model()}

        def make(folder: Path) -> None:
            if self._pipe is None:
                self._load()
            make_posterior(folder, self._whole(self._pipe), read_frames(source.folder) * 2 - 1)

        return self.store.take("posterior", needs, (make_posterior, load_model, *OWN), make)

    def weights(self, entry: ClipEntry) -> Piece:
        """The weights tuned on a clip; those of the pipeline where nothing but previews is asked for."""
        posterior = self.posterior(entry)
        needs = self._needs_of_model() | {"posterior": posterior.digest, "caption": entry.caption}
        needs["tune"] = self.params.tune.model_dump(exclude=SAME_RESULT)
        if self.until_learnt:
            needs["learnt"] = {"clip": digest_of_model(self.params.score.clip_model), "of": first_edit(entry)}
        code = (tune, load_model, *OWN) if self.window or self.until_learnt else (make_weights, load_model)

        def make(folder: Path) -> None:
            if self._weights or self._pipe is None:  # else it is the image model's weights still
                self._load()
            self._weights, state = "unknown", folder / "state.safetensors"
            losses = self._tuned(read_posterior(posterior.folder, self._pipe), entry, state)
            save_weights(self._pipe, folder / "tuned.safetensors", self.params.tune.tuned == "everything")
            with (folder / "losses.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("step", "loss"), *losses])
            state.unlink(missing_ok=True)

        return self.store.take("weights", needs, code, make)

    def _tuned(self, posterior: DiagonalGaussianDistribution, entry: ClipEntry, state: Path) -> list[tuple[int, float]]:
        """Tunes the model that is loaded; the losses of its steps."""
        pipe, settings, part = self._pipe, self.params.tune.model_dump(), posterior
        if self.window:
            part = DiagonalGaussianDistribution(posterior.parameters[self._windows[0]])
            posterior = WindowedPosterior(posterior, self._windows)
        pipe.set_progress_bar_config(disable=True)  # of previews

        def look() -> Tensor:
            return preview(pipe, first_edit(entry), part.mean.shape, self.params.edit.guidance_scale)

        keep = None if self.window or self.until_learnt else state
        steps: Iterator[tuple[int, float]] = tune(pipe, posterior, entry.caption, state=keep, **settings)
        losses = []
        with closing(steps), tqdm(total=settings["steps"], desc=f"tune: {entry.caption}", disable=quiet()) as bar:
            if self.until_learnt:
                steps = until(self._learnt(part, entry.caption, first_edit(entry), look), steps)
            for step, loss in steps:
                losses.append((step, loss))
                bar.update()
                if self.look_every and step % self.look_every == 0:
                    self.look(step, look())
        return losses

    def _learnt(self, part: DiagonalGaussianDistribution, caption: str, prompt: str, look: Callable) -> Learnt:
        scorer = ClipScorer(self.params.score.clip_model, self.params.device)
        text, seed = scorer.embed_prompt(prompt), self.params.tune.seed
        return Learnt(
            lambda: held_error(self._pipe, part, caption, seed),
            lambda: text_alignment(scorer.embed_frames(look()), text),
        )

    def pipe_on(self, entry: ClipEntry, task: str, solver: str) -> TuneAVideoPipeline:
        return self._whole(super().pipe_on(entry, task, solver))

    def edit_inside(self, entry: ClipEntry, prompt: str, words: str = "", mask: Tensor | None = None) -> Piece:
        """Frames of an edit that leaves the clip as it is outside of what `words` of its caption mean, or of a mask.

        mask: f 1 h w in [0, 1], white where the prompt may change the clip. The mask that was used lies in mask/ of the
        piece, at the latents' size.
        """
        posterior, sampling = self.posterior(entry), guidance(self.params)
        needs = self.needs(entry) | {"posterior": posterior.digest, "prompt": prompt, "settings": sampling}
        needs |= {"steps": self.params.invert.steps, "words": words}
        needs["mask"] = None if mask is None else hashlib.sha256(to_pictures(mask).tobytes()).hexdigest()[:32]

        def make(folder: Path) -> None:
            pipe = self.pipe_on(entry, f"edit inside: {prompt}", "ddim")
            latents = pipe.scale(read_posterior(posterior.folder, pipe).mode())
            path = invert_path(pipe, latents, self.params.invert.steps)
            found = self._mask_of_words(path, entry.caption, words) if mask is None else of_latents(mask, latents)
            write_frames(folder, edit_inside(pipe, prompt, path, found, **sampling))
            write_frames(folder / "mask", found.expand(-1, 3, -1, -1))

        return self.store.take("frames", needs, (edit_inside, mask_of_words, *LOADING, *OWN), make)

    def _mask_of_words(self, path: Tensor, caption: str, words: str) -> Tensor:
        """See `mask_of_words`; over windows, what any of them finds."""
        mask = torch.zeros_like(path[0, :, :1])
        for frames in self._windows or [list(range(len(mask)))]:
            found = mask_of_words(self._pipe, path[:, frames], caption, words)
            mask[frames] = torch.maximum(mask[frames], found)
        return mask

    def _whole(self, pipe: TuneAVideoPipeline) -> TuneAVideoPipeline:
        """A pipeline for the whole clip."""
        return over_windows(pipe, self.params.clip.num_frames, self.overlap) if self.window else pipe

    def _load(self) -> None:
        """Loads the model, for as many frames as a window has."""
        params = self.params
        if self.window:
            clip = params.clip.model_copy(update={"num_frames": self.window})
            self.params = params.model_copy(update={"clip": clip})
        try:
            super()._load()
        finally:
            self.params = params

    def _needs_of_model(self) -> dict:
        window = {"window": [self.window, self.overlap]} if self.window else {}
        return super()._needs_of_model() | window


def first_edit(entry: ClipEntry) -> str:
    """The prompt that previews show and that stopping watches."""
    return next(iter(entry.edits.values()))
