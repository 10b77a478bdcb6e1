# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. The method
#
# **Question.** What is added to the image model, what does a frame see, and what is tuned?
#
# **Claim** (paper, section 3). Two small changes make a text-to-image model one of clips. Self-attention becomes
# *sparse-causal* (ST-Attn): a frame's keys and values come from the first and the previous frame. A *temporal*
# self-attention over the frames (T-Attn) follows every transformer block. Tuned are only the queries of both attentions
# and T-Attn. The cost of ST-Attn grows with the number of frames, that of full attention with its square.
#
# Each statement is checked below by measuring the network, not by reading its code.

# %% jupyter={"source_hidden": true}
# ruff: noqa: E402  what is imported below is found from the folder with dvc.yaml
import os
from pathlib import Path

os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "dvc.yaml").exists()))

# %% jupyter={"source_hidden": true}
from copy import deepcopy
from itertools import product

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from IPython.display import Markdown, display
from torch.utils.flop_counter import FlopCounterMode

# %% jupyter={"source_hidden": true}
from measures.evidence import answer, decide, evidence, write_metrics
from publish import figures
from studies.settings import load_params

# %% jupyter={"source_hidden": true}
from tav import load_pipeline, tune, tuned_parameters
from tav.model import inflate

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
out = "results/notebooks/01_method"  # where figures and metrics go
frames = 8  # frames of the small clips
seed = 0  # of the small networks' random weights and inputs
frame_counts = [1, 2, 4, 8, 16, 32]  # for the cost

