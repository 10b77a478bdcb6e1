# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Cost
#
# **Question.** What does a clip cost in time and memory, and how does the cost grow with frames and pixels?
#
# **Claim** (paper, sections 3.2 and 5.1). With *m* frames of *N* tokens ST-Attn costs O(2mN²) where full attention
# costs O((mN)²): the one grows with the number of frames, the other with its square. On one A100, a clip takes about
# ten minutes to tune and one minute to sample.
#
# The stage `cost` (`benchmarks/cost.py`) measured all of this with the settings of `params.yaml`; here it is read.

# %% jupyter={"source_hidden": true}
# ruff: noqa: E402  what is imported below is found from the folder with dvc.yaml
import os
from pathlib import Path

os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "dvc.yaml").exists()))

# %% jupyter={"source_hidden": true}
import json

import pandas as pd
from IPython.display import Markdown, display

from measures.evidence import answer, bootstrap, decide, evidence, settled, write_metrics
from measures.protocol import margins
from publish import figures
from studies.results import reading

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
out = "results/notebooks/07_cost"  # where figures and metrics go
measured = "results/cost"  # what the stage `cost` wrote

# %% [markdown]
# ## What was measured

# %%
with reading(measured):
    record = json.loads(Path(measured, "cost.json").read_text())
    steps, tuning, layer = (pd.read_csv(f"{measured}/{name}.csv") for name in ("steps", "tuning", "attention"))
(frames, height, width), enough = record["clip"], margins()
device = record["device"]
text = f"{record['model']}, {frames} frames of {height}x{width} pixels; on {device}, torch {record['torch']}."
display(Markdown(f"{text} Times are medians of {record['laps']} laps; the first ones are left out."))

# %% [markdown]
# ## The steps
#
# *peak* is that of a whole process (of the GPU's memory where there is one), *own* the part of it that the step adds to
# a loaded model. A sampling step with guidance evaluates the model twice.

# %%
steps["seconds per clip"] = steps["seconds"] * steps["times"]
total = steps["seconds per clip"].sum()
display(steps.set_index("step").round(4).astype(object).fillna(""))
display(Markdown(f"A clip, tuned and inverted, and one edit: **{total:.1f} seconds** ({device})."))

# %% [markdown]
# ## What others report
#
# Other models, other sizes and other hardware: these figures say what such a method costs at full size, and cannot be
# held against the table above.

# %%
peers = {"Tune-A-Video": 2684, "FateZero": 349, "Rerender A Video": 285, "TokenFlow": 237, "Plug-and-Play": 208}
davis = ("40 frames, one edit", "not known to us", "TokenFlow (Geyer et al., 2023), its DAVIS clips")
paper = ("32 frames of 512x512", "one NVIDIA A100", "the paper, section 5.1")
published = [("Tune-A-Video, tuning", "about 600", *paper), ("Tune-A-Video, sampling", "about 60", *paper)]
published += [(name, str(seconds), *davis) for name, seconds in peers.items()]
columns = ["method", "seconds", "of", "hardware", "source"]
display(pd.DataFrame(published, columns=columns).set_index("method"))

# %% [markdown]
# ## A tuning step, by frames and pixels
#
# The whole step, convolutions and optimizer included, with the attention of the paper and with full attention.

# %%
kinds = {"sparse-causal": "ST-Attn", "full": "full attention"}
same_size = tuning[(tuning["height"] == height) & (tuning["width"] == width)]
seconds = same_size.pivot(index="frames", columns="attention", values="seconds")[list(kinds)].dropna()
lines = {name: seconds[kind].to_list() for kind, name in kinds.items()}
title = f"A tuning step at {height}x{width} pixels; {device}"
figures.show(figures.growth(seconds.index.to_list(), lines, title, "frames", "seconds"), f"{out}/figures/frames.png")

# %%
memory = same_size.pivot(index="frames", columns="attention", values="own GB")[list(kinds)].dropna().clip(lower=0.001)
lines = {name: memory[kind].to_list() for kind, name in kinds.items()}
title = f"Memory that a tuning step adds, at {height}x{width} pixels; {device}"
figures.show(figures.growth(memory.index.to_list(), lines, title, "frames", "GB"), f"{out}/figures/memory.png")

