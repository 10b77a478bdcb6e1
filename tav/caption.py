"""Cross-attention to a text that stays the same: its keys and values are computed once, not per frame and step."""

import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor


class CaptionAttnProcessor:
    """Cross-attention of a clip's frames to its text, `(b f) n c` and `(b f) m d` to `(b f) n c`.

    The numbers are those of the image model's cross-attention. A clip's frames have one text: their queries attend
    together to one copy of its keys and values. Where frames have texts of their own, each attends to its own. Keys and
    values are kept as long as the text is the same tensor and neither it nor the weights were changed in place; in
    training, only if these weights are frozen.
    """

    def __init__(self, num_frames: int):
        self.num_frames = num_frames
        self._kept: tuple[Callable, tuple, int, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict:
        return {"num_frames": self.num_frames, "_kept": None}  # copies start anew

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_, **__) -> Tensor:
        query = attn.to_q(hidden_states)
        frames, key, value = self._read(attn, encoder_hidden_states, query.dtype)
        query = rearrange(query, "(b f) n (h d) -> b h (f n) d", f=frames, h=attn.heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return attn.to_out[1](attn.to_out[0](rearrange(attended, "b h (f n) d -> (b f) n (h d)", f=frames)))

    def _read(self, attn: Attention, text: Tensor, dtype: torch.dtype) -> tuple[int, Tensor, Tensor]:
        """Frames that a text belongs to, and keys and values b h m d of each text."""
        tensors = text, attn.to_k.weight, attn.to_v.weight
        state = dtype, text.device, *(0 if tensor.is_inference() else tensor._version for tensor in tensors)
        if self._kept and self._kept[0]() is text and self._kept[1] == state:
            return self._kept[2:]
        clips = text[:: self.num_frames]
        alike = clips.repeat_interleave(self.num_frames, dim=0)
        shared = len(alike) == len(text) and (text.is_meta or torch.equal(text, alike))
        texts = clips if shared else text
        key, value = (rearrange(to(texts), "b m (h d) -> b h m d", h=attn.heads) for to in (attn.to_k, attn.to_v))
        frames = self.num_frames if shared else 1
        if not (key.requires_grad or value.requires_grad):
            self._kept = weakref.ref(text), state, frames, key, value
        return frames, key, value
