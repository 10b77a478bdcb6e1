"""Longer clips: windows of as many frames as memory suffices for, which share the clip's first frame.

A window is the first frame, which ST-Attn reads everywhere, and consecutive frames after it. Tuning takes a window a
step. In inversion and sampling the windows of a step are predicted one after the other, and where they overlap the
predictions fade into each other (as in MultiDiffusion, arXiv 2302.08113, over time).
"""

import copy
from itertools import cycle

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from einops import rearrange
from torch import Tensor, nn

from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline


def windows(frames: int, window: int, overlap: int) -> list[list[int]]:
    """The frames of every window of a clip; the last one reaches further back where frames do not divide.

    overlap: how many frames two neighbours share, the first frame of the clip not counted. Raises InputError for
    windows that would not move on, or are longer than the clip.
    """
    if not 0 <= overlap < window - 1:
        raise InputError(f"windows of {window} frames cannot share {overlap}: let them share 0 to {window - 2}")
    if window > frames:
        raise InputError(f"a clip of {frames} frames has no window of {window}: give a smaller --window")
    step = window - 1 - overlap
    starts = [*range(1, frames - window + 1, step), frames - window + 1]
    return [[0, *range(start, start + window - 1)] for start in starts]


def weights(frames: int, of: list[list[int]]) -> Tensor:
    """How much of every frame comes from every window: windows, frames; the columns add up to 1.

    Where two overlap, one fades out as the other fades in. The first frame is the first window's alone.
    """
    shares = torch.zeros(len(of), frames)
    for number, window in enumerate(of):
        rest = torch.tensor(window[1:])
        before, after = of[number - 1][-1] if number else -1, of[number + 1][1] if number + 1 < len(of) else frames
        up = (rest - rest[0] + 1) / (before - rest[0] + 2).clamp(min=1)
        down = (rest[-1] - rest + 1) / (rest[-1] - after + 2).clamp(min=1)
        shares[number, rest] = torch.minimum(up, down).clamp(max=1)
    shares[0, 0] = 1
    return shares / shares.sum(0)


class WindowedUNet(nn.Module):
    """An inflated UNet over clips that are longer than it is: `(b f) c h w` of `num_frames` frames."""

    def __init__(self, unet: nn.Module, num_frames: int, overlap: int):
        super().__init__()
        self.unet, self.num_frames, self.config = unet, num_frames, unet.config
        self.windows = windows(num_frames, unet.num_frames, overlap)
        self.shares = weights(num_frames, self.windows)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(self, sample: Tensor, timestep, encoder_hidden_states: Tensor, return_dict: bool = True, **others):
        frames = {"f": self.num_frames}
        clips, texts = (rearrange(x, "(b f) ... -> b f ...", **frames) for x in (sample, encoder_hidden_states))
        total = torch.zeros_like(clips)
        for window, shares in zip(self.windows, self.shares.to(sample), strict=True):
            latents, text = (rearrange(x[:, window], "b f ... -> (b f) ...") for x in (clips, texts))
            predicted = self.unet(latents, timestep, text, **others).sample
            predicted = rearrange(predicted, "(b f) ... -> b f ...", f=len(window))
            total[:, window] += shares[window, None, None, None] * predicted
        predicted = rearrange(total, "b f ... -> (b f) ...")
        return UNet2DConditionOutput(sample=predicted) if return_dict else (predicted,)


class WindowedPosterior(DiagonalGaussianDistribution):
    """A long clip's posterior that gives `tune` another window at every step, in turn.

    `parameters` are those of all frames; `mean` and `std` of the window in turn, which `mode` moves on.
    """

    def __init__(self, posterior: DiagonalGaussianDistribution, of: list[list[int]]):
        super().__init__(posterior.parameters)
        self.parts = [DiagonalGaussianDistribution(posterior.parameters[window]) for window in of]
        self.in_turn = cycle(self.parts)
        self.mean, self.std = self.parts[0].mean, self.parts[0].std

    def mode(self) -> Tensor:
        part = next(self.in_turn)
        self.mean, self.std = part.mean, part.std
        return self.mean


def over_windows(pipe: TuneAVideoPipeline, num_frames: int, overlap: int) -> TuneAVideoPipeline:
    """A pipeline of the same parts for clips of `num_frames` frames, in windows of the model's own number."""
    longer = copy.copy(pipe)
    longer.unet = WindowedUNet(pipe.unet, num_frames, overlap)
    return longer
