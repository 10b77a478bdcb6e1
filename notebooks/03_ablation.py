# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Ablation
#
# **Question.** What do sparse-causal attention, DDIM inversion, tuning and temporal attention each buy?
#
# **Claim** (paper, section 5.3). Without sparse-causal attention the frames do not agree with each other; without the
# inverted noise, or without tuning, an edit loses the motion of its source; what is tuned is what carries it.
#
# The variants are lines of `ablation` in `params.yaml`. Each was tuned, inverted and sampled by the stages on the same
# clips, edit prompts and seed as the full method; here they are scored, held against it edit by edit, and shown. Two
# more variants sample for less than the paper does.

# %% jupyter={"source_hidden": true}
# ruff: noqa: E402  what is imported below is found from the folder with dvc.yaml
import os
from pathlib import Path

os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "dvc.yaml").exists()))

# %% jupyter={"source_hidden": true}
import pandas as pd
from IPython.display import Markdown, display

from measures.evidence import answer, evidence, settled, write_metrics
from measures.protocol import answers, claims
from measures.tables import METHOD, means
from publish import figures
from studies.benchmark import kept
from studies.scores import Scores, edits_in
from studies.settings import load_params
from tav.clip import read_frames

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
out = "results/notebooks/03_ablation"  # where figures, scores and metrics go
shown_frames = 4  # of a strip

# %% [markdown]
# ## What was compared

# %%
params = load_params()
settings = params.model_dump(mode="json")
variants = settings["ablation"] | settings["full_ablation"]
chosen = dict.fromkeys(variant for variant, _ in params.runs())
changes = {name: {key: value for key, value in variants[name].items() if value} for name in chosen}
seeds = [params.tune.seed, *(params.seeds if params.full else [])]
count = sum(len(entry.edits) for entry in params.clips.values())
text = f"{len(changes)} variants and the full method, {len(params.clips)} clips, {count} edits, seeds {seeds}:"
display(Markdown(text))
display(pd.Series(changes, name="what it changes in params.yaml").map(str).to_frame())

# %%
folders = {(variant, seed): Path("results/ablate", variant, str(seed)) for variant, seed in params.runs()}
folders = {(METHOD if variant == "method" else variant, seed): path for (variant, seed), path in folders.items()}
folders[METHOD, params.tune.seed] = Path("results/edit")
scorer = Scores(params)
tables = {at: scorer.table({at[0]: edits_in(params, folder)}).assign(seed=at[1]) for at, folder in folders.items()}
scores = pd.concat(tables.values()).round(4)
scores.to_csv(f"{out}/scores.csv", index=False)

# %%
if scorer.unread():
    display(Markdown(scorer.unread()))

# %% [markdown]
# ## Scores
#
# Means over all edits, with 95 % intervals that resample the clips. *Motion correlation*, *edit success* and *identity
# stability* come from the judge and the known truth of the drawn clips; *motion fidelity* compares point tracks of edit
# and source and needs no truth; *warp error* is how far a frame is from the one before it, moved as the source moves.
# EditBoard's three are better lower: *FF-alpha* (the same in grey levels), *FF-beta* (how far the flow's directions are
# from the source's) and *Semantic* (what changed outside of the source's things, where truth tells them).

# %%
wanted = ["motion correlation", "edit success", "identity stability", "frame consistency", "text alignment"]
measures = [measure for measure in wanted if measure in scores and scores[measure].notna().any()]
title = f"The full method and its variants, {len(params.clips)} clips"
figures.show(figures.intervals(means(scores, measures), title), f"{out}/figures/variants.png")

# %%
rest = ["PickScore", "centre error", "size error", "angle error", "motion fidelity", "warp error"]
rest = [*measures, *rest, "FF-alpha", "FF-beta", "Semantic"]
table = means(scores, [measure for measure in rest if measure in scores and scores[measure].notna().any()])
display(pd.DataFrame(table).map("{:.2f}".format).rename_axis("method"))

# %% [markdown]
# ## How long to tune
#
# From no step at all into overfitting, if `full` is true: with every step the clip is known better, and the prompt is
# followed less.

# %%
axis = {"0": "no-tuning", **{name.removeprefix("steps-"): name for name in changes if name.startswith("steps-")}}
axis = {steps: name for steps, name in axis.items() if name in changes} | {str(params.tune.steps): METHOD}
if len(axis) > 2:
    by_steps = {name: steps for steps, name in sorted(axis.items(), key=lambda item: int(item[0]))}
    chosen = pd.concat(scores[scores.method == name].assign(method=steps) for name, steps in by_steps.items())
    panels = means(chosen, measures)
    figures.show(figures.intervals(panels, "By the number of tuning steps"), f"{out}/figures/steps.png")

# %% [markdown]
# ## The same edits, side by side
#
# Of every clip its first edit, at the same frames. Chosen by their place in `params.yaml`, not by eye.

# %%
indices = figures.pick_frames(params.clip.num_frames, shown_frames)
for clip, entry in params.clips.items():
    edit, prompt = next(iter(entry.edits.items()))
    drawn = {name: folder / clip / edit for (name, seed), folder in folders.items() if seed == params.tune.seed}
    rows = {"source": scorer.source(clip)} | {name: read_frames(path) for name, path in drawn.items()}
    figures.show(figures.strip(rows, indices, title=f"{clip}: {prompt}"), f"{out}/figures/{clip}.jpg")

# %% [markdown]
# ## On all clips
#
# The same variants on the whole list of `benchmark.clips` and by every seed of `benchmark.seeds`, kept in
# `reports/benchmark` since its last run with `benchmark.run`.

# %%
listed, said = kept("ablation", params)
listed = listed[listed.method.isin([METHOD, *changes])]
size = listed["clip"].nunique()
seeded = f", seeds {' and '.join(map(str, sorted(listed['seed'].unique())))}" if size else ""
display(Markdown(said))

# %%
whole = listed[listed.method.isin([name for name, of in listed.groupby("method") if of["clip"].nunique() == size])]
if size:
    shown = [measure for measure in measures if measure in listed]
    figures.show(figures.intervals(means(whole, shown), f"{size} clips{seeded}"), f"{out}/figures/all-clips.png")

# %%
if size:
    given = [measure for measure in rest if measure in listed and listed[measure].notna().any()]
    display(pd.DataFrame(means(whole, given)).map("{:.2f}".format).rename_axis("method"))

# %% [markdown]
# ## Evidence
#
# Differences are paired: the same clip, edit prompt and seed with and without. Two variants are no parts of the paper
# but ways to sample for less: guidance in the first half of the steps alone (arXiv 2404.07724), which saves a quarter
# of the passes through the UNet, and a multistep solver with half the steps. They may cost at most
# `margins.sampling_loss` of edit success.

# %%
asked = claims("03_ablation", settings["margins"])
asked = {key: claim for key, claim in asked.items() if claim.asks() <= {METHOD, *changes}}
tables = {f"all {size} clips": listed, f"{len(params.clips)} clips": scores}
rows = settled(answers(asked, tables))

# %%
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))
told = {key: claim for key, claim in asked.items() if rows[key]["value"] is not None}
if told:
    figures.show(figures.verdicts(told, tables, rows), f"{out}/figures/evidence.png")

# %% [markdown]
# ## Limits
#
# - Of a clip's seeds, edits and prompts the interval sees only what clips make of them: it resamples clips.
# - The variants change one part each. What two of them do together is not asked.
# - Frame consistency rewards stillness: a variant that moves less agrees more with itself.
# - The paper shows one clip per ablation and no numbers, so there is nothing of it to be compared with.
