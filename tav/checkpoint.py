"""Weights in and out: tuned-only files, UNets of image models and of released Tune-A-Video checkpoints, LoRA files."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tav.errors import InputError, check_finite, loading, one_line
from tav.model import ADDED, tuned_parameters

WEIGHTS = [  # as the Hub has them: whole or in shards, in float32 or only in half precision, new or old
    f"diffusion_pytorch_model.{end}"
    for end in ("safetensors", "safetensors.index.json", "fp16.safetensors", "safetensors.index.fp16.json", "bin")
]


def save_tuned(pipe, path: str | Path) -> None:
    """Write the tuned parameters of `pipe.unet`, under their released names, to a safetensors file.

    Raises NumericalError, and writes nothing, if one is not finite.
    """
    tensors = {name: p.detach().cpu().contiguous() for name, p in tuned_parameters(pipe.unet).items()}
    check_finite("a tuned weight", tensors.values())
    save_file(tensors, path, metadata={"format": "pt"})


def load_tuned(pipe, path: str | Path) -> None:
    """Put tuned parameters written by `save_tuned` into `pipe.unet`.

    Raises InputError if the file cannot be read or belongs to another model or inflation.
    """
    tensors = _read_tuned(pipe, path)
    with torch.no_grad():
        for name, parameter in tuned_parameters(pipe.unet).items():
            parameter.copy_(tensors[name])


def merge_tuned(pipe, scales: Mapping[str | Path, float]) -> None:
    """Add what was tuned, as the difference from `pipe.unet` as it is now, of several files, each at a scale.

    scales: path -> scale. One file at 1 is `load_tuned`, at 0.5 half of what was learnt; of two clips' weights each
    adds its own. Only a difference from the same untuned model means something: load it anew before merging again.
    Raises InputError as `load_tuned` does, before anything is changed.
    """
    files = [(_read_tuned(pipe, path), scale) for path, scale in scales.items()]
    with torch.no_grad():
        for name, parameter in tuned_parameters(pipe.unet).items():
            changes = [scale * (tensors[name].to(parameter) - parameter) for tensors, scale in files]
            parameter.add_(sum(changes))


def _read_tuned(pipe, path: str | Path) -> dict[str, Tensor]:
    tensors = read_safetensors(path)
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in tuned_parameters(pipe.unet).items()}:
        raise InputError(f"{path} was tuned on another model or inflation: tune the clip again with this one")
    return tensors


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; InputError if it is missing or broken."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path} ({error}): write or fetch it again") from error


def read_unet(model: str | Path, dtype: torch.dtype = torch.float32) -> tuple[UNet2DConditionModel, dict[str, Tensor]]:
    """The image UNet of a folder or a Hub id, and the weights {name: tensor} that it has no place for until inflated.

    Image models bring none of these. Released Tune-A-Video checkpoints (class UNet3DConditionModel, blocks named ...3D)
    and pipelines saved after tuning bring those of T-Attn, under the same names.
    """
    config = {k: _image_name(v) for k, v in UNet2DConditionModel.load_config(model, subfolder="unet").items()}
    # Copies: what is read is mapped from its files, whose pages would stay in memory beside every changed layout.
    weights = {name: tensor.to(dtype, copy=True) for name, tensor in _read_unet_weights(model).items()}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    try:
        unet.load_state_dict({n: t for n, t in weights.items() if not ADDED.search(n)}, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"the UNet weights of {model} do not fit their config ({one_line(error)}): fetch both again"
        ) from error
    return unet.eval(), {n: t for n, t in weights.items() if ADDED.search(n)}


def merge_lora(pipe: StableDiffusionPipeline, lora: str | Path) -> None:
    """Add a LoRA's change to the image model's weights, in place: those of the UNet and, if it has some, of the text.

    lora: a safetensors file, or a folder or Hub id that holds one, in the format of diffusers or of kohya.
    Raises InputError if it cannot be had, is a pickle or was made for another model.
    """
    with loading(f"the LoRA {lora}", "give a safetensors file or a Hub id that was made for this model"):
        if Path(lora).is_file() and Path(lora).suffix != ".safetensors":
            raise ValueError("it is no safetensors file")
        state, _ = pipe.lora_state_dict(lora, use_safetensors=True, unet_config=pipe.unet.config)
        pipe.load_lora_weights(lora, use_safetensors=True)
        parts = pipe.unet, pipe.text_encoder
        taken = sum(".lora_" in name for part in parts for name, _ in part.named_parameters())
        wanted = sum(".alpha" not in name for name in state)
        if not 0 < taken == wanted:
            raise ValueError(f"{taken} of its {wanted} matrices fit")
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def _image_name(value):
    """The image block's name for a released block's name, inside a config value: CrossAttnDownBlock3D -> ...2D."""
    if isinstance(value, str):
        return value.replace("Block3D", "Block2D")
    return [_image_name(item) for item in value] if isinstance(value, list | tuple) else value


def _read_unet_weights(model: str | Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if not (path := _unet_file(model, name)):
            continue
        if path.suffix == ".json":
            shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
            if strange := [shard for shard in shards if Path(shard).name != shard]:
                raise InputError(f"{path} names a file outside of its folder ({strange[0]}): fetch the model again")
            files = [_unet_file(model, shard) or path.with_name(shard) for shard in shards]
            return {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
        # weights_only: an old .bin file is a pickle, and only its tensors are wanted.
        return read_safetensors(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    raise InputError(f"{model} has no {' or '.join(WEIGHTS)} in unet/: fetch the model again, in diffusers format")


def _unet_file(model: str | Path, name: str) -> Path | None:
    """A file of a model's unet/, fetched if the model is a Hub id; None if there is none of that name."""
    if Path(model).is_dir():
        path = Path(model, "unet", name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(model), f"unet/{name}"))
    except EntryNotFoundError:
        return None
