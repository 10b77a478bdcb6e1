"""ControlNets and T2I-Adapters over a clip: made for an image model, used on its inflated, tuned UNet as they are."""

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, T2IAdapter
from einops import rearrange, repeat
from torch import Tensor

from tav.errors import InputError
from tav.truth import Truth

KINDS = ("edges", "mask", "pose")
HEAD, HAND, CENTRE = (255, 60, 60), (60, 220, 60), (90, 120, 255)  # colours of the keypoints and of their limbs


def draw_edges(picture: np.ndarray) -> np.ndarray:
    """Canny's edges of a picture, (h, w, 3) uint8 -> (h, w) of 0 and 255; thresholds 100 and 200 as in ControlNet."""
    return cv2.Canny(picture, 100, 200)


def draw_pose(things, size: int = 64) -> np.ndarray:
    """Keypoints of things (centre x, y, longer side, angle; see `Truth`): (size, size, 3) uint8 on black.

    A red limb goes from the centre half the longer side up, a green one half of it to the right, both turned by the
    angle, so that a map tells place, size and which way is up. Later things are drawn over earlier ones.
    """
    drawn = np.zeros((size, size, 3), np.uint8)
    for x, y, side, angle in things:
        across, down = np.cos(np.radians(angle)) * side / 2, np.sin(np.radians(angle)) * side / 2
        points = np.array([(x, y), (x + down, y - across), (x + across, y + down)])
        centre, head, hand = (tuple(map(int, point)) for point in np.round((points * size - 0.5) * 16))
        for end, colour in ((head, HEAD), (hand, HAND)):
            cv2.line(drawn, centre, end, colour, 2, cv2.LINE_AA, 4)
            cv2.circle(drawn, end, 2 * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
        cv2.circle(drawn, centre, 2 * 16, CENTRE, cv2.FILLED, cv2.LINE_AA, 4)
    return drawn


def edges(frames: Tensor) -> Tensor:
    """White edges of frames f 3 h w in [0, 1]: f 3 h w in [0, 1]."""
    pictures = rearrange((frames * 255).round().byte().cpu(), "f c h w -> f h w c").contiguous().numpy()
    drawn = np.stack([draw_edges(picture) for picture in pictures])
    return repeat(torch.from_numpy(drawn) / 255, "f h w -> f c h w", c=3)


def mask(truth: Truth) -> Tensor:
    """White where a thing is: f 3 h w in [0, 1]."""
    return repeat(truth.mask.float(), "f h w -> f c h w", c=3)


def pose(truth: Truth) -> Tensor:
    """The keypoints of every frame's things: f 3 h w in [0, 1]."""
    drawn = np.stack([draw_pose(things, truth.mask.shape[-1]) for things in truth.things.tolist()])
    return rearrange(torch.from_numpy(drawn) / 255, "f h w c -> f c h w")


def condition(kind: str, frames: Tensor, truth: Truth | None) -> Tensor:
    """What a control of this kind is shown of a clip's frames f 3 h w in [0, 1]: f 3 h w in [0, 1]."""
    if kind not in KINDS:
        raise InputError(f"there is no control of kind {kind}: use {', '.join(KINDS)} in params.yaml")
    if kind == "edges":
        return edges(frames)
    if truth is None:
        raise InputError(f"a {kind} is drawn from a clip's truth, and this clip has none beside it: use edges")
    return mask(truth) if kind == "mask" else pose(truth)


def load_control(model: str | Path, pipe) -> ControlNetModel | T2IAdapter:
    """A ControlNet or T2I-Adapter, a folder or a Hub id in diffusers format, on `pipe`'s device and in its dtype.

    Raises InputError with one line if it cannot be had or is made for another UNet.
    """
    try:
        kinds = {"ControlNetModel": ControlNetModel, "T2IAdapter": T2IAdapter}
        kind = kinds[ControlNetModel.load_config(model)["_class_name"]]
        control, info = kind.from_pretrained(model, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} weights are missing")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot load {model} ({reason}): give a ControlNet's or T2I-Adapter's folder") from error
    widths = list(control.config.get("block_out_channels") or control.config["channels"])
    if widths != list(pipe.unet.config.block_out_channels):
        raise InputError(f"{model} is made for a UNet of widths {widths}: use one that is made for this model")
    return control.to(pipe.device, pipe.unet.dtype)


@torch.no_grad()
def sample_controlled(
    pipe, control, condition, prompt, noise, steps, guidance_scale=12.5, negative_prompt="", scale=1.0
) -> Tensor:
    """Sample a prompt's clip from noise f c h w under a condition f 3 h w in [0, 1]: f 3 h w in [0, 1].

    By the stock diffusers pipelines on `pipe.components`: a frame is a picture of the batch, and has its own picture of
    the condition. `scale` is that of what the control adds; at 0 the clip is the one that `pipe` alone draws.
    """
    role, stock = "controlnet", StableDiffusionControlNetPipeline
    if isinstance(control, T2IAdapter):
        role, stock = "adapter", StableDiffusionAdapterPipeline
    parts = pipe.components | {"scheduler": pipe.scheduler.from_config(pipe.scheduler.config), role: control}
    sampler = stock(**parts, requires_safety_checker=False)
    sampler.progress_bar = pipe.progress_bar
    text, negative = pipe.embed([prompt], [negative_prompt] if guidance_scale > 1 else None)
    inputs = {"image": condition, "latents": noise, "prompt_embeds": text.expand(len(noise), -1, -1)}
    if negative is not None:
        inputs["negative_prompt_embeds"] = negative.expand(len(noise), -1, -1)
    inputs = {name: tensor.to(pipe.device, pipe.unet.dtype) for name, tensor in inputs.items()}
    settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale, f"{role}_conditioning_scale": scale}
    return pipe.decode_clip(sampler(**inputs, **settings, output_type="latent").images)
