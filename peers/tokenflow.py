"""TokenFlow: keyframes edited together, and their features carried to the other frames as the source's correspond."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor

from peers._attention import processors, transformer_blocks
from peers._ddim import Sampling, encode, invert, noise_of, sample
from peers._settings import Count, Layer, Share
from peers.plug_and_play import injection
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    captioned_inversion: bool = False,
    keyframe_interval: Count = 8,
    feature_share: Share = 0.8,
    attention_share: Share = 0.5,
    layer: Layer | None = None,
) -> Iterator[Tensor]:
    """Sample from inverted noise; self-attention is computed for keyframes, jointly, and propagated to the rest.

    Geyer et al., TokenFlow, arXiv 2307.10373, section 4, over Plug-and-Play injection as in the original. At each step
    one frame at random of every `keyframe_interval` is a keyframe. Keyframes attend to all keyframes (4.1). Another
    frame's tokens are those of its two neighbouring keyframes at the nearest neighbours, by cosine distance, of the
    source's self-attention inputs, weighted by how near the two keyframes are (4.2).

    Not as in the original: the weight is linear in the distance; there it passes a sigmoid, and mixes two keyframes
    even at a keyframe. A frame beyond the outermost keyframes takes from one. The source keeps its own attention, so
    that its features are those of its inversion. As many inversion steps as sampling steps (there up to 1000).

    keyframe_interval: in frames; 1 makes all frames keyframes, which is joint attention with nothing propagated.
    captioned_inversion, feature_share, attention_share, layer: see `plug_and_play`.
    """
    if keyframe_interval < 1:
        raise InputError(f"keyframe_interval is {keyframe_interval}: use at least 1 frame")
    source_prompt = caption if captioned_inversion else ""
    source = invert(pipe, encode(pipe, clip), sampling.steps, source_prompt)
    attentions = [block.attn1 for block in transformer_blocks(pipe.unet)]
    generator = torch.Generator()

    @contextmanager
    def around(step: int) -> Iterator[None]:
        keyframes = [
            start + int(torch.randint(min(keyframe_interval, pipe.num_frames - start), (), generator=generator))
            for start in range(0, pipe.num_frames, keyframe_interval)
        ]
        propagated = _PropagatedAttnProcessor(pipe.num_frames, keyframes)
        with (
            processors(dict.fromkeys(attentions, propagated)),
            injection(pipe.unet, step / sampling.steps, feature_share, attention_share, layer),
        ):
            yield

    for prompt in prompts:
        generator.manual_seed(sampling.seed)  # an edit does not depend on those before it
        yield sample(pipe, noise_of(source), prompt, sampling, 0, source, source_prompt, around)


class _PropagatedAttnProcessor:
    """Self-attention of a batch whose first clip is the source, `(b f) n c` to the same shape.

    Keyframes do not look at other frames, so they may go through the UNet together with them.
    """

    def __init__(self, num_frames: int, keyframes: list[int]):
        self.num_frames, self.keyframes = num_frames, keyframes

    def __call__(self, attn: Attention, hidden_states: Tensor, *_, **__) -> Tensor:
        # All frames are projected, since injection replaces queries and keys there.
        query, key, value = (
            rearrange(project(hidden_states), "(b f) n (h d) -> b f h n d", f=self.num_frames, h=attn.heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        own = F.scaled_dot_product_attention(query[0], key[0], value[0])
        joint = F.scaled_dot_product_attention(
            *(rearrange(x[1:, self.keyframes], "b k h n d -> b h (k n) d") for x in (query, key, value))
        )
        joint = rearrange(joint, "b h (k n) d -> b k n (h d)", k=len(self.keyframes))
        edited = self._propagate(hidden_states[: self.num_frames], joint)
        out = torch.cat([rearrange(own, "f h n d -> 1 f n (h d)"), edited])
        return attn.to_out[1](attn.to_out[0](rearrange(out, "b f n c -> (b f) n c")))

    def _propagate(self, source: Tensor, joint: Tensor) -> Tensor:
        """Source tokens f n c and keyframes' tokens b k n c -> all frames' tokens b f n c."""
        source, edited = F.normalize(source, dim=-1), dict(zip(self.keyframes, joint.unbind(1), strict=True))
        frames = []
        for frame in range(self.num_frames):
            if frame in edited:
                frames.append(edited[frame])
                continue
            earlier, later = ([k for k in self.keyframes if k < frame], [k for k in self.keyframes if k > frame])
            neighbours = earlier[-1:] + later[:1]
            carried = [edited[k][:, (source[frame] @ source[k].T).argmax(-1)] for k in neighbours]
            if len(neighbours) == 2:
                carried = [torch.lerp(*carried, (frame - neighbours[0]) / (neighbours[1] - neighbours[0]))]
            frames.append(carried[0])
        return torch.stack(frames, dim=1)