# %%
same_frames = tuning[tuning["frames"] == frames].assign(pixels=lambda rows: rows["height"] * rows["width"])
pixels = same_frames.pivot(index="pixels", columns="attention", values="seconds")[list(kinds)].dropna()
lines = {name: pixels[kind].to_list() for kind, name in kinds.items()}
title = f"A tuning step of {frames} frames; {device}"
figures.show(
    figures.growth(pixels.index.to_list(), lines, title, "pixels per frame", "seconds"), f"{out}/figures/pixels.png"
)

# %%
shape = ["attention", "frames", "height", "width"]
display(tuning.set_index(shape).round(3))

# %% [markdown]
# ## Attention alone
#
# One self-attention layer as in the first level of Stable Diffusion (320 channels, 8 heads), its forward pass.
# *multiply-adds* are those of its two products, QK and AV, counted while it runs.

# %%
names = {"own": "own frame", "first": "first frame", "sparse-causal": "ST-Attn", "full": "full attention"}
alone = layer.pivot(index="frames", columns="attention", values="seconds")[list(names)]
lines = {name: alone[kind].to_list() for kind, name in names.items()}
tokens, channels = int(layer["tokens"].iloc[0]), record["channels"]
title = f"One layer, {tokens} tokens per frame; {device}"
figures.show(figures.growth(alone.index.to_list(), lines, title, "frames", "seconds"), f"{out}/figures/attention.png")

# %%
display(layer.set_index(["attention", "frames", "tokens"]).round({"seconds": 5, "peak GB": 3, "own GB": 3}))

# %% [markdown]
# ## Evidence
#
# Exponents: the power of the number of frames that a quantity grows with over the three largest counts, 1 for linear
# and 2 for quadratic growth. An exponent is fitted to every lap, and the interval is over laps.

# %%
fitted = record["exponents"]
exponents = {name: bootstrap({str(lap): [value] for lap, value in enumerate(laps)}) for name, laps in fitted.items()}
exponents |= {name: laps[0] for name, laps in fitted.items() if len(laps) == 1}  # memory, which does not vary
display(pd.Series(exponents, name="exponent over frames").map("{:.2f}".format).to_frame())

# %%
linear, quadratic = {"at_most": enough["linear_growth"]}, {"at_least": enough["quadratic_growth"]}
most, least = (
    f"grows with at {words} the power {bound:g} of the frames"
    for words, bound in (("most", enough["linear_growth"]), ("least", enough["quadratic_growth"]))
)

# %%
expected = {
    "seconds, attention layer, sparse-causal": (f"ST-Attn's time {most}", linear),
    "seconds, attention layer, full": (f"Full attention's time {least}", quadratic),
    "seconds, tuning step, sparse-causal": (f"A tuning step's time {most}", linear),
    "memory, tuning step, sparse-causal": (f"A tuning step's memory {most}", linear),
}

# %%
rows = {}
for name, (claim, bound) in expected.items():
    key = name.replace(", ", "_").replace(" ", "_").replace("-", "_")
    rows[key] = decide(claim, f"Exponent over frames of {name}", exponents.get(name), **bound)

# %%
m, products = layer["frames"], 2 * channels * tokens**2  # QK and AV, and every pair of a query and a key
formula = {"sparse-causal": ("ST-Attn", "2mN²", 2 * m), "full": ("Full attention", "(mN)²", m**2)}
for kind, (name, text, factor) in formula.items():
    off = (layer["multiply-adds"] - factor * products)[layer["attention"] == kind].abs().max()
    claim, measure = f"{name} costs {text} per channel and product", "Largest gap between counted and formula"
    rows[f"multiply_adds_{kind.replace('-', '_')}"] = decide(claim, measure, int(off), 0, 0, "multiply-adds")

# %%
rows = settled(rows)
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))

# %% [markdown]
# ## Limits
#
# - Times are those of one machine as it was: other work on it slows some laps and not others. Intervals are over laps
#   of one run, which share what else the machine did meanwhile. That the paper's times hold is not tested: there was no
#   such hardware.
# - At the miniature's few tokens the step is mostly convolutions, and the kind of attention hardly shows in it; the
#   layer alone has more of them. Stable Diffusion at 512x512 has 4096 tokens per frame in its first level.
# - Projections, which every kind needs, grow linearly with the frames and pull the exponent of full attention below 2.
# - The fused attention of torch keeps no table of scores: the memory of full attention is not quadratic here, as it
#   would be where the scores are written out.
# - Starting Python and importing packages, some seconds per stage, is not in the table of the steps.
