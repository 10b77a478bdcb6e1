"""FateZero: attention maps that are kept from the inversion and fused into those of the edit."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor

from peers._attention import MapAttnProcessor, processors, transformer_blocks
from peers._ddim import Sampling, encode, inversion, sample, schedule
from peers._settings import Count, Share, Threshold
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    cross_share: Share = 0.8,
    self_share: Share = 0.8,
    threshold: Threshold = 0.3,
    max_tokens: Count = 32**2,
) -> Iterator[Tensor]:
    """Invert with the source caption, keep the attention maps, and fuse them into the edit's. Nothing is random.

    Qi et al., FateZero, arXiv 2303.09535. Inversion attention fusion: words that the edit prompt shares with the source
    caption take the source's cross-attention. Attention map blending: self-attention is M s_edit + (1 - M) s_source,
    where M = 1 at the queries whose source cross-attention to the replaced words is above the threshold.
    Spatial-temporal self-attention, in inversion and sampling: keys and values of the frame itself and the middle one,
    K = W^K [z_i; z_w] with w = round(n / 2). Maps are fused at the same timestep, for the edit prompt only.

    Not as in the original: the replaced words are found by comparing the two texts, there the user names them; the mask
    is the mean over all kept cross-attentions, there over those at a quarter of the latents' side; no amplified words,
    no blending of latents. With no word replaced, M = 0, as there for styles.

    cross_share, self_share: shares of the steps, from the first on, in which maps are fused (released defaults).
    threshold: of M, relative to each frame's largest value. 1 takes all self-attention from the source; below 0, none.
    max_tokens: maps of more queries than this are not fused (released behaviour).

    The original keeps the maps of all steps, n (2 n + words) numbers per head, frame, layer and step: hundreds of GB
    for 32 frames of 512x512. Here the source's maps are made anew before each step, from the latents that the inversion
    showed the UNet: one more pass of the source per fused step, half as much again as guided sampling takes, and the
    maps of one step in main memory, 6 GB there in half precision and 12 in float32.
    """
    latents = encode(pipe, clip)
    blocks = transformer_blocks(pipe.unet)
    attentions = [block.attn1 for block in blocks] + [block.attn2 for block in blocks]

    def attend(change: Callable) -> AbstractContextManager:
        maps = MapAttnProcessor(pipe.num_frames, _own_and_middle, max_tokens, change)
        return processors(dict.fromkeys(attentions, maps))

    with attend(lambda _attention, maps, _is_self: maps):
        shown, noise = inversion(pipe, latents, sampling.steps, caption)
    source_text = pipe.embed([caption])[0].repeat_interleave(pipe.num_frames, dim=0)
    timesteps = schedule(pipe, sampling.steps).timesteps.tolist()
    for prompt in prompts:
        fusion = _Fusion(pipe.tokenizer, caption, prompt, latents.shape[-2:], threshold)

        @contextmanager
        def around(step: int, fusion: _Fusion = fusion) -> Iterator[None]:
            done = step / sampling.steps
            fusion.start_step(fuses_cross=done < cross_share, fuses_self=done < self_share)
            if done < max(cross_share, self_share):
                with attend(fusion.keep):
                    pipe.unet(shown[timesteps[step]], timesteps[step], source_text)
            with attend(fusion.fuse):
                yield

        yield sample(pipe, noise, prompt, sampling, around=around)


def align(tokenizer, caption: str, prompt: str) -> tuple[list[int], list[int], list[int]]:
    """Places of the tokens that two texts share, in the first and in the second, and of the first one's others.

    Start, end and padding are shared; the latter never counts among the others.
    """
    old, new = (tokenizer(text, truncation=True).input_ids for text in (caption, prompt))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    shared = [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
    replaced = sorted(set(range(len(old))) - {place for place, _ in shared})
    length = tokenizer.model_max_length
    shared += zip(range(len(old), length), range(len(new), length), strict=False)
    return *map(list, zip(*shared, strict=True)), replaced


def _own_and_middle(x: Tensor) -> Tensor:
    """Keys or values b f n c -> those of the frame itself and the middle one, b f 2n c."""
    middle = x[:, (x.shape[1] - 1) // 2, None].expand_as(x)
    return torch.cat([x, middle], dim=2)


class _Fusion:
    """The source's attention maps of one step, and what they change in those of the edit."""

    def __init__(self, tokenizer, caption: str, prompt: str, size: tuple[int, int], threshold: float):
        self.in_source, self.in_edit, self.replaced = align(tokenizer, caption, prompt)
        self.size, self.threshold = size, threshold
        self.start_step(fuses_cross=False, fuses_self=False)

    def start_step(self, fuses_cross: bool, fuses_self: bool) -> None:
        """Forgets the maps of the step before; says which kinds are fused in this one."""
        self.kept: dict[Attention, Tensor] = {}
        self.cross: list[Attention] = []
        self.fuses = {True: fuses_self, False: fuses_cross}

    def keep(self, attn: Attention, maps: Tensor, is_self: bool) -> Tensor:
        if not is_self:
            self.cross.append(attn)
        self.kept[attn] = maps.cpu()
        return maps

    def fuse(self, attn: Attention, maps: Tensor, is_self: bool) -> Tensor:
        if not self.fuses[is_self]:
            return maps
        source = self.kept[attn].to(maps.device)
        edited = maps[-len(source) :]
        if is_self:
            fused = torch.where(self.mask(maps.shape[1], attn.heads).to(maps.device), edited, source)
        else:
            fused = edited.clone()
            fused[..., self.in_edit] = source[..., self.in_source]
        return torch.cat([maps[: -len(source)], fused])

    def mask(self, tokens: int, heads: int) -> Tensor:
        """M at this step for self-attention over `tokens`: (f h) n 1, True where the edit's own attention stays."""
        if not self.replaced:
            return torch.tensor(False)
        seen = []
        for attn in self.cross:
            words = self.kept[attn][..., self.replaced].sum(-1)
            h, w = _grid(words.shape[1], self.size)
            seen.append(rearrange(words, "(f e) (h w) -> f e h w", e=attn.heads, h=h, w=w).mean(1, keepdim=True))
        finest = max((x.shape[-2:] for x in seen), key=math.prod)
        mean = torch.stack([F.interpolate(x, finest, mode="bilinear") for x in seen]).mean(0)
        mean = F.interpolate(F.max_pool2d(mean, 3, 1, 1), _grid(tokens, self.size))
        mask = mean / mean.amax((2, 3), keepdim=True) > self.threshold
        return rearrange(mask, "f 1 h w -> f (h w) 1").repeat_interleave(heads, dim=0)


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a level of the UNet, each of which halves the latents' size and rounds up."""
    h, w = size
    while h * w > tokens:
        h, w = math.ceil(h / 2), math.ceil(w / 2)
    return h, w
