"""`TuneAVideoPipeline`: Stable Diffusion whose batch is a clip; and `load_pipeline`."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKL,
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange, repeat
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from tav import hub
from tav.checkpoint import merge_lora, read_unet
from tav.errors import UNUSABLE, InputError, is_out_of_memory, one_line
from tav.model import inflate

# `embed` says the same in one line that tells what to do.
logging.getLogger("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion").addFilter(
    lambda record: "was truncated" not in record.getMessage()
)
warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument")  # which diffusers still gives the Hub

INVERSE = {  # how a scheduler's sampling is run backwards
    DDIMScheduler: DDIMInverseScheduler,
    DPMSolverMultistepScheduler: DPMSolverMultistepInverseScheduler,
}


@dataclass
class TuneAVideoOutput(BaseOutput):
    """frames: b f 3 h w in [0, 1] ("pt"), b f h w 3 ("np"), b f c h w ("latent"), or b lists of f pictures ("pil")."""

    frames: Tensor | np.ndarray | list[list[PIL.Image.Image]]


class TuneAVideoPipeline(StableDiffusionPipeline):
    """A Stable Diffusion pipeline over clips: `encode_clip`, `invert`, and sampling by calling it.

    Its UNet is an inflated one (`tav.model.inflate`); frames are folded in the batch, so that stock diffusers pipelines
    work on `pipe.components` with `num_frames` pictures per prompt. `vae_frames` of them go through the VAE at once, as
    its activations are the largest of all. A text encoder or VAE that is on the CPU while the UNet is on a GPU comes
    over when it is used, and goes back.
    """

    vae_frames = 8

    @contextmanager
    def at_hand(self, part: torch.nn.Module) -> Iterator[None]:
        """Has the VAE or the text encoder on the UNet's device for a while."""
        home = part.device
        part.to(self.unet.device)
        try:
            yield
        finally:
            part.to(home)

    @property
    def components(self) -> dict:
        """What stock pipelines are made from; without the image encoder, which those of adapters do not take."""
        return {name: part for name, part in super().components.items() if name != "image_encoder"}

    @property
    def num_frames(self) -> int:
        return self.unet.num_frames

    def encode_posterior(self, clip: Tensor) -> DiagonalGaussianDistribution:
        """The VAE's posterior of a clip, f 3 h w in [-1, 1]; its `parameters` are f 2c h w.

        Raises InputError if the clip has another number of frames than the model, or a size the VAE does not divide.
        """
        if len(clip) != self.num_frames:
            raise InputError(f"the clip has {len(clip)} frames and the model {self.num_frames}: set num_frames alike")
        height, width = clip.shape[-2:]
        factor = self.vae_scale_factor
        if height % factor or width % factor:
            fits = [max(1, round(side / factor)) * factor for side in (height, width)]
            raise InputError(
                f"size {height}x{width} is no multiple of the VAE's factor {factor}: use {fits[0]}x{fits[1]}"
            )
        with torch.no_grad(), self.at_hand(self.vae):
            clips = clip.to(self.vae.device, self.vae.dtype).split(self.vae_frames)
            chunks = [self.vae.encode(chunk).latent_dist.parameters for chunk in clips]
        return DiagonalGaussianDistribution(torch.cat(chunks))

    def scale(self, latents: Tensor) -> Tensor:
        """Latents as the VAE gives them -> as the UNet takes them, by the VAE's own factor."""
        return latents * self.vae.config.scaling_factor

    def encode_clip(self, clip: Tensor) -> Tensor:
        """The latents of a clip, f 3 h w in [-1, 1] -> f c h w: the posterior's mode, scaled."""
        return self.scale(self.encode_posterior(clip).mode())

    @torch.no_grad()
    def decode_clip(self, latents: Tensor) -> Tensor:
        """Scaled latents f c h w -> frames f 3 h w in [0, 1]."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        with self.at_hand(self.vae):
            frames = torch.cat([self.vae.decode(chunk).sample for chunk in latents.split(self.vae_frames)])
        return (frames / 2 + 0.5).clamp(0, 1)

    def embed(self, prompts: list[str], negative_prompts: list[str] | None = None) -> tuple[Tensor, Tensor | None]:
        """Embeddings b n d of prompts and, if given, of negative prompts; warns of words the encoder does not read."""
        longest = self.tokenizer.model_max_length
        for prompt in [*prompts, *(negative_prompts or [])]:
            tokens = self.tokenizer(prompt).input_ids
            if len(tokens) > longest:
                cut = self.tokenizer.decode(tokens[longest - 1 : -1])
                warnings.warn(
                    f"the text encoder reads {longest} tokens, so this is cut: {cut!r}; shorten the prompt",
                    stacklevel=3,
                )
        with torch.no_grad(), self.at_hand(self.text_encoder):
            return self.encode_prompt(
                prompts, self._execution_device, 1, negative_prompts is not None, negative_prompts
            )

    @torch.no_grad()
    def invert(
        self,
        latents: Tensor,
        num_inference_steps: int = 50,
        prompt: str = "",
        diffused_steps: int = 0,
        stock: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """DDIM inversion of a clip's latents, f c h w -> the noise, f c h w, that samples back to it (paper 3.3).

        Without guidance, and with the empty prompt by default (released behaviour). With a DPMSolverMultistepScheduler
        as `scheduler`, which takes fewer steps, by that solver's inverse; InputError for other schedulers.
        A step asks the model about the time that it goes to (released behaviour), so a velocity (v-prediction) is made
        noise with the signal and noise shares of that time. DDIMInverseScheduler takes those of the time that it comes
        from, and a clip comes back less well, the more so the more its latents vary; `stock` does as it does.
        diffused_steps: so many of the first steps are forward diffusion instead, with noise from `generator` that is
            the same in every frame: what is plain inverts to too little noise (Staniszewski et al., arXiv 2410.23530).
            For DDIM alone.
        """
        if type(self.scheduler) not in INVERSE:
            known = " or ".join(kind.__name__ for kind in INVERSE)
            raise InputError(f"no inverse of {type(self.scheduler).__name__} is known: use {known}")
        scheduler = INVERSE[type(self.scheduler)].from_config(self.scheduler.config)
        velocity = scheduler.config.prediction_type == "v_prediction"
        if reads_velocity := velocity and isinstance(scheduler, DDIMInverseScheduler) and not stock:
            scheduler.register_to_config(prediction_type="epsilon")
        scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        text = self.embed([prompt])[0].expand(len(latents), -1, -1)
        latents = latents.to(self._execution_device, self.unet.dtype)
        if diffused_steps:
            noise = randn_tensor(latents[:1].shape, generator, latents.device, latents.dtype).expand_as(latents)
            latents = self.scheduler.add_noise(latents, noise, scheduler.timesteps[diffused_steps - 1])
        for timestep in self.progress_bar(scheduler.timesteps[diffused_steps:]):
            predicted = self.unet(latents, timestep, text).sample
            if reads_velocity:
                signal = scheduler.alphas_cumprod[timestep]
                predicted = signal.sqrt() * predicted + (1 - signal).sqrt() * latents
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return latents

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        latents: Tensor | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 12.5,
        negative_prompt: str | list[str] | None = None,
        output_type: str = "pil",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        **kwargs,
    ) -> TuneAVideoOutput:
        """Sample a clip for every prompt (DDIM, eta 0, classifier-free guidance; released defaults).

        latents: where sampling starts: inverted noise f c h w, the same for every prompt, or b f c h w. None draws
            random noise from `generator`.
        output_type: "pt", "np", "latent" or "pil", see `TuneAVideoOutput`.
        guidance_interval: the shares of the steps, from noise on, between which sampling is guided (Kynkäänniemi et
            al., arXiv 2404.07724); a step without guidance costs half. callback_on_step_end is then taken.
        Other arguments are those of `StableDiffusionPipeline`, such as height, width, generator and eta.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(negative_prompt, list):
            negative_prompt = [negative_prompt or ""] * len(prompts)
        text, negative_text = self.embed(prompts, negative_prompt if guidance_scale > 1 else None)
        per_frame = {"f": self.num_frames}
        if negative_text is not None:
            negative_text = repeat(negative_text, "b n d -> (b f) n d", **per_frame)
        if latents is not None:
            if latents.ndim == 4:
                latents = repeat(latents, "f c h w -> b f c h w", b=len(prompts))
            if latents.shape[:2] != (len(prompts), self.num_frames):
                raise InputError(
                    f"latents of {latents.shape[0]} clips of {latents.shape[1]} frames do not fit "
                    f"{len(prompts)} prompts and a model of {self.num_frames} frames"
                )
            latents = rearrange(latents, "b f c h w -> (b f) c h w").to(self._execution_device, self.unet.dtype)
        text = repeat(text, "b n d -> (b f) n d", **per_frame)
        if negative_text is not None and guidance_interval != (0, 1):
            switch = _GuidanceSwitch(guidance_scale, guidance_interval, num_inference_steps, text, negative_text)
            kwargs |= {"callback_on_step_end": switch, "callback_on_step_end_tensor_inputs": []}
            if not switch.is_on(0):
                guidance_scale, negative_text = 1.0, None
        latents = (
            super()
            .__call__(
                prompt_embeds=text,
                negative_prompt_embeds=negative_text,
                latents=latents,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="latent",
                **kwargs,
            )
            .images
        )
        if output_type == "latent":
            return TuneAVideoOutput(rearrange(latents, "(b f) c h w -> b f c h w", **per_frame))
        frames = self.decode_clip(latents)
        if output_type == "pt":
            return TuneAVideoOutput(rearrange(frames, "(b f) c h w -> b f c h w", **per_frame))
        frames = rearrange(frames.cpu().float().numpy(), "(b f) c h w -> b f h w c", **per_frame)
        if output_type == "np":
            return TuneAVideoOutput(frames)
        return TuneAVideoOutput([self.image_processor.numpy_to_pil(clip) for clip in frames])


