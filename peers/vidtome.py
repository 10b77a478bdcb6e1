"""VidToMe: tokens that neighbouring frames have in common are merged before self-attention, and so edited as one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor

from peers._attention import processors, transformer_blocks
from peers._ddim import Sampling, encode, invert, noise_of, sample
from peers._settings import Count, Layer, Share
from peers.plug_and_play import injection
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    captioned_inversion: bool = False,
    chunk_size: Count = 4,
    local_share: Share = 0.9,
    global_share: Share = 0.8,
    coarsest: Count = 2,
    feature_share: Share = 0.8,
    attention_share: Share = 0.5,
    layer: Layer | None = None,
) -> Iterator[Tensor]:
    """Sample from inverted noise; before self-attention, alike tokens of a chunk of frames become one token.

    Li et al., VidToMe, arXiv 2312.10656, section 4, over Plug-and-Play injection as in the authors' default. At each
    step the clip is cut into chunks of `chunk_size` frames, the first of a random length, taken from either end. Within
    a chunk a random frame is the target: of the other frames' tokens the `local_share` most like one of its tokens
    are replaced by that (4.2). What is left is matched with the tokens of the chunk before, as they were left there; a
    coin says which of the two are replaced, `global_share` of them (4.3). Self-attention takes what remains, and its
    output goes to every token that was replaced. One matching serves source, negative prompt and edit.

    Not as in the original: one target in a chunk however long, chunks in order (there a quarter of them is shuffled),
    as many inversion steps as sampling steps.

    coarsest: merge where the latents' sides are reduced at most so many times; attention elsewhere stays as it is.
    captioned_inversion, feature_share, attention_share, layer: see `plug_and_play`.
    """
    source_prompt, latents = caption if captioned_inversion else "", encode(pipe, clip)
    source = invert(pipe, latents, sampling.steps, source_prompt)
    fewest = latents[0, 0].numel() / coarsest**2
    attentions = [block.attn1 for block in transformer_blocks(pipe.unet)]
    generator = torch.Generator()

    @contextmanager
    def around(step: int) -> Iterator[None]:
        chunks = list(_cut(pipe.num_frames, chunk_size, generator))
        merged = _MergedAttnProcessor(pipe.num_frames, chunks, local_share, global_share, fewest)
        with (
            processors(dict.fromkeys(attentions, merged)),
            injection(pipe.unet, step / sampling.steps, feature_share, attention_share, layer),
        ):
            yield

    for prompt in prompts:
        generator.manual_seed(sampling.seed)  # an edit does not depend on those before it
        yield sample(pipe, noise_of(source), prompt, sampling, 0, source, source_prompt, around)


class _Chunk(NamedTuple):
    """Some frames; the place among them of the one whose tokens stay; whether tokens of the chunk before stay."""

    frames: list[int]
    target: int
    keeps_earlier: bool


def _cut(num_frames: int, size: int, generator: torch.Generator) -> Iterator[_Chunk]:
    """A clip's chunks in the order in which they are attended to."""

    def random(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    first, backwards = 1 + random(size), random(2)
    starts = [0, *range(min(first, num_frames), num_frames, size)]
    parts = [list(range(*ends)) for ends in zip(starts, [*starts[1:], num_frames], strict=True)]
    for frames in parts[::-1] if backwards else parts:
        yield _Chunk(frames, random(len(frames)), bool(random(2)))


class _MergedAttnProcessor:
    """Self-attention of merged tokens, `(b f) n c` to the same shape."""

    def __init__(
        self, num_frames: int, chunks: list[_Chunk], local_share: float, global_share: float, fewest: float = 0
    ):
        """fewest: where a frame has fewer tokens, frames attend to themselves."""
        self.num_frames, self.chunks, self.fewest = num_frames, chunks, fewest
        self.local_share, self.global_share = local_share, global_share
        self.plain = AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *_, **__) -> Tensor:
        n, width = hidden_states.shape[1:]
        if n < self.fewest:
            return self.plain(attn, hidden_states)
        # All frames are projected, since injection replaces queries and keys there; a replaced token takes them along.
        tokens = torch.cat([hidden_states, *(to(hidden_states) for to in (attn.to_q, attn.to_k, attn.to_v))], dim=-1)
        tokens = rearrange(tokens, "(b f) n c -> b f n c", f=self.num_frames)
        out = torch.empty_like(rearrange(hidden_states, "(b f) n c -> b f n c", f=self.num_frames))
        earlier = tokens[:, :0, 0]
        for frames, target, keeps_earlier in self.chunks:
            own = rearrange(tokens[:, frames], "b f n c -> b (f n) c")
            stays = (torch.arange(len(frames), device=own.device) == target).repeat_interleave(n)
            keep, place = match(own[..., :width], stays, self.local_share)
            both = torch.cat([own[:, keep], earlier], dim=1)
            is_own = torch.arange(both.shape[1], device=own.device) < len(keep)
            joint, back = match(both[..., :width], is_own != keeps_earlier, self.global_share)
            merged = both[:, joint]
            earlier = merged[:, back[: len(keep)]]
            attended = _attend(attn, merged[..., width:])[:, back[place]]
            out[:, frames] = rearrange(attended, "b (f n) c -> b f n c", n=n)
        return rearrange(out, "b f n c -> (b f) n c")


def match(tokens: Tensor, stays: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Which of the tokens b m c are kept when a `share` of those that need not stay, the likest, gives way to one that
    does, by cosine: their numbers in `tokens`, and for each of the m its place among the kept.

    stays: m, bool. The match is one for all clips b, each token's best over all of them.
    """
    source, target = (~stays).nonzero()[:, 0], stays.nonzero()[:, 0]
    everything = torch.arange(len(stays), device=stays.device)
    gives_way = int(share * len(source)) if len(target) else 0
    if not gives_way:
        return everything, everything
    unit = F.normalize(tokens, dim=-1)
    alike = unit[:, source] @ unit[:, target].mT
    best, likest = rearrange(alike, "b s t -> s (b t)").max(dim=-1)
    order = best.argsort(descending=True, stable=True)
    gone, left = order[:gives_way], order[gives_way:]
    keep, place = torch.cat([source[left], target]), torch.empty_like(everything)
    place[keep] = everything[: len(keep)]
    place[source[gone]] = place[target[likest[gone] % len(target)]]
    return keep, place


def _attend(attn: Attention, projected: Tensor) -> Tensor:
    """Self-attention of queries, keys and values that lie side by side, b m 3c -> b m c."""
    query, key, value = rearrange(projected, "b m (p h d) -> p b h m d", p=3, h=attn.heads)
    out = rearrange(F.scaled_dot_product_attention(query, key, value), "b h m d -> b m (h d)")
    return attn.to_out[1](attn.to_out[0](out))
