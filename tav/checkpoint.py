"""Weights in and out: tuned-only files, and UNets of image models and of released Tune-A-Video checkpoints."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tav.errors import InputError
from tav.model import ADDED, inflate, tuned_parameters

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def save_tuned(pipe, path: str | Path) -> None:
    """Write the tuned parameters of `pipe.unet`, under their released names, to a safetensors file."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in tuned_parameters(pipe.unet).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def load_tuned(pipe, path: str | Path) -> None:
    """Put tuned parameters written by `save_tuned` into `pipe.unet`.

    Raises InputError if the file cannot be read or belongs to another model or inflation.
    """
    tensors = read_safetensors(path)
    parameters = tuned_parameters(pipe.unet)
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in parameters.items()}:
        raise InputError(f"{path} was tuned on another model or inflation: tune the clip again with this one")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; InputError if it is missing or broken."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path} ({error}): write or fetch it again") from error


def load_unet(model: str | Path, dtype: torch.dtype = torch.float32, **inflation) -> UNet2DConditionModel:
    """An inflated UNet from a folder or a Hub id; `inflation` goes to `inflate`.

    Image models bring weights for everything but T-Attn. Released Tune-A-Video checkpoints (class UNet3DConditionModel,
    blocks named ...3D) and pipelines saved after tuning bring those of T-Attn as well, under the same names.
    """
    config = {k: _image_name(v) for k, v in UNet2DConditionModel.load_config(model, subfolder="unet").items()}
    weights = {name: tensor.to(dtype) for name, tensor in _read_unet_weights(model).items()}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    try:
        unet.load_state_dict({n: t for n, t in weights.items() if not ADDED.search(n)}, assign=True)
        inflate(unet.eval(), **inflation)
        added = {n: t for n, t in weights.items() if ADDED.search(n)}
        if added and inflation.get("temporal", True):
            unet.load_state_dict(added | {n: t for n, t in unet.state_dict().items() if n not in added})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the UNet weights of {model} do not fit their config ({reason}...): fetch both again"
        ) from error
    return unet


def _image_name(value):
    """The image block's name for a released block's name, inside a config value: CrossAttnDownBlock3D -> ...2D."""
    if isinstance(value, str):
        return value.replace("Block3D", "Block2D")
    return [_image_name(item) for item in value] if isinstance(value, list | tuple) else value


def _read_unet_weights(model: str | Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        path = Path(model, "unet", name)
        if not Path(model).is_dir():
            try:
                path = Path(hf_hub_download(str(model), f"unet/{name}"))
            except EntryNotFoundError:
                continue
        if path.is_file():
            # weights_only: an old .bin file is a pickle, and only its tensors are wanted.
            return read_safetensors(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    raise InputError(f"{model} has no {' or '.join(WEIGHTS)} in unet/: fetch the model again, in diffusers format")
