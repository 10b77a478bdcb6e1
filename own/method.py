"""The method on one's own clip, with what the paper does not have: windows, previews, kept backgrounds."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from measures.clips import ClipEntry
from own.background import edit_inside, invert_path, mask_of_words, of_latents
from own.windows import WindowedPosterior, over_windows, windows
from studies.method import (
    LOADING,
    Method,
    guidance,
    make_posterior,
    make_weights,
    read_posterior,
)
from studies.models import load_model
from studies.settings import Params
from studies.stopping import preview
from studies.store import Piece, Store
from tav.clip import read_frames, to_pictures, write_frames
from tav.pipeline import TuneAVideoPipeline

OWN = ("own.method.OwnMethod",)


class OwnMethod(Method):
    """`Method` over windows of a clip, and with previews; each only if it is asked for.

    window: frames of the model where the clip has more; overlap: how many of them two windows share. look: called with
    the step and the first edit's frames, f 3 h w in [0, 1], every `look_every` steps of tuning; it changes no result.
    """

    def __init__(
        self,
        params: Params,
        store: Store | None = None,
        window: int | None = None,
        overlap: int = 0,
        look_every: int | None = None,
        look: Callable[[int, Tensor], None] | None = None,
    ):
        super().__init__(params, store)
        self.window, self.overlap = window, overlap
        self.look_every, self.look = look_every, look
        self._own_code = OWN if window else ()
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

    def _make_weights(self, folder: Path, posterior: DiagonalGaussianDistribution, entry: ClipEntry) -> None:
        part, prompt = posterior, entry.first_edit
        if self.window:
            part = DiagonalGaussianDistribution(posterior.parameters[self._windows[0]])
            posterior = WindowedPosterior(posterior, self._windows)

        def look(step: int) -> None:
            if step % self.look_every == 0:
                self.look(step, preview(self._pipe, prompt, part.mean.shape, self.params.edit.guidance_scale))

        ended, resumes = self._ended(part, entry), not self.window  # whose windows would not be in turn
        given = posterior, entry.caption, self.params, ended, resumes, look if self.look_every else None
        make_weights(folder, self._pipe, *given)

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
            self.params = params.changed(clip={"num_frames": self.window})
        try:
            super()._load()
        finally:
            self.params = params

    def _needs_of_model(self) -> dict:
        window = {"window": [self.window, self.overlap]} if self.window else {}
        return super()._needs_of_model() | window