# %%
rows = {}
stable_diffusion = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}  # the UNet of v1-4
small = {"block_out_channels": (32,), "cross_attention_dim": 48, "attention_head_dim": 8, "norm_num_groups": 8}
small |= {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
one_block = small | {"mid_block_type": None}  # a single transformer block: what it sees is not widened by a second one
deep = small | {"layers_per_block": 3, "up_block_types": ("CrossAttnUpBlock2D",)}  # eight of them

# %% [markdown]
# ## What is added, and what is tuned
#
# The UNet of Stable Diffusion v1-4 is built at full size without memory (on the meta device) and inflated.

# %%
with torch.device("meta"):
    unet = UNet2DConditionModel(**stable_diffusion)
before = {name: parameter.numel() for name, parameter in unet.named_parameters()}
after = {name: parameter.numel() for name, parameter in inflate(unet, frames).named_parameters()}
tuned = {name: parameter for name, parameter in tuned_parameters(unet).items()}

# %%
parts = {"ST-Attn: queries": ".attn1.to_q.", "cross-attention: queries": ".attn2.to_q.", "T-Attn: all": ".attn_temp."}
table = {part: sum(p.numel() for name, p in tuned.items() if key in name) / 1e6 for part, key in parts.items()}
table["tuned, together"] = sum(p.numel() for p in tuned.values()) / 1e6
table["the image model"] = sum(before.values()) / 1e6
table["the inflated model"] = sum(after.values()) / 1e6
table = pd.DataFrame({"million parameters": table})
table["% of the inflated model"] = 100 * table["million parameters"] / table["million parameters"].iloc[-1]
display(table.round(1))

# %%
million = table["million parameters"]
claim = "Inflation turns 859.5 M parameters into 909.1 M, of which 74.4 M are tuned"
rows["image_parameters"] = decide(claim, "The image model", million.iloc[-2], 859.45, 859.55, "M parameters")
rows["inflated_parameters"] = decide(claim, "The inflated model", million.iloc[-1], 909.05, 909.15, "M parameters")
rows["tuned_parameters"] = decide(claim, "What is tuned", million["tuned, together"], 74.35, 74.45, "M parameters")
rows["image_weights_kept"] = decide(
    "Inflation adds weights and leaves those of the image model with their names and shapes",
    "The number of image weights that are missing or of another size",
    sum(after.get(name) != count for name, count in before.items()), 0, 0,
)  # fmt: skip

# %% [markdown]
# ## What a frame sees
#
# The gradient of one output frame with respect to every input frame says exactly which frames reach it: where there is
# no path, it is exactly zero. Paths add up, so each piece is looked at alone, in small networks of random weights:
#
# - **one block** with ST-Attn, T-Attn as it starts, and GroupNorm per frame. The paper's picture: a frame is reached by
#   the first and the previous frame through keys and values, and by itself through its query and the residual path;
# - **eight blocks**: each block reaches one frame further back, never forward;
# - **T-Attn awake**: once tuned, T-Attn joins all frames;
# - **clip GroupNorm**: the released code pools the statistics of GroupNorm over all frames, which joins all frames from
#   the start. The paper does not mention it.

# %%
torch.manual_seed(seed)
nets = {
    "one block": inflate(UNet2DConditionModel(**one_block), frames, norm="frame"),
    "eight blocks": inflate(UNet2DConditionModel(**deep), frames, norm="frame"),
    "one block, T-Attn awake": inflate(UNet2DConditionModel(**one_block), frames, norm="frame"),
    "one block, clip GroupNorm": inflate(UNet2DConditionModel(**one_block), frames, norm="clip"),
}
awake = [p for name, p in tuned_parameters(nets["one block, T-Attn awake"]).items() if "attn_temp.to_out" in name]
_ = [torch.nn.init.normal_(parameter, std=0.1) for parameter in awake]

# %%
latents, text = torch.randn(frames, 4, 8, 8, requires_grad=True), torch.randn(1, 8, 48).expand(frames, -1, -1)
reach = {}
for name, net in nets.items():
    outputs = net(latents, 500, text).sample.square().sum((1, 2, 3))
    gradients = [torch.autograd.grad(output, latents, retain_graph=True)[0] for output in outputs]
    reach[name] = torch.stack(gradients).square().sum((2, 3, 4)).sqrt().numpy()

# %%
figure = figures.influence(reach, title=f"Which input frames reach an output frame (white: not at all), seed {seed}")
figures.show(figure, f"{out}/figures/receptive-field.png")

# %%
expected = np.array([[j in (0, i - 1, i) for j in range(frames)] for i in range(frames)])
rows["receptive_field"] = decide(
    "Through one ST-Attn block a frame is reached by the first frame, the previous one and itself, and by no other",
    "The number of frame pairs that differ from this",
    int(((reach["one block"] > 0) != expected).sum()), 0, 0,
)  # fmt: skip
rows["causal"] = decide(
    "Through any depth of ST-Attn no frame is reached by a later one", "The number of later frames that reach a frame",
    int(np.triu(reach["eight blocks"] > 0, k=1).sum()), 0, 0,
)  # fmt: skip

# %%
joined = {name: int((reach[name] == 0).sum()) for name in ("one block, T-Attn awake", "one block, clip GroupNorm")}
rows["temporal_attention_joins"] = decide(
    "T-Attn, once tuned, lets every frame see every frame", "The number of frame pairs without a path",
    joined["one block, T-Attn awake"], 0, 0,
)  # fmt: skip
rows["clip_group_norm_joins"] = decide(
    "GroupNorm pooled over the clip, as released, lets every frame see every frame",
    "The number of frame pairs without a path", joined["one block, clip GroupNorm"], 0, 0,
)  # fmt: skip

# %% [markdown]
# ## A still clip is an image
#
# If all frames are equal, the first and the previous frame are the frame itself, pooled statistics are its own, and a
# T-Attn that starts as the identity adds nothing: the inflated model must answer as the image model does. (In the
# released code T-Attn's output bias starts at random values, so there the two differ slightly. Here it starts at zero.)

# %%
torch.manual_seed(seed)
image_net = UNet2DConditionModel(**deep)
clip_net = inflate(deepcopy(image_net), frames)
with torch.no_grad():
    moving, still = latents.detach(), latents.detach()[:1].expand(frames, -1, -1, -1)
    answers = {"still": image_net(still, 500, text).sample, "moving": image_net(moving, 500, text).sample}
    gaps = {"still": clip_net(still, 500, text).sample, "moving": clip_net(moving, 500, text).sample}
gaps = {kind: float((gap - answers[kind]).abs().max() / answers[kind].abs().max()) for kind, gap in gaps.items()}
print({kind: f"{gap:.1e}" for kind, gap in gaps.items()})

# %%
rows["still_clip"] = decide(
    "On a still clip the inflated model equals the image model",
    "The largest difference relative to the largest output", gaps["still"], at_most=1e-5,
)  # fmt: skip
rows["moving_clip"] = decide(
    "On a moving clip it does not: its frames see each other",
    "The largest difference relative to the largest output", gaps["moving"], at_least=1e-3,
)  # fmt: skip

# %% [markdown]
# ## What ST-Attn costs
#
# With *m* frames of *N* tokens, ST-Attn compares *mN* queries with 2*N* keys each, full attention with *mN*. Over the
# 16 blocks of Stable Diffusion v1-4 at 512x512 pixels the two products of attention are counted while the network runs
# (on the meta device), and beside it by the formula: 4 operations per query, key and channel.

# %%
levels = [(5, 64**2, 320), (5, 32**2, 640), (5, 16**2, 1280), (1, 8**2, 1280)]  # blocks, tokens, channels
one_frame = sum(4 * blocks * tokens**2 * channels for blocks, tokens, channels in levels)
factors = {"own": lambda m: m, "sparse-causal": lambda m: 2 * m, "full": lambda m: m**2}
formula = {kind: [factor(m) * one_frame / 1e12 for m in frame_counts] for kind, factor in factors.items()}

# %%
counted = {kind: [] for kind in factors}
for kind, m in product(factors, frame_counts):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = inflate(UNet2DConditionModel(**stable_diffusion), m, attention=kind)
        unet(torch.empty(m, 4, 64, 64), 0, torch.empty(m, 77, 768))
    modules = [flops for name, flops in counter.get_flop_counts().items() if name.endswith(".attn1")]
    counted[kind].append(sum(flops[torch.ops.aten.bmm] for flops in modules) / 1e12)

# %%
names = {"own": "own frame (the image model)", "sparse-causal": "first and previous (ST-Attn)", "full": "all frames"}
lines = {names[kind]: values for kind, values in counted.items()}
title = "Self-attention of Stable Diffusion v1-4, one forward pass at 512x512"
figure = figures.growth(frame_counts, lines, title, "frames", "operations ($10^{12}$)")
figures.show(figure, f"{out}/figures/cost.png")

# %%
gap = max(abs(c / f - 1) for kind in factors for c, f in zip(counted[kind], formula[kind], strict=True))
saving = counted["full"][-1] / counted["sparse-causal"][-1]
rows["cost_formula"] = decide(
    "ST-Attn costs in proportion to 2mN² and full attention to (mN)²",
    "The largest relative gap between counted and formula", gap, at_most=1e-6,
)  # fmt: skip
claim, measure = "Full attention costs m/2 times as much", f"The ratio at m = {frame_counts[-1]} frames"
rows["cost_saving"] = decide(claim, measure, saving, frame_counts[-1] / 2, frame_counts[-1] / 2, "times")

# %% [markdown]
# ## What is often told otherwise
#
# Three points that second-hand accounts get wrong, each decided by a measurement.
#
# **Tuning sees the clip under fresh random noise, not under its inverted noise.** Inversion comes after tuning, once.
# Below, two steps of tuning run on a random clip with the model of `params.yaml`; what enters the network is recorded
# and solved for the noise. Inverted noise would be the same at every step; fresh noise has no correlation.

# %%
pipe = load_pipeline(load_params().model, num_frames=frames)
pipe.set_progress_bar_config(disable=True)
seen, side = [], 8 * pipe.vae_scale_factor
hook = pipe.unet.register_forward_pre_hook(lambda _, given: seen.append((given[0].detach(), int(given[1]))))
clip = torch.rand(frames, 3, side, side) * 2 - 1
_ = list(tune(pipe, clip, "a clip", steps=2, learning_rate=1e-9, seed=seed))
hook.remove()
clean = pipe.encode_clip(clip)

# %%
share = [float(pipe.scheduler.alphas_cumprod[timestep]) for _, timestep in seen]
noises = [(noisy - a**0.5 * clean) / (1 - a) ** 0.5 for (noisy, _), a in zip(seen, share, strict=True)]
noises.append(pipe.invert(clean, num_inference_steps=5))
correlation = np.corrcoef(torch.stack(noises).flatten(1).cpu())
rows["random_noise"] = decide(
    "Tuning sees the clip under fresh random noise",
    "The largest correlation among the noises of two steps and the inverted noise",
    float(np.abs(np.triu(correlation, k=1)).max()), at_most=0.2,
)  # fmt: skip

# %% [markdown]
# **Text enters cross-attention through its keys and values, and the queries are what is tuned.** In Stable Diffusion
# v1-4 the text is 768 wide and no level of the network is, so a weight that reads text is known by its width.

# %%
reads_text = {name for name, p in unet.named_parameters() if p.ndim == 2 and p.shape[1] == 768}
kinds = sorted({name.rsplit(".", 3)[-3] + "." + name.rsplit(".", 3)[-2] for name in reads_text})
print(f"{len(reads_text)} weights read text: {', '.join(kinds)}")
rows["text_weights_frozen"] = decide(
    "Text enters through the keys and values of cross-attention, which stay frozen",
    "The number of tuned weights that read text", len(reads_text & set(tuned_parameters(unet))), 0, 0,
)  # fmt: skip

# %% [markdown]
# **The keys of ST-Attn are those of the first and the previous frame; the frame's own are not among them.** With the
# query weights set to zero all keys count alike, and what then reaches a frame is what its values read.

# %%
block = next(module for module in nets["one block"].modules() if isinstance(module, BasicTransformerBlock))
torch.nn.init.zeros_(block.attn1.to_q.weight)
tokens = torch.randn(frames, 16, 32, requires_grad=True)
outputs = block.attn1(tokens).square().sum((1, 2))
gradients = [torch.autograd.grad(output, tokens, retain_graph=True)[0] for output in outputs]
read = torch.stack(gradients).abs().sum((2, 3)).numpy() > 0

# %%
expected = np.array([[j in (0, max(i - 1, 0)) for j in range(frames)] for i in range(frames)])
rows["keys"] = decide(
    "The keys and values of ST-Attn are those of the first and the previous frame, without the frame itself",
    "The number of frame pairs that differ from this", int((read != expected).sum()), 0, 0,
)  # fmt: skip

# %% [markdown]
# ## Evidence

# %%
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))

# %% [markdown]
# ## Limits
#
# - The networks that show what a frame sees are small and have random weights. What is zero there is zero by structure
#   and so for every weight; how strongly the other frames count is not a statement about a trained model.
# - Operations are counted for attention's two products only; seconds and memory depend on the machine.
# - Not the paper's: GroupNorm over the clip (the released code does it, the paper is silent) and a T-Attn that starts
#   as the exact identity (the released code leaves its bias random).
