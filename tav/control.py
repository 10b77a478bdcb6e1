"""ControlNets and T2I-Adapters over a clip: made for an image model, used on its inflated, tuned UNet as they are."""

from pathlib import Path

import torch
from diffusers import ControlNetModel, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, T2IAdapter
from torch import Tensor

from tav.errors import InputError, loading


def load_control(model: str | Path, pipe) -> ControlNetModel | T2IAdapter:
    """A ControlNet or T2I-Adapter, a folder or a Hub id in diffusers format, on `pipe`'s device and in its dtype.

    Raises InputError with one line if it cannot be had or is made for another UNet, such as SD 2's for SD 1's.
    """
    with loading(model, "name a ControlNet or a T2I-Adapter"):
        kinds = {"ControlNetModel": ControlNetModel, "T2IAdapter": T2IAdapter}
        kind = kinds[ControlNetModel.load_config(model)["_class_name"]]
        control, info = kind.from_pretrained(model, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} weights are missing")
    config, unet = control.config, pipe.unet.config
    widths, text = list(config.get("block_out_channels") or config["channels"]), unet.cross_attention_dim
    for what, has, needs in (
        ("a UNet of widths", widths, list(unet.block_out_channels)),
        ("text of width", config.get("cross_attention_dim", text), text),
    ):
        if has != needs:
            raise InputError(f"{model} is made for {what} {has}, not {needs}: use one that is made for this model")
    return control.to(pipe.device, pipe.unet.dtype)


@torch.no_grad()
def sample_controlled(
    pipe, control, condition, prompt, noise, steps, guidance_scale=12.5, negative_prompt="", scale=1.0
) -> Tensor:
    """Sample a prompt's clip from noise f c h w under a condition f 3 h w in [0, 1]: f 3 h w in [0, 1].

    By the stock diffusers pipelines on `pipe.components`: a frame is a picture of the batch, and has its own picture of
    the condition, grey if the control sees one channel only, as T2I-Adapter's canny does. `scale` is that of what the
    control adds; at 0 the clip is the one that `pipe` alone draws.
    """
    role, stock = "controlnet", StableDiffusionControlNetPipeline
    if isinstance(control, T2IAdapter):
        role, stock = "adapter", StableDiffusionAdapterPipeline
        condition = condition.mean(1, keepdim=True) if control.config.in_channels == 1 else condition
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
