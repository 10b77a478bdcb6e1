"""Tune-A-Video under the flags of diffusers' training examples; the work is `tav`'s.

    python examples/diffusers/train_tune_a_video.py --pretrained_model_name_or_path CompVis/stable-diffusion-v1-4 \
        --train_video man-skiing.mp4 --prompt "a man is skiing" --validation_prompt "a panda is skiing" \
        --output_dir out --resolution 512 --num_frames 24 --gradient_checkpointing --mixed_precision fp16

Writes out/tuned.safetensors and an mp4 of every validation prompt. An interrupted run goes on.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from tav import load_pipeline, read_clip, save_tuned, tune
from tav.clip import write_clip
from tav.errors import InputError, NumericalError

HALF = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--train_video", required=True, help="a video, a GIF or a folder of frames")
    parser.add_argument("--prompt", required=True, help="what the clip shows")
    parser.add_argument("--validation_prompt", action="append", default=[], help="may be given several times")
    parser.add_argument("--output_dir", type=Path, default=Path("tune-a-video"))
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--num_frames", type=int, default=24)
    parser.add_argument("--sample_start_idx", type=int, default=0)
    parser.add_argument("--sample_frame_rate", type=int, default=1, help="every so manieth frame of the video")
    parser.add_argument("--max_train_steps", type=int, default=500)
    parser.add_argument("--learning_rate", type=float, default=3e-5)
    parser.add_argument("--checkpointing_steps", type=int, default=100)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--mixed_precision", choices=HALF, default="no")
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--guidance_scale", type=float, default=12.5)
    parser.add_argument("--fps", type=int, default=8, help="of the clips that are written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        run(args)
    except (InputError, NumericalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    args.output_dir.mkdir(parents=True, exist_ok=True)
    clip = read_clip(args.train_video, args.num_frames, args.resolution, args.sample_start_idx, args.sample_frame_rate)
    model, dtype = args.pretrained_model_name_or_path, HALF[args.mixed_precision]
    pipe = load_pipeline(model, num_frames=args.num_frames, seed=args.seed, dtype=dtype)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    steps = tune(
        pipe,
        clip,
        args.prompt,
        steps=args.max_train_steps,
        learning_rate=args.learning_rate,
        seed=args.seed,
        gradient_checkpointing=args.gradient_checkpointing,
        mixed_precision=args.mixed_precision,
        state=args.output_dir / "state.safetensors",
        save_every=args.checkpointing_steps,
    )
    with tqdm(steps, "Steps", args.max_train_steps) as bar:
        for _, loss in bar:
            bar.set_postfix(loss=f"{loss:.4f}")
    save_tuned(pipe, args.output_dir / "tuned.safetensors")
    noise = pipe.invert(pipe.encode_clip(clip), args.num_inference_steps) if args.validation_prompt else None
    for number, prompt in enumerate(args.validation_prompt):
        frames = pipe(prompt, noise, args.num_inference_steps, args.guidance_scale, output_type="pt").frames[0]
        write_clip(args.output_dir / f"validation-{number}.mp4", frames, args.fps)


if __name__ == "__main__":
    sys.exit(main())
