"""A text-to-video model in CogVideo's role: AnimateDiff's motion modules over the published UNet."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from miniature.clips import WORDS, move
from miniature.control import Captioned, latents_of
from miniature.fit import autocast, digest, fit, made_once, progress, replacing
from miniature.unet import scheduler, timesteps
from miniature.world import OBJECTS, Scene, draw, random_scene

if TYPE_CHECKING:  # training does not depend on the judge
    from measures.judge import Judge

FOLDER = "text-to-video"
NUM_FRAMES, STRIDE, SHARD = 8, 2, 512  # of the 16 frames of a clip; a shard is of clips
SEED, STEPS, GUIDANCE, AT_ONCE = 7411, 25, 3.0, 8
EACH = 6  # clips of every motion that are measured


def random_clip(rng: np.random.Generator, motion: str | None = None) -> list[Scene]:
    """The scenes of a clip's frames: a training object in a training place, a motion of `clips.move`, its word said."""
    motion = motion or str(rng.choice(list(WORDS)))
    scene, paths = random_scene(rng), move(motion, rng)[int(rng.integers(STRIDE)) :: STRIDE]
    word = WORDS[motion] if isinstance(WORDS[motion], str) else WORDS[motion][OBJECTS[scene.object].kind]
    return [replace(scene, things=tuple(things), motion=word) for things in paths]


def encode(shards: int, folder: Path, device: torch.device) -> list[Path]:
    """Draw and encode clips once, in shards: latents (SHARD, frames, 4, 16, 16), scaled, and their captions."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)

    def make(shard):
        rng, latents, captions = np.random.default_rng([SEED, shard]), [], []
        for _ in range(SHARD):
            scenes = random_clip(rng)
            latents.append(latents_of(vae, [draw(scene) for scene in scenes]))
            captions.append(scenes[0].caption)
        return {"latents": torch.stack(latents)}, {"captions": json.dumps(captions)}

    return made_once(f"video/{digest(folder, 'vae')}", shards, make)


def build(unet: UNet2DConditionModel) -> MotionAdapter:
    """Motion modules for `unet` that change nothing yet: what each adds to its level is zero at first."""
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=4,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=2 * NUM_FRAMES,
    )
    for name, parameter in adapter.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(parameter)
    return adapter


def inflate(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """The UNet over clips, (b, 4, f, 16, 16), which reads the adapter's own modules; all else is frozen."""
    model = UNetMotionModel.from_unet2d(unet, adapter).requires_grad_(False)
    theirs = (*model.down_blocks, model.mid_block, *model.up_blocks)
    for block, ours in zip(theirs, (*adapter.down_blocks, adapter.mid_block, *adapter.up_blocks), strict=True):
        block.motion_modules = ours.motion_modules
    return model


def train(settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train the motion modules and publish them to `folder`/text-to-video, with what they have seen in training.json.

    settings: those of `fit` (pictures counts frames, batch clips times frames), and shards (of 512 clips), empty
    (share of captions emptied, for guidance) and warm (start from the published folder).
    """
    data, noising = Captioned(encode(settings["shards"], folder, device), ["latents"], folder, device), scheduler()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    torch.manual_seed(settings["seed"])
    adapter = build(unet)
    if settings["warm"]:
        adapter = MotionAdapter.from_pretrained(folder / FOLDER, torch_dtype=torch.float32)
    adapter = adapter.to(device)
    model = inflate(unet.to(device), adapter).to(device)
    model.set_attn_processor(AttnProcessor())  # for so few tokens nearly twice as fast on CPUs as the fused one

    def loss(adapter, rng, generator):
        latents, text = data.batch(rng, settings["batch"] // NUM_FRAMES, settings["empty"])
        latents = latents.float().transpose(1, 2)  # AnimateDiff's order: b c f h w
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = timesteps(len(latents), generator).to(device)
        target = noising.get_velocity(latents, noise, times)
        with autocast(device):
            noisy = noising.add_noise(latents, noise, times)
            predicted = model(noisy, times, text.repeat_interleave(NUM_FRAMES, 0)).sample
        return mse_loss(predicted.float(), target)

    settings = {**settings, "made_from": digest(folder, "vae", "text_encoder", "unet")}
    adapter = fit("video", adapter, loss, settings, stop_after).cpu()
    with replacing(folder / FOLDER) as new:
        adapter.half().save_pretrained(new)
        (new / "training.json").write_text(json.dumps(progress("video", settings)) + "\n")


@torch.no_grad()
def sample(
    models: Path,
    prompts: list[str],
    num_frames: int = NUM_FRAMES,
    steps: int = STEPS,
    guidance_scale: float = GUIDANCE,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Clips (b, f, 3, 64, 64) in [0, 1] from text alone; clip i starts from the noise of seed + i."""
    load = {"torch_dtype": torch.float32}
    adapter = MotionAdapter.from_pretrained(models / FOLDER, **load)
    pipe = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter, **load).to(device)
    pipe.set_progress_bar_config(disable=True)
    options = dict(num_frames=num_frames, num_inference_steps=steps, guidance_scale=guidance_scale, height=64, width=64)
    clips = []
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        generators = [torch.Generator().manual_seed(seed + start + number) for number in range(len(part))]
        clips.append(pipe(part, generator=generators, output_type="pt", **options).frames.cpu())
    return torch.cat(clips)


def measure(models: Path, device: torch.device, judge: "Judge") -> dict:
    """What the judge sees in sampled clips, `EACH` of every motion, and in drawn clips of the same captions.

    same: per cent of clips whose object is the same in all frames; right: and is the caption's; motion: per cent that
    move as the caption says. step_px and turn_px: how far the centre goes from frame to frame, and how far that
    changes: frames that know nothing of each other turn more than they step, in pixels of 64.
    """
    from miniature.captioner import name_motion  # training does not depend on it

    rng = np.random.default_rng([SEED, 1, 1])
    clips = [random_clip(rng, motion) for motion in WORDS for _ in range(EACH)]
    drawn = torch.from_numpy(np.stack([[draw(scene) for scene in clip] for clip in clips]))
    drawn = drawn.permute(0, 1, 4, 2, 3).float() / 255
    sampled = sample(models, [clip[0].caption for clip in clips], steps=STEPS, seed=SEED, device=device)
    found = {}
    for name, frames in (("sampled", sampled), ("drawn", drawn)):
        reading = judge.read(frames.flatten(0, 1))
        objects = np.array(reading.names["object"]).reshape(len(clips), -1)
        same = (objects == objects[:, :1]).all(1)
        right = same & (objects[:, 0] == [clip[0].object for clip in clips])
        columns = [reading.numbers[name] for name in ("x", "y", "size", "spread", "angle")]
        paths = torch.stack(columns, 1).unflatten(0, frames.shape[:2])
        pairs = zip(clips, paths.numpy(), strict=True)
        told = [name_motion(path, OBJECTS[clip[0].object].kind) == clip[0].motion for clip, path in pairs]
        steps = 64 * paths[..., :2].diff(dim=1)
        found[name] = {
            "same": round(100 * float(same.mean()), 1),
            "right": round(100 * float(right.mean()), 1),
            "motion": round(100 * float(np.mean(told)), 1),
            "step_px": round(steps.norm(dim=-1).nanmean().item(), 2),
            "turn_px": round(steps.diff(dim=1).norm(dim=-1).nanmean().item(), 2),
        }
    return found
