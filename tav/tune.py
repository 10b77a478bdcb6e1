"""One-shot tuning (paper 3.3): an inflated image model learns the motion of one clip."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tav.errors import InputError, NumericalError, loading
from tav.model import ADDED, tuned_parameters
from tav.options import RECOMPUTE, image_model, prior_loss, recomputing
from tav.pipeline import TuneAVideoPipeline

MIXED_PRECISION = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
TUNED = {  # which of the parameters that the paper tunes are trained
    "paper": lambda name: True,
    "queries": lambda name: "_temp" not in name,
    "temporal": lambda name: "_temp" in name,
    "everything": lambda name: True,
}
Draw = tuple[Tensor | None, Tensor, Tensor | int]


def tune(
    pipe: TuneAVideoPipeline,
    clip: Tensor | DiagonalGaussianDistribution,
    caption: str,
    steps: int = 500,
    learning_rate: float = 3e-5,
    seed: int = 33,
    tuned: str = "paper",
    tune_down_blocks: bool = True,
    gradient_checkpointing: bool = False,
    mixed_precision: str = "no",
    prior_preservation: float = 0.0,
    recompute: str = "lean",
    draws: Iterable[Draw] | None = None,
    state: str | Path | None = None,
    save_every: int = 50,
) -> Iterator[tuple[int, float]]:
    """Tune `tuned_parameters(pipe.unet)` in place on one captioned clip; yields (step from 1, loss).

    The loss is the noise-prediction (or v-prediction) error of the clip under fresh random noise, with one random
    timestep for all frames (paper 3.1). The clip is encoded once; each step samples its posterior anew (released
    behaviour). AdamW and its settings are those of the released code.

    clip: f 3 h w in [-1, 1], or its posterior from `pipe.encode_posterior`.
    tuned: "paper" trains all of `tuned_parameters`, "queries" and "temporal" (T-Attn) a part of them; "everything" the
        image weights as well, which `save_tuned` does not keep.
    tune_down_blocks: False leaves the down blocks as they are, which the released code does by accident: its re-entrant
        checkpointing cuts their gradients.
    recompute: what backward computes again instead of keeping, with the same result: "none", "lean" (which costs no
        time), "feed-forward" or "full", see `tav.options.recomputing`. gradient_checkpointing=True is "full".
    mixed_precision: "no", "fp16" or "bf16"; the tuned weights and the optimizer stay in float32.
    prior_preservation: weight of a second loss, from bryandlee's implementation: how far the prediction of the first
        frame is from the image model's, before tuning, of that frame alone. In [0, inf); 0 does without.
    draws: (posterior noise or None for the posterior's mode, noise, timestep) per step instead of the seeded draws.
    state: a file that is written every `save_every` steps and resumed from if it exists. A resumed run first yields the
        recorded losses and ends with the same bytes as one that was never stopped.
    Raises InputError for a clip of another length, a state of another run or of more steps, NumericalError for a loss
    that is not finite.
    """
    if mixed_precision not in MIXED_PRECISION:
        raise InputError(f"mixed_precision is {mixed_precision!r}: use one of {', '.join(MIXED_PRECISION)}")
    if recompute not in RECOMPUTE:
        raise InputError(f"recompute is {recompute!r}: use one of {', '.join(RECOMPUTE)}")
    half, dtype, device = MIXED_PRECISION[mixed_precision], pipe.unet.dtype, pipe.device
    if half is None and dtype != torch.float32:
        raise InputError(
            f"the model is loaded as {dtype}: tune with mixed_precision fp16 or bf16, or load it as float32"
        )

    posterior = clip if isinstance(clip, DiagonalGaussianDistribution) else pipe.encode_posterior(clip)
    text = pipe.embed([caption])[0].expand(pipe.num_frames, -1, -1)  # one tensor for all steps, see `tav.caption`
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(seed)
    if tuned not in TUNED:
        raise InputError(f"tuned is {tuned!r}: use one of {', '.join(TUNED)}")
    parameters = tuned_parameters(pipe.unet)
    trained = {
        name: parameter
        for name, parameter in (pipe.unet.named_parameters() if tuned == "everything" else parameters.items())
        if (tune_down_blocks or not name.startswith("down_blocks.")) and TUNED[tuned](name)
    }
    if not trained:
        raise InputError(f"tuned is {tuned!r}, of which this model has nothing: choose another, or inflate with T-Attn")
    run = _Run(trained, learning_rate, generator, torch.amp.GradScaler(device.type, enabled=half is torch.float16))
    settings = {"caption": caption, "learning_rate": learning_rate, "seed": seed, "mixed_precision": mixed_precision}
    settings |= {"prior_preservation": prior_preservation, "clip": _digest(posterior.parameters)}

    for name, parameter in pipe.unet.named_parameters():
        parameter.requires_grad_(name in trained)
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    prior = (prior_preservation, image_model(pipe.unet, ADDED)) if prior_preservation else None
    try:
        with recomputing(pipe.unet, "full" if gradient_checkpointing else recompute):
            if state and Path(state).exists():
                with loading(state, "delete it to start from the beginning"):
                    run.resume(Path(state), settings)
                if len(run.losses) > steps:
                    raise InputError(f"{state} has {len(run.losses)} steps behind it and {steps} are wanted: delete it")
            yield from enumerate(run.losses, start=1)
            if draws is None:
                draws = _random_draws(posterior.mean.shape, noise_scheduler.config.num_train_timesteps, generator)
            else:
                draws = islice(draws, len(run.losses), None)
            for step, draw in zip(range(len(run.losses) + 1, steps + 1), draws, strict=False):
                with torch.autocast(device.type, dtype=half, enabled=half is not None):
                    loss = _loss(pipe, posterior, text, noise_scheduler, prior, *draw)
                run.losses.append(loss.item())
                if not math.isfinite(run.losses[-1]):
                    raise NumericalError(
                        f"the loss of step {step} is {run.losses[-1]}: lower the learning rate ({learning_rate:g})"
                        f"{' or use bf16' if half is torch.float16 else ''}"
                    )
                run.step(loss)
                if state and step % save_every == 0:
                    run.save(Path(state), settings)
                yield step, run.losses[-1]
    finally:
        for parameter in trained.values():
            parameter.grad, parameter.data = None, parameter.data.to(dtype)
        for name, parameter in pipe.unet.named_parameters():
            parameter.requires_grad_(name in parameters)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().float().numpy().tobytes()).hexdigest()


def _random_draws(shape: torch.Size, timesteps: int, generator: torch.Generator) -> Iterator[Draw]:
    """Drawn on the CPU, so that a seed means the same run on every device."""
    while True:
        posterior_noise, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        yield posterior_noise, noise, torch.randint(timesteps, (1,), generator=generator)


def _loss(pipe, posterior, text, noise_scheduler, prior, posterior_noise, noise, timestep) -> Tensor:
    """Mean squared error of the prediction for one draw; noise f c h w. `prior`: a weight and the image model."""
    latents = posterior.mode()
    if posterior_noise is not None:
        latents = latents + posterior.std * posterior_noise.to(latents)
    latents = pipe.scale(latents).float()
    noise = noise.to(latents)
    timestep = torch.as_tensor(timestep, device=latents.device).reshape(1)
    noisy = noise_scheduler.add_noise(latents, noise, timestep)
    if noise_scheduler.config.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(latents, noise, timestep)
    else:
        target = noise
    predicted = pipe.unet(noisy, timestep, text).sample
    loss = F.mse_loss(predicted.float(), target.float())
    if prior:
        weight, image = prior
        loss = loss + weight * prior_loss(image, predicted, noisy, timestep, text[:1])
    return loss


class _Run:
    """What changes while tuning: parameters, optimizer, random state and losses; can be saved and resumed exactly."""

    def __init__(self, tuned: dict[str, torch.nn.Parameter], learning_rate: float, generator, scaler):
        self.tuned, self.generator, self.scaler, self.losses = tuned, generator, scaler, []
        self.optimizer = torch.optim.AdamW(
            tuned.values(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8, fused=True
        )

    def step(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        untouched = [name for name, parameter in self.tuned.items() if parameter.grad is None]
        if untouched:  # AdamW would skip them silently, which is how the released code lost its down blocks.
            raise RuntimeError(f"no gradient reaches {len(untouched)} tuned parameters, such as {untouched[0]}")
        norm = torch.nn.utils.clip_grad_norm_(self.tuned.values(), 1.0)
        if not (self.scaler.is_enabled() or norm.isfinite()):  # in fp16 the scaler passes over such a step
            raise NumericalError("the gradient left the finite numbers: lower prior_preservation or the learning rate")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, path: Path, settings: dict) -> None:
        tensors = {"generator": self.generator.get_state(), "losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, parameter in self.tuned.items():
            tensors[f"tuned/{name}"] = parameter.detach().cpu().contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value.cpu().contiguous()
        unfinished = path.with_suffix(".unfinished")
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"settings": json.dumps(settings), "scaler": json.dumps(self.scaler.state_dict())}
        save_file(tensors, unfinished, metadata=metadata)
        os.replace(unfinished, path)

    def resume(self, path: Path, settings: dict) -> None:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            recorded, scaler = (json.loads((file.metadata() or {})[key]) for key in ("settings", "scaler"))
        if recorded != settings or {k[6:] for k in tensors if k.startswith("tuned/")} != set(self.tuned):
            raise InputError(f"{path} is the state of another run: delete it to start this one from the beginning")
        self.scaler.load_state_dict(scaler)
        self.generator.set_state(tensors["generator"])
        self.losses = tensors["losses"].tolist()
        state = {}
        for index, (name, parameter) in enumerate(self.tuned.items()):
            parameter.data.copy_(tensors[f"tuned/{name}"])
            state[index] = {"step": tensors[f"step/{name}"]}
            for key in ("exp_avg", "exp_avg_sq"):  # in the parameter's memory layout, which the fused optimizer assumes
                state[index][key] = torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"])
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