class _GuidanceSwitch:
    """Turns guidance on and off between steps, in the way that diffusers gives callbacks for it."""

    def __init__(self, scale: float, interval: tuple[float, float], steps: int, text: Tensor, negative_text: Tensor):
        self.scale, self.interval, self.steps = scale, interval, steps
        self.text, self.both = text, torch.cat([negative_text, text])

    def is_on(self, step: int) -> bool:
        start, stop = self.interval
        return start <= step / self.steps < stop

    def __call__(self, pipe: TuneAVideoPipeline, step: int, _timestep: int, _tensors: dict) -> dict[str, Tensor]:
        guided = self.is_on(step + 1)
        if guided == pipe.do_classifier_free_guidance:
            return {}
        pipe._guidance_scale = self.scale if guided else 1.0
        return {"prompt_embeds": self.both if guided else self.text}


def load_pipeline(
    model: str | Path,
    num_frames: int = 8,
    norm: str = "clip",
    attention: str = "sparse-causal",
    temporal: bool = True,
    seed: int = 0,
    temporal_conv: bool = False,
    frames_at_once: int | None = None,
    dtype: torch.dtype = torch.float32,
    lora: str | Path = "",
) -> TuneAVideoPipeline:
    """Load and inflate a Stable Diffusion 1.x or 2.x model, or a released Tune-A-Video checkpoint.

    model: a folder in diffusers format or a Hub id, its weights safetensors or old .bin files; none of its code is run.
    num_frames, norm, attention, temporal, seed, temporal_conv, frames_at_once: see `tav.model.inflate`.
    lora: what is merged into the image model before it is inflated, see `merge_lora`; nothing if empty.
    Raises InputError with one line if the model cannot be had, is incomplete or broken.
    """
    model = str(model)
    if not Path(model).is_dir():
        hub.unreachable()
    with _part(model, "unet"):
        unet, added = read_unet(model, dtype)
    with _part(model, "vae"):
        vae = _full_or_half(AutoencoderKL, model, "vae", torch_dtype=dtype)
    with _part(model, "text_encoder"):
        text_encoder = _full_or_half(CLIPTextModel, model, "text_encoder", dtype=dtype)
    with _part(model, "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
        if len(tokenizer) < text_encoder.config.vocab_size:  # a missing vocabulary loads as an empty one
            raise ValueError(f"{len(tokenizer)} of {text_encoder.config.vocab_size} words")
    with _part(model, "scheduler"):
        # DDIM whatever the model names, because inversion needs it. Latents have no bounds to clip to.
        scheduler = DDIMScheduler.from_pretrained(model, subfolder="scheduler", clip_sample=False)
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler, "unet": unet}
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if lora:
        merge_lora(StableDiffusionPipeline(**parts), lora)
    inflate(unet, num_frames, norm, attention, temporal, seed, temporal_conv, frames_at_once)
    with _part(model, "unet"):
        unet.load_state_dict({n: t for n, t in added.items() if n in unet.state_dict()}, strict=False)
    return TuneAVideoPipeline(**parts)


def _full_or_half(kind, model: str, part: str, **dtype):
    """A part of a model whose weights may be there in half precision only, as the Hub's variant fp16."""
    try:
        return kind.from_pretrained(model, subfolder=part, **dtype)
    except OSError as error:
        try:
            return kind.from_pretrained(model, subfolder=part, variant="fp16", **dtype)
        except OSError:
            raise error from None


@contextmanager
def _part(model: str, part: str) -> Iterator[None]:
    """Says in one line why a part of a model cannot be loaded."""
    try:
        yield
    except UNUSABLE as error:
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        raise InputError(_why_not(model, part, one_line(error))) from error


def _why_not(model: str, part: str, reason: str) -> str:
    if Path(model).is_dir():
        return f"cannot load {part}/ of {model} ({reason}): fetch the model again, in diffusers format"
    if Path(model).is_absolute() or model.startswith(".") or model.count("/") != 1:
        return f"there is no model folder {model}: give a folder in diffusers format or a Hub id such as owner/name"
    reason = hub.unreachable() or reason
    return f"{model} is no folder here and its {part} cannot be fetched from the Hub ({reason}): check name and network"
