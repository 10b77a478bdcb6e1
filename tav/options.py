"""What neither the paper nor the released code has; the first two are from the earlier implementation of bryandlee.

* convolution over time: after each 3x3 convolution one over three frames, tuned as well;
* prior preservation: while tuning, the first frame's prediction is held near the image model's of that frame alone;
* recomputing: backward keeps less of the forward pass, with the same gradients to the bit.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.utils.checkpoint import checkpoint

RECOMPUTE = ("none", "lean", "feed-forward", "full")
again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # nothing in a UNet is drawn at random


def add_temporal_convolutions(unet: UNet2DConditionModel, num_frames: int) -> None:
    """Puts a convolution over time, which starts as the exact identity, after each convolution that is not 1x1."""
    spatial = [module for module in unet.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    for conv in spatial:
        _add_temporal_convolution(conv, num_frames)


def _add_temporal_convolution(conv: nn.Conv2d, num_frames: int) -> None:
    width, weight = conv.out_channels, conv.weight
    conv.conv_temporal = nn.Conv1d(width, width, 3, padding=1, device=weight.device, dtype=weight.dtype)
    nn.init.dirac_(conv.conv_temporal.weight)  # the identity
    nn.init.zeros_(conv.conv_temporal.bias)
    conv.num_frames = num_frames
    conv.register_forward_hook(_convolve_over_time)


def _convolve_over_time(conv: nn.Conv2d, _inputs, x: Tensor) -> Tensor:
    """Convolution over the frames at each position, after a convolution of each frame."""
    height, width = x.shape[-2:]
    x = rearrange(x, "(b f) c h w -> (b h w) c f", f=conv.num_frames)
    return rearrange(conv.conv_temporal(x), "(b h w) c f -> (b f) c h w", h=height, w=width)


def image_model(unet: UNet2DConditionModel, added: re.Pattern) -> UNet2DConditionModel:
    """The image model that an inflated UNet was made from, frozen; weights that require no gradient are shared.

    added: matches the names of the parameters that inflation added.
    """
    with torch.device("meta"):
        image = UNet2DConditionModel.from_config(unet.config)
    image.load_state_dict(
        {
            name: parameter.detach().clone() if parameter.requires_grad else parameter.detach()
            for name, parameter in unet.named_parameters()
            if not added.search(name)
        },
        assign=True,
    )
    return image.eval().requires_grad_(False)


def prior_loss(image: UNet2DConditionModel, predicted: Tensor, noisy: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the first frame's prediction, f c h w, from the image model's of that frame alone."""
    with torch.no_grad():
        alone = image(noisy[:1], timestep, text).sample
    return F.mse_loss(predicted[:1].float(), alone.float())


@contextmanager
def recomputing(unet: UNet2DConditionModel, what: str) -> Iterator[None]:
    """Has backward keep less of `unet`'s forward pass for a while; every step's gradients stay the same to the bit.

    what: "lean": frozen convolutions keep no input; GroupNorm with SiLU, and GEGLU's gate, which cost little, are
        computed again. "feed-forward": the feed-forward layers as well. "full": whole blocks, as diffusers'
        gradient checkpointing does, and "lean" within them. "none": nothing.
    """
    forwards = {} if what == "none" else dict(_lean_forwards(unet, whole_feed_forward=what == "feed-forward"))
    for module, forward in forwards.items():
        module.forward = forward
    if what == "full":
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
        for module in forwards:
            del module.forward  # the class's is there again


def _lean_forwards(unet: UNet2DConditionModel, whole_feed_forward: bool) -> Iterator[tuple[nn.Module, Callable]]:
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and not any(part.requires_grad for part in module.parameters()):
            yield module, partial(_convolve_frozen, module)
        elif isinstance(module, ResnetBlock2D):
            for norm in (module.norm1, module.norm2):
                yield norm, partial(again, partial(_normalize_and_activate, norm.forward))
            yield module.nonlinearity, _activate_time
        elif isinstance(module, GEGLU):
            yield module, partial(_gate_again, module)
        elif isinstance(module, FeedForward) and whole_feed_forward:
            yield module, partial(again, module.forward)


def _normalize_and_activate(normalize: Callable, x: Tensor) -> Tensor:
    return F.silu(normalize(x))


def _activate_time(x: Tensor) -> Tensor:
    """A residual block's SiLU: pictures, which have four dimensions, have passed it with their norm."""
    return x if x.ndim == 4 else F.silu(x)


def _gate_again(module: GEGLU, x: Tensor) -> Tensor:
    return again(_gate, module, module.proj(x))


def _gate(module: GEGLU, projected: Tensor) -> Tensor:
    hidden, gate = projected.chunk(2, dim=-1)
    return hidden * module.gelu(gate)


def _convolve_frozen(conv: nn.Conv2d, x: Tensor) -> Tensor:
    tensors = x, conv.weight, conv.bias
    if torch.is_autocast_enabled(x.device.type):  # which does not reach into backward
        half = torch.get_autocast_dtype(x.device.type)
        tensors = tuple(tensor if tensor is None else tensor.to(half) for tensor in tensors)
    return _FrozenConvolution.apply(*tensors, conv.stride, conv.padding, conv.dilation, conv.groups)


class _FrozenConvolution(torch.autograd.Function):
    """A convolution whose weights need no gradient, so that backward needs no input (torch's own keeps it)."""

    @staticmethod
    def forward(ctx, x, weight, bias, *settings):
        ctx.save_for_backward(weight)
        ctx.shape, ctx.settings = x.shape, settings
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.shape, weight, gradient, *ctx.settings), *[None] * 6
