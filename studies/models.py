"""The models of params.yaml, loaded, tuned with a progress bar, and their tuned weights in and out."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers.utils import logging

from studies.machine import bars, chosen_device
from studies.settings import Inflate, Params, Tune
from studies.stopping import until
from tav.checkpoint import load_tuned, read_safetensors, save_tuned
from tav.errors import check_finite
from tav.pipeline import TuneAVideoPipeline, load_pipeline
from tav.tune import tune

DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_model(params: Params) -> TuneAVideoPipeline:
    """The inflated model on its device, set up to give the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    logging.disable_progress_bar()  # what is worth a line, such as a caption that is cut, tav says itself
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    device = chosen_device(params)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # 3 % of a step, for memory that nothing reads
    settings = params.inflate.model_dump() | {"seed": params.tune.seed, "lora": params.lora}
    settings |= {"frames_at_once": params.memory.attention_frames, "dtype": DTYPES[params.memory.dtype]}
    pipe = load_pipeline(params.model, params.clip.num_frames, **settings)
    pipe.vae_frames = params.memory.vae_frames
    (pipe.unet if params.memory.offload else pipe).to(device)
    pipe.unet.to(memory_format=torch.channels_last)  # a tuning step is 8 % faster with it (benchmarks/results)
    if params.compile:
        pipe.unet.compile_repeated_blocks()
    return pipe


def load_image_model(params: Params) -> TuneAVideoPipeline:
    """The model as it is before it is inflated, which is what peer methods start from."""
    image_model = Inflate(norm="frame", attention="own", temporal=False, temporal_conv=False)
    return load_model(params.model_copy(update={"inflate": image_model}))


def tune_with_progress(
    pipe: TuneAVideoPipeline,
    posterior: DiagonalGaussianDistribution,
    caption: str,
    settings: Tune,
    state: Path | None = None,
    ended: Callable[[], bool] | None = None,
    look: Callable[[int], None] | None = None,
) -> list[tuple[int, float]]:
    """Tunes `pipe` on a clip's posterior with a progress bar; returns (step, loss).

    state: see `tav.tune.tune`. ended: asked now and then whether to end before settings.steps, see `studies.stopping`.
    look: called after every step with its number.
    """
    steps = tune(pipe, posterior, caption, state=state, **settings.arguments())
    if ended:
        steps = until(ended, steps)
    losses = []
    with tqdm(steps, f"tune: {caption}", settings.steps, **bars()) as bar:
        for step, loss in bar:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            losses.append((step, loss))
            if look:
                look(step)
    return losses


def save_weights(pipe: TuneAVideoPipeline, path: Path, whole: bool) -> None:
    """Writes the tuned weights, or with `whole` all of the UNet's."""
    if whole:
        save_tensors(path, **dict(pipe.unet.named_parameters()))
    else:
        save_tuned(pipe, path)


def load_weights(pipe: TuneAVideoPipeline, path: Path, whole: bool) -> None:
    """Puts what `save_weights` wrote into `pipe`."""
    if whole:
        pipe.unet.load_state_dict(read_safetensors(path))
    else:
        load_tuned(pipe, path)


def save_tensors(path: Path, **tensors: Tensor) -> None:
    """Writes tensors by their names as a safetensors file; NumericalError, and no file, if one is not finite."""
    check_finite(f"{path.name} of a clip", tensors.values())
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


def scheduler(of_model: Mapping, solver: str) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """What samples and inverts by a solver, from the config of the model's own scheduler."""
    if solver == "dpm":  # with its own spacing: DDIM's few steps begin where the noise is not whole yet
        return DPMSolverMultistepScheduler.from_config(of_model, timestep_spacing="linspace")
    return DDIMScheduler.from_config(of_model)


def label(pipe: TuneAVideoPipeline, text: str) -> None:
    """What the progress bars of `pipe` say from now on."""
    pipe.set_progress_bar_config(desc=text, **bars())
