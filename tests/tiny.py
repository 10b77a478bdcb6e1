"""Tiny random models in the real classes and folder layouts."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from studies.store import Missing

RELEASED = Path(__file__).parent / "data" / "released-sd1" / "checkpoint"
TEXT_WIDTH = 32
SD2 = {"use_linear_projection": True, "attention_head_dim": [2, 4]}


def unet(**config) -> UNet2DConditionModel:
    """A UNet with one level of attention at 8x8 latents; `config` overrides, such as `SD2`."""
    torch.manual_seed(0)
    defaults = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": TEXT_WIDTH,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**(defaults | config)).eval()


def save_model(folder: Path, prediction_type: str = "epsilon", **config) -> Path:
    """Save a Stable Diffusion of 32x32 pictures (factor 4) in diffusers format; its text encoder is a released one."""
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(RELEASED / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(RELEASED / "tokenizer"),
        unet=unet(**config),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_motion_adapter(folder: Path) -> Path:
    """Save a motion adapter of up to six frames for `unet`."""
    torch.manual_seed(0)
    MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=6,
    ).save_pretrained(folder)
    return folder


def moving_square(frames: int = 4, size: int = 32) -> torch.Tensor:
    """A clip f 3 h w in [-1, 1] of a bright square that moves to the right."""
    clip = torch.full((frames, 3, size, size), -0.5)
    for index in range(frames):
        clip[index, :, 8:20, 4 + 3 * index : 16 + 3 * index] = 0.8
    return clip


def kill_this_process(*_) -> None:
    """As the system does where memory ends; the process in which stages look for what is finished is spared."""
    if multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    raise Missing
