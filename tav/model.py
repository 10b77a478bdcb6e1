"""The contribution of Tune-A-Video: an image diffusion UNet whose frames see each other.

A clip is a batch of images, `(b f) c h w`. Three things are added to an unmodified diffusers UNet, in place:

* ST-Attn (paper 3.2): self-attention takes its keys and values from the first and the previous frame;
* T-Attn (paper 3.2): after each transformer block, every spatial position attends over the frames;
* clip GroupNorm (released behaviour): residual blocks normalise over all frames of a clip together.

Tuned are the queries of both attentions and all of T-Attn (paper 3.3); everything else is frozen.

`tav.options` has what neither the paper nor the released code has.
"""

import re

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from tav.caption import CaptionAttnProcessor
from tav.errors import InputError
from tav.options import add_temporal_convolutions

TUNED = re.compile(r"\.attn[12]\.to_q\.|\.attn_temp\.|\.conv_temporal\.")
ADDED = re.compile(r"\.(attn_temp|norm_temp|conv_temporal)\.")


def _first(x: Tensor, start: int, stop: int) -> Tensor:
    return x[:, :1].expand(-1, stop - start, -1, -1)


def _sparse_causal(x: Tensor, start: int, stop: int) -> Tensor:
    previous = x[:, start - 1 : stop - 1] if start else torch.cat([x[:, :1], x[:, : stop - 1]], dim=1)
    return torch.cat([_first(x, start, stop), previous], dim=2)


def _full(x: Tensor, start: int, stop: int) -> Tensor:
    return rearrange(x, "b f n c -> b 1 (f n) c").expand(-1, stop - start, -1, -1)


# What the queries of frames start to stop read of the keys or values of all, b f n c -> b stop-start m c. "own" is the
# image model's attention.
ATTENTION = {"sparse-causal": _sparse_causal, "own": None, "first": _first, "full": _full}


