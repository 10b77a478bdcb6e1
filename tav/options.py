"""What neither the paper nor the released code has: both from the earlier implementation of bryandlee.

* convolution over time: after each 3x3 convolution one over three frames, tuned as well;
* prior preservation: while tuning, the first frame's prediction is held near the image model's of that frame alone.
"""

import re

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn


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
