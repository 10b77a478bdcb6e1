"""Plug-and-Play: features and self-attention of the source, put into the edit while it is sampled."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack

from diffusers import UNet2DConditionModel
from torch import Tensor

from peers._attention import decoder_layers, output_hooks
from peers._ddim import Sampling, encode, invert, noise_of, sample
from peers._settings import Layer, Share
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
    feature_share: Share = 0.8,
    attention_share: Share = 0.5,
    layer: Layer | None = None,
) -> Iterator[Tensor]:
    """Sample every frame from its inverted noise under `injection` of the source's trajectory. Nothing is random.

    Tumanyan et al., Plug-and-Play Diffusion Features, arXiv 2211.12572, algorithm 1: the residual features f of
    decoder layer 4 and the self-attention, its queries and keys, of layers 4 to 11 are the source's while t is above
    tau_f and tau_A, for the edit and for the negative prompt alike. As in the authors' code for diffusers, the source's
    latents are those of the inversion at the same timestep, not sampled anew from its noise.

    Not as in the original: as many inversion steps as sampling steps (there 1000), no schedule for a negative prompt
    that describes the source.

    captioned_inversion: the source is seen with its caption, not with the empty prompt (the original).
    feature_share, attention_share, layer: see `injection`.
    """
    source_prompt = caption if captioned_inversion else ""
    source = invert(pipe, encode(pipe, clip), sampling.steps, source_prompt)

    def around(step: int) -> AbstractContextManager:
        return injection(pipe.unet, step / sampling.steps, feature_share, attention_share, layer)

    for prompt in prompts:
        yield sample(pipe, noise_of(source), prompt, sampling, 0, source, source_prompt, around)


def injection(
    unet: UNet2DConditionModel, done: float, feature_share: float, attention_share: float, layer: int | None = None
) -> AbstractContextManager:
    """Give every clip of the UNet's batch the features, queries and keys of the first one, the source.

    done: the share of the steps before this one. Features are injected while it is below feature_share, queries and
        keys while it is below attention_share.
    layer: the decoder's layer, from 0, of the features and of the first self-attention; None is the one a third of the
        way up, which is the paper's layer 4 of Stable Diffusion's 12.
    Raises InputError if there is no such layer.
    """
    layers = decoder_layers(unet)
    layer = len(layers) // 3 if layer is None else layer
    if not 0 <= layer < len(layers):
        raise InputError(f"layer is {layer}: the decoder has the layers 0 to {len(layers) - 1}")

    def of_source(output: Tensor) -> Tensor:
        return output[: unet.num_frames].repeat(len(output) // unet.num_frames, *[1] * (output.ndim - 1))

    stack = ExitStack()
    if done < feature_share:  # conv2: what the residual block adds to its input
        stack.enter_context(output_hooks([layers[layer][0].conv2], of_source))
    if done < attention_share:
        attentions = [attention for _, attentions in layers[layer:] for attention in attentions]
        stack.enter_context(output_hooks([m for a in attentions for m in (a.to_q, a.to_k)], of_source))
    return stack