class ClipAttnProcessor:
    """Self-attention of a frame over tokens of other frames of its clip, `(b f) n c` to the same shape (paper 3.2).

    In ST-Attn, "sparse-causal", frame i reads [z_1, z_{i-1}] and not itself; frame 1 reads [z_1, z_1].
    `frames_at_once` bounds the frames whose queries attend together, and so the copies of what they read.
    """

    def __init__(self, num_frames: int, attention: str, frames_at_once: int | None = None):
        self.num_frames, self.read = num_frames, ATTENTION[attention]
        self.frames_at_once = frames_at_once or num_frames

    def __call__(self, attn: Attention, hidden_states: Tensor, *_, **__) -> Tensor:
        query, key, value = (
            rearrange(project(hidden_states), "(b f) n c -> b f n c", f=self.num_frames)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        attended = []
        for start in range(0, self.num_frames, self.frames_at_once):
            stop = min(start + self.frames_at_once, self.num_frames)
            parts = query[:, start:stop], self.read(key, start, stop), self.read(value, start, stop)
            heads = (rearrange(part, "b f n (h d) -> (b f) h n d", h=attn.heads) for part in parts)
            attended.append(
                rearrange(F.scaled_dot_product_attention(*heads), "(b f) h n d -> b f n (h d)", b=len(query))
            )
        return attn.to_out[1](attn.to_out[0](rearrange(torch.cat(attended, dim=1), "b f n c -> (b f) n c")))


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics are pooled over the frames of a clip, `(b f) c h w` (released behaviour).

    The released code normalises a 5-D tensor, so each frame's normalisation depends on all frames; the paper is silent.
    """

    def __init__(self, norm: nn.GroupNorm, num_frames: int):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        self.weight, self.bias, self.num_frames = norm.weight, norm.bias, num_frames

    def forward(self, x: Tensor) -> Tensor:
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=self.num_frames)
        return rearrange(super().forward(clips), "b c f h w -> (b f) c h w")


def _attend_over_time(block: BasicTransformerBlock, _inputs, hidden_states: Tensor) -> Tensor:
    """T-Attn after the feed-forward: LayerNorm, self-attention over the frames at each position, residual."""
    tokens = hidden_states.shape[1]
    hidden_states = rearrange(hidden_states, "(b f) n c -> (b n) f c", f=block.num_frames)
    hidden_states = hidden_states + block.attn_temp(block.norm_temp(hidden_states))
    return rearrange(hidden_states, "(b n) f c -> (b f) n c", n=tokens)


def _add_temporal_attention(block: BasicTransformerBlock, num_frames: int) -> None:
    weight = block.attn1.to_q.weight
    heads, (inner, dim) = block.attn1.heads, weight.shape
    block.norm_temp = nn.LayerNorm(dim, device=weight.device, dtype=weight.dtype)
    block.attn_temp = Attention(dim, heads=heads, dim_head=inner // heads).to(weight.device, weight.dtype)
    # Released: weight zero, bias at its random default. Here both are zero, so that inflation changes no output at all.
    nn.init.zeros_(block.attn_temp.to_out[0].weight)
    nn.init.zeros_(block.attn_temp.to_out[0].bias)
    block.num_frames = num_frames
    block.register_forward_hook(_attend_over_time)


def inflate(
    unet: UNet2DConditionModel,
    num_frames: int = 8,
    norm: str = "clip",
    attention: str = "sparse-causal",
    temporal: bool = True,
    seed: int = 0,
    temporal_conv: bool = False,
    frames_at_once: int | None = None,
) -> UNet2DConditionModel:
    """Turn an image UNet into one over clips of `num_frames` frames, in place; its weights keep names and values.

    norm: "clip" pools GroupNorm over the frames as the released code does, "frame" leaves it to each image.
    attention: what self-attention reads: "sparse-causal" (the first and the previous frame), "own", "first", or "full"
        (all frames).
    temporal: with or without T-Attn, which starts as the exact identity; `seed` fixes its other weights.
    temporal_conv: see `tav.options.add_temporal_convolutions`.
    frames_at_once: see `ClipAttnProcessor`; it changes memory and, by rounding, results.
    Afterwards exactly `tuned_parameters(unet)` require gradients; a batch that is not whole clips raises ValueError.
    Raises InputError for an unknown choice.
    """
    for value, allowed, name in ((norm, ("clip", "frame"), "norm"), (attention, tuple(ATTENTION), "attention")):
        if value not in allowed:
            raise InputError(f"{name} is {value!r}: use one of {', '.join(allowed)}")
    if num_frames < 1:
        raise InputError(f"num_frames is {num_frames}: a clip has at least one frame")

    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    if attention != "own":
        for block in blocks:
            block.attn1.set_processor(ClipAttnProcessor(num_frames, attention, frames_at_once))
    for block in blocks:
        block.attn2.set_processor(CaptionAttnProcessor(num_frames))
    if temporal:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in blocks:
                _add_temporal_attention(block, num_frames)
    if temporal_conv:
        add_temporal_convolutions(unet, num_frames)
    if norm == "clip":
        for block in [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]:
            block.norm1 = ClipGroupNorm(block.norm1, num_frames)
            block.norm2 = ClipGroupNorm(block.norm2, num_frames)
        unet.conv_norm_out = ClipGroupNorm(unet.conv_norm_out, num_frames)

    def refuse_partial_clips(_module, args, kwargs):
        frames = len(args[0] if args else kwargs["sample"])
        if frames % num_frames:
            raise ValueError(f"{frames} frames are no whole number of clips of {num_frames} frames")

    unet.register_forward_pre_hook(refuse_partial_clips, with_kwargs=True)
    unet.num_frames = num_frames
    unet.requires_grad_(False)
    for parameter in tuned_parameters(unet).values():
        parameter.requires_grad_(True)
    return unet


def tuned_parameters(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """What tuning changes, {released name: parameter}: W^Q of both attentions and all of T-Attn (paper 3.3).

    The LayerNorm before T-Attn is new but not tuned (released behaviour). Convolutions over time are tuned, if any.
    """
    return {name: parameter for name, parameter in unet.named_parameters() if TUNED.search(name)}
