"""Keep the background: outside of a mask an edit's latents follow the clip's own inversion.

The mask is the user's, or where the clip's own caption speaks of some of its words: cross-attention, as in
Prompt-to-Prompt (arXiv 2208.01626) and FateZero. What is outside is put back after every sampling step, as in Blended
Latent Diffusion (arXiv 2206.02779), but from the inversion, so that it ends as the clip's own latents.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from footage.lists import count_frames
from tav.clip import PICTURES, fit_pictures, open_picture, read_clip
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline

DEPTH = 0.3  # share of the inversion's steps after which maps are taken: outlines are there still, colours less so
THRESHOLD = 0.25  # of the largest value of a clip's map


@torch.no_grad()
def invert_path(pipe: TuneAVideoPipeline, latents: Tensor, steps: int) -> Tensor:
    """A clip's latents f c h w and what they are after each step of their inversion: steps + 1, f c h w."""
    path = []
    handle = pipe.unet.register_forward_pre_hook(lambda _unet, given: path.append(given[0]))
    try:
        noise = pipe.invert(latents, steps)
    finally:
        handle.remove()
    return torch.stack([*path, noise])


def edit_inside(pipe: TuneAVideoPipeline, prompt: str, path: Tensor, mask: Tensor, **sampling) -> Tensor:
    """Sample a prompt's clip from the noise at the end of a `path`; frames f 3 h w in [0, 1].

    mask: f 1 h w of the latents, 1 where the prompt may change them; in between, both are mixed. sampling: what the
    pipeline takes, but for latents, number of steps, guidance_interval and callbacks.
    """
    last = len(path) - 2

    def put_back(_pipe, step: int, _timestep, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.lerp(path[last - step], tensors["latents"], mask.to(path))}

    blending = {"callback_on_step_end": put_back, "callback_on_step_end_tensor_inputs": ["latents"]}
    return pipe(prompt, path[-1], last + 1, output_type="pt", **blending, **sampling).frames[0]


@torch.no_grad()
def mask_of_words(pipe: TuneAVideoPipeline, path: Tensor, caption: str, words: str) -> Tensor:
    """Where a clip shows what some words of its caption say: f 1 h w of its latents, 0 or 1.

    The mean of all cross-attention maps of these words on the way of the inversion, above a share of its largest value,
    and one latent around it. Raises InputError for words that the caption does not have.
    """
    tokens, maps = _tokens(pipe, caption, words), []
    step = round(DEPTH * (len(path) - 1))
    timestep = pipe.scheduler.config.num_train_timesteps * step // (len(path) - 1)
    text = pipe.embed([caption])[0].expand(len(path[0]), -1, -1)
    with _watching(pipe, tokens, maps):
        pipe.unet(path[step], torch.tensor(timestep, device=path.device), text)
    side = tuple(path.shape[-2:])
    pictures = [_as_pictures(of_words, side) for of_words in maps]
    mean = sum(interpolate(picture, side, mode="bilinear") for picture in pictures) / len(pictures)
    mean = mean - mean.amin()
    return max_pool2d((mean >= THRESHOLD * mean.amax()).to(path), 3, 1, 1)


def read_mask(file: Path, num_frames: int, size: tuple[int, int], fit: str, start: int = 0, stride: int = 1) -> Tensor:
    """A mask that someone drew, f 1 h w in [0, 1], white where the prompt may change the clip; cut as the clip is.

    file: one picture for all frames; or a video or a folder of frames, of those that are edited or of the whole clip,
    of which start, start + stride, ... are then taken. Raises InputError if it cannot be read.
    """
    if file.suffix.lower() in PICTURES and file.is_file():
        pictures = fit_pictures(open_picture(file)[None], size, fit).expand(num_frames, -1, -1, -1)
    else:
        start, stride = (0, 1) if count_frames(file) == num_frames else (start, stride)
        pictures = (read_clip(file, num_frames, size, start, stride, fit) + 1) / 2
    return pictures.mean(1, keepdim=True)


def of_latents(mask: Tensor, latents: Tensor) -> Tensor:
    """A mask f 1 h w of frames as one of their latents f c h w: a latent is inside if some of its pixels are."""
    inside = interpolate(mask, tuple(latents.shape[-2:]), mode="area") > 0.05
    return inside.to(latents)


def _tokens(pipe: TuneAVideoPipeline, caption: str, words: str) -> list[int]:
    """The places of some words' tokens among those of the caption."""
    ids, wanted = (pipe.tokenizer(text).input_ids[1:-1] for text in (caption, words))
    for start in range(len(ids) - len(wanted) + 1):
        if wanted and ids[start : start + len(wanted)] == wanted:
            return [1 + start + number for number in range(len(wanted))]
    raise InputError(f"the caption {caption!r} does not have the words {words!r}: give words that stand in it")


def _as_pictures(maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Maps f (h w) of a level of the UNet, each of which halves the latents' sides and rounds up: f 1 h w."""
    height, width = side
    while height * width > maps.shape[1]:
        height, width = -(-height // 2), -(-width // 2)
    return rearrange(maps, "f (h w) -> f 1 h w", h=height)


class _Watched:
    """A cross-attention that also keeps how much each position reads of some tokens."""

    def __init__(self, attend: Callable, tokens: list[int], maps: list[Tensor]):
        self.attend, self.tokens, self.maps = attend, tokens, maps

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *others, **named):
        query, key = map(attn.head_to_batch_dim, (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)))
        read = attn.get_attention_scores(query, key)[..., self.tokens].sum(-1)
        self.maps.append(rearrange(read, "(f h) n -> f h n", h=attn.heads).float().mean(1))
        return self.attend(attn, hidden_states, encoder_hidden_states, *others, **named)


@contextmanager
def _watching(pipe: TuneAVideoPipeline, tokens: list[int], maps: list[Tensor]) -> Iterator[None]:
    attentions = [module for name, module in pipe.unet.named_modules() if name.endswith("attn2")]
    before = [attention.processor for attention in attentions]
    try:
        for attention, attend in zip(attentions, before, strict=True):
            attention.set_processor(_Watched(attend, tokens, maps))
        yield
    finally:
        for attention, attend in zip(attentions, before, strict=True):
            attention.set_processor(attend)
