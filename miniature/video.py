"""A text-to-video model in CogVideo's role: AnimateDiff's motion modules over the published UNet."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from miniature.control import Captioned, left, move_all
from miniature.fit import autocast, fit, replacing
from miniature.moves import FRAMES, GROUPS
from miniature.pool import Pool
from miniature.scenes import SIZE, Renderer, Scenes, objects, objects_of, random_scenes
from miniature.text import Texts
from miniature.unet import attending, encode, scheduler, timesteps

if TYPE_CHECKING:  # training does not depend on the judge
    from measures.judge import Judge

FOLDER = "text-to-video"
NUM_FRAMES, STRIDE = 8, 2  # of the 16 frames of a clip
LAYOUTS = range(4000, 4064)  # of the places: no other model was trained on them, and no clip that is edited has them
SEED, STEPS, GUIDANCE, AT_ONCE = 7411, 25, 7.0, 8
SAMPLES = 66  # clips that are measured


def training_clips(rng: np.random.Generator, n: int) -> Scenes:
    """n frames of clips, eight of each, one after the other; captions say style, object, motion and place alone."""
    count = n // NUM_FRAMES
    looks = random_scenes(rng, 4 * count + 16, layouts=LAYOUTS)  # of which, all but surely, enough show one thing
    clips = move_all(rng, looks[np.nonzero(looks.count == 1)[0][:count]], [*GROUPS["path"], *GROUPS["deform"]])
    first = FRAMES * np.arange(count) + rng.integers(STRIDE, size=count)
    frames = clips[(first[:, None] + STRIDE * np.arange(NUM_FRAMES)).ravel()]
    return frames.with_(says=np.zeros_like(frames.says))


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
    """The UNet over clips, (b, c, f, 16, 16), which reads the adapter's own modules; all else is frozen."""
    model = UNetMotionModel.from_unet2d(unet, adapter).requires_grad_(False)
    theirs = (*model.down_blocks, model.mid_block, *model.up_blocks)
    for block, ours in zip(theirs, (*adapter.down_blocks, adapter.mid_block, *adapter.up_blocks), strict=True):
        block.motion_modules = ours.motion_modules
    return model


def train(settings: dict, folder: Path, device: torch.device, stop_after=float("inf"), seconds=None) -> None:
    """Train the motion modules and publish them to `folder`/text-to-video.

    settings: those of `fit` (pictures counts frames, batch clips times frames), and pool (clips that are drawn) and
    empty (share of captions emptied, for guidance). seconds: as in `fit`, with what comes before it.
    """
    began = time.monotonic()
    data, noising = load(settings["pool"], folder, device), scheduler()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    torch.manual_seed(settings["seed"])
    adapter = build(unet).to(device)
    model = attending(inflate(unet, adapter).to(device))
    noising.alphas_cumprod = noising.alphas_cumprod.to(device)

    def loss(adapter, rng, generator):
        latents, text = data.batch(settings["batch"] // NUM_FRAMES, settings["empty"], generator)
        latents = latents.float().transpose(1, 2)  # AnimateDiff's order: b c f h w
        noise = torch.randn(latents.shape, generator=generator, device=device)
        times = timesteps(len(latents), generator)
        target = noising.get_velocity(latents, noise, times)
        with autocast(device):
            noisy = noising.add_noise(latents, noise, times)
            predicted = model(noisy, times, text.repeat_interleave(NUM_FRAMES, 0)).sample
        return mse_loss(predicted.float(), target)

    adapter = fit("video", adapter, loss, settings, stop_after, left(seconds, began)).cpu()
    with replacing(folder / FOLDER) as new:
        adapter.half().save_pretrained(new)


def load(count: int, folder: Path, device: torch.device) -> Captioned:
    """`count` clips, drawn and encoded: latents (count, frames, c, 16, 16) with their captions."""
    pool = Pool(NUM_FRAMES * count, SEED, device, layouts=LAYOUTS, draw=training_clips)
    latents = encode(pool, folder, SEED).unflatten(0, (count, NUM_FRAMES))
    return Captioned([latents], *Texts(folder, device).table(pool.scenes[::NUM_FRAMES].captions()))


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
    kept = {"torch_dtype": torch.float32}
    adapter = MotionAdapter.from_pretrained(models / FOLDER, **kept)
    pipe = AnimateDiffPipeline.from_pretrained(models, motion_adapter=adapter, **kept).to(device)
    pipe.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=steps, guidance_scale=guidance_scale, height=SIZE, width=SIZE)
    options["num_frames"] = num_frames
    clips = []
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        generators = [torch.Generator().manual_seed(seed + start + number) for number in range(len(part))]
        clips.append(pipe(part, generator=generators, output_type="pt", **options).frames.cpu())
    return torch.cat(clips)


def measure(models: Path, device: torch.device, judge: "Judge") -> dict:
    """What the judge sees in sampled clips, and in drawn clips of the same captions.

    same: per cent of clips whose object is the same in all frames; right: and is the caption's. step_px and turn_px:
    how far the centre goes from frame to frame, and how far that changes: frames that know nothing of each other turn
    more than they step, in pixels of 64.
    """
    scenes = training_clips(np.random.default_rng([SEED, 1, 1]), NUM_FRAMES * SAMPLES)
    first, names = scenes[::NUM_FRAMES], list(objects())
    shown = [names[number] for number in objects_of(first.drawing[:, 0])]
    drawn = Renderer(device, LAYOUTS)(scenes, torch.Generator(device).manual_seed(SEED)).pictures.cpu()
    sampled = sample(models, first.captions(), steps=STEPS, seed=SEED, device=device).flatten(0, 1)
    found = {}
    for name, frames in (("sampled", sampled), ("drawn", drawn)):
        reading = judge.read(frames)
        read = np.array(reading.names["object"]).reshape(len(first), NUM_FRAMES)
        same = (read == read[:, :1]).all(1)
        right = same & (read[:, 0] == shown)
        paths = reading.things[:, 0].unflatten(0, (len(first), NUM_FRAMES))
        steps = SIZE * paths[..., :2].diff(dim=1)
        found[name] = {
            "same": round(100 * float(same.mean()), 1),
            "right": round(100 * float(right.mean()), 1),
            "step_px": round(steps.norm(dim=-1).nanmean().item(), 2),
            "turn_px": round(steps.diff(dim=1).norm(dim=-1).nanmean().item(), 2),
        }
    return found
