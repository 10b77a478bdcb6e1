"""The parts of a UNet that editing methods reach into, and how they change them for a while only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from tav.model import ClipAttnProcessor


def transformer_blocks(unet: UNet2DConditionModel) -> list[BasicTransformerBlock]:
    return [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]


def decoder_layers(unet: UNet2DConditionModel) -> list[tuple[ResnetBlock2D, list[Attention]]]:
    """The decoder's residual blocks in the order of data, each with the self-attentions that follow it, if any."""
    layers = []
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            layers.append((resnet, [b.attn1 for b in attention.transformer_blocks] if attention else []))
    return layers


@contextmanager
def processors(replacements: Mapping[Attention, Callable]) -> Iterator[None]:
    """Attend with other processors; afterwards with those of before."""
    before = {attention: attention.processor for attention in replacements}
    try:
        for attention, processor in replacements.items():
            attention.set_processor(processor)
        yield
    finally:
        for attention, processor in before.items():
            attention.set_processor(processor)


@contextmanager
def output_hooks(modules: Iterable[nn.Module], change: Callable) -> Iterator[None]:
    """Put `change(output)` in the place of what modules return."""
    handles = [module.register_forward_hook(lambda _module, _args, output: change(output)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class MapAttnProcessor(ClipAttnProcessor):
    """Attention by its maps, (b f h) n m, which `change(attention, maps, is_self)` sees and may alter.

    In self-attention a frame reads what `read` makes of its clip's keys and values, b f n c -> b f m c. Attention of
    more than max_tokens queries is done without maps.
    """

    def __init__(self, num_frames: int, read: Callable[[Tensor], Tensor], max_tokens: int, change: Callable):
        self.num_frames, self.frames_at_once, self.max_tokens, self.change = num_frames, num_frames, max_tokens, change
        self.read = lambda x, *_: read(x)  # of all frames at once
        self.without_maps = AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_, **__):
        is_self = encoder_hidden_states is None
        if hidden_states.shape[1] > self.max_tokens:
            attend = super().__call__ if is_self else self.without_maps
            return attend(attn, hidden_states, encoder_hidden_states)
        context = hidden_states if is_self else encoder_hidden_states
        key, value = attn.to_k(context), attn.to_v(context)
        if is_self:
            clips = (rearrange(x, "(b f) n c -> b f n c", f=self.num_frames) for x in (key, value))
            key, value = (rearrange(self.read(x), "b f m c -> (b f) m c") for x in clips)
        query, key, value = map(attn.head_to_batch_dim, (attn.to_q(hidden_states), key, value))
        maps = self.change(attn, attn.get_attention_scores(query, key), is_self)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(maps @ value)))
