# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tune-A-Video in five minutes
#
# One clip and one caption teach an image diffusion model how the clip moves. Other prompts then give other clips with
# that motion. This notebook does it with the miniature, a Stable Diffusion of 7 million weights that comes with the
# repository and knows a small drawn world: half a minute on two cores, without a GPU.
#
# On Colab, put the address of the repository, or of your fork, into `address` first. In a checkout leave it empty.

# %% tags=["parameters"]
address = ""  # such as https://github.com/you/tune-a-video
model, num_frames, size = "models/miniature", 8, 64
source, stride = "data/clips/pig-running.mp4", 2
caption = "a cartoon of a pig running in the forest"
prompts = ["a cartoon of a scooter driving in the forest", "a cartoon of a pig running in the desert"]
tuning_steps, sampling_steps, guidance_scale = 120, 25, 4.0
out = "results/start.webp"

# %%
# ruff: noqa: E402  what is imported below may have to be installed first
import os
import subprocess
import sys

if address:
    subprocess.run(["git", "clone", "-q", "--depth", "1", address, "tune-a-video"], check=True)
    os.chdir("tune-a-video")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "."], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q", "data/clips.dvc", "models/miniature.dvc"], check=True)
    sys.path.insert(0, os.getcwd())

# %% [markdown]
# The image model is loaded and inflated: its self-attention reads the first and the previous frame (ST-Attn), and an
# attention over time (T-Attn) is added to it, which does nothing yet.

# %%
import torch

from tav import load_pipeline, read_clip, tune

pipe = load_pipeline(model, num_frames).to("cuda" if torch.cuda.is_available() else "cpu")
pipe.set_progress_bar_config(disable=True)
clip = read_clip(source, num_frames, size, stride=stride)  # f 3 h w in [-1, 1]

# %% [markdown]
# Tuning: queries and T-Attn learn from the one clip. For Stable Diffusion, take `learning_rate=3e-5` and 500 steps.

# %%
losses = [loss for step, loss in tune(pipe, clip, caption, tuning_steps, learning_rate=1e-3)]
print(f"loss of the first steps {sum(losses[:10]) / len(losses[:10]):.3f}, "
      f"of the last {sum(losses[-10:]) / len(losses[-10:]):.3f}")  # fmt: skip

# %% [markdown]
# The clip's latents are inverted to noise, which has its motion and layout, and every prompt is sampled from there.

# %%
noise = pipe.invert(pipe.encode_clip(clip), sampling_steps)
edits = pipe(prompts, noise, sampling_steps, guidance_scale, output_type="pt").frames

# %%
from pathlib import Path

from publish import figures

Path(out).parent.mkdir(parents=True, exist_ok=True)
rows = {caption: (clip + 1) / 2} | dict(zip(prompts, edits.cpu(), strict=True))
figures.show_animation(rows, out)

# %% [markdown]
# Next: other prompts in `prompts`; your own clip with real weights, `python -m studies try` of docs/own-clips.md; what
# each part of the method is for, notebooks/.
