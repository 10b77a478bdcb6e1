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
# **Question.** What do sparse-causal attention, DDIM inversion, tuning and temporal attention each buy, and how long
# should one tune?
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
from measures.protocol import answers, claims, without
from measures.tables import METHOD, averaged, gains, means, over_clips
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
variants = {name: {key: value for key, value in of.items() if value} for name, of in variants.items()}
changes = {name: variants[name] for name in dict.fromkeys(variant for variant, _ in params.runs())}
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
# Means over all edits, with 95 % intervals that resample the clips. *Edited in motion* to *identity kept* come from the
# judge and the known truth of the drawn clips; *motion fidelity* compares point tracks of edit and source and needs no
# truth; *warp error* is how far a frame is from the one before it, moved as the source moves.
# EditBoard's three are better lower: *FF-alpha* (the same in grey levels), *FF-beta* (how far the flow's directions are
# from the source's) and *Semantic* (what changed outside of the source's things, where truth tells them).

# %%
wanted = ["edited in motion", "motion correlation", "edit success", "identity stability", "identity kept", "flicker"]
wanted += ["frame consistency", "text alignment"]
measures = [measure for measure in wanted if measure in scores and scores[measure].notna().any()]
title = f"The full method and its variants, {len(params.clips)} clips"
figures.show(figures.intervals(means(scores, measures), title), f"{out}/figures/variants.png")

# %%
rest = ["PickScore", "centre error", "size error", "angle error", "motion fidelity", "warp error"]
rest = [*measures, *rest, "FF-alpha", "FF-beta", "Semantic"]
table = means(scores, [measure for measure in rest if measure in scores and scores[measure].notna().any()])
display(pd.DataFrame(table).map("{:.2f}".format).rename_axis("method"))

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
listed = listed[listed.method.isin([METHOD, *variants])]
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
# ## On every third clip
#
# The variants of `full_ablation`, by the first of these seeds, on every third clip of the list; those above are beside
# them on the same clips.

# %%
third, said = kept("full_ablation", params)
whose = "every third clip, " * bool(len(third))
if len(third):
    alike = listed["clip"].isin(third["clip"]) & listed["seed"].isin(third["seed"])
    third = pd.concat([listed[alike], third])
else:  # what this run made of them
    third = scores[scores["seed"] == params.tune.seed]
    said = "The variants of `full_ablation` are not kept; those of this run are shown, if it made them (`full`)."
display(Markdown(said))
thirds = f"{third['clip'].nunique()} clips, seed {' and '.join(map(str, third['seed'].unique()))}"

# %%
there = set(third["method"])
judged = ["motion correlation", "edit success", "identity stability", "identity kept"]
judged = [measure for measure in judged if measure in third and third[measure].notna().any()]
along = judged or ["frame consistency", "text alignment"]  # without a judge, what CLIP says
shown = along[:3]
if there > {METHOD, *params.ablation}:
    figures.show(figures.intervals(means(third, shown), thirds), f"{out}/figures/all-variants.png")

# %% [markdown]
# ## With and without, two by two by two
#
# Inflation adds three things to the image model: ST-Attn in place of attention to the own frame, T-Attn, and a
# GroupNorm that takes its mean over all frames of a clip. Eight models have them or not, and each is tuned. A part's
# effect is asked three times: what it brings when it is **added to the image model** alone, what is lost when it is
# **taken from the full method**, and the **mean** over the four pairs of models that differ in it alone.

# %%
WITHOUT = {
    "ST-Attn": ("attention", "own"),
    "T-Attn": ("temporal", False),
    "pooled GroupNorm": ("norm", "frame"),
}

# %%
cells = {frozenset(): METHOD}  # by the parts that are taken away
for name, change in variants.items():
    away = [part for part, (key, value) in WITHOUT.items() if change.get("inflate", {}).get(key) == value]
    if away and change == {"inflate": dict(WITHOUT[part] for part in away)}:
        cells[frozenset(away)] = name
complete = len(cells) == 2 ** len(WITHOUT) and set(cells.values()) <= there

# %%
groups = {}
for part in WITHOUT:
    groups[f"with {part}"] = [name for away, name in cells.items() if part not in away]
    groups[f"without {part}"] = [name for away, name in cells.items() if part in away]

# %%
crossed, every, pairs = averaged(third, groups) if complete else third.head(0), frozenset(WITHOUT), {}
for part in WITHOUT:
    pairs[f"{part}, added to the image model"] = third, cells.get(every - {part}), cells.get(every)
    pairs[f"{part}, taken from the full method"] = third, METHOD, cells.get(frozenset({part}))
    pairs[f"{part}, mean"] = crossed, f"with {part}", f"without {part}"

# %%
if complete:
    effects = {m: {what: gains(table, m, *methods) for what, (table, *methods) in pairs.items()} for m in shown}
    title = f"What each part adds, {thirds}"
    figures.show(figures.intervals(effects, title, zero=True), f"{out}/figures/parts.png")

# %% [markdown]
# ## How long to tune
#
# From no step at all into over-fitting: with every step the clip is known better, and the prompt is followed less. Of
# objects that the image model was trained on and of others apart: the latter it can know from this one clip alone.

# %%
by_steps = {params.tune.steps: METHOD}
for name in there & variants.keys():
    steps = variants[name].get("tune", {}).get("steps")
    if variants[name] == {"tune": {"steps": steps}}:
        by_steps[steps] = name

# %%
apart = {"": third}
if "seen" in third and third["seen"].nunique() == 2:
    apart = {f"{name} objects": third[third["seen"] == seen] for name, seen in (("seen", True), ("unseen", False))}

# %%
panels = {measure: {} for measure in along}
for measure, group in [(measure, group) for measure in along for group in apart]:
    of = {steps: apart[group][apart[group]["method"] == name] for steps, name in sorted(by_steps.items())}
    panels[measure][group] = {steps: over_clips(rows, measure) for steps, rows in of.items()}
if len(by_steps) > 2:
    figures.show(figures.course(panels, f"By the steps of tuning, {thirds}", "steps"), f"{out}/figures/steps.png")

# %% [markdown]
# ## Evidence
#
# Differences are paired: the same clip, edit prompt and seed with and without. Two variants are no parts of the paper
# but ways to sample for less: guidance in the first half of the steps alone (arXiv 2404.07724), which saves a quarter
# of the passes through the UNet, and a multistep solver with half the steps. They may cost at most
# the protocol's `sampling_loss` of edits in motion.

# %%
asked = claims("03_ablation")
known = {METHOD, *changes, *there, *crossed["method"]}
asked = {key: claim for key, claim in asked.items() if claim.asks() <= known}
tables = {
    f"all {size} clips": listed,
    f"{whose}{thirds}": pd.concat([third, crossed]),
}
tables |= {f"{len(params.clips)} clips": scores}
rows = settled(answers(asked, tables))

# %%
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %%
display(Markdown(without(asked, rows, tables, params.clips)))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))
figures.show_verdicts(asked, tables, rows, f"{out}/figures/evidence.png")

# %% [markdown]
# ## Limits
#
# - Of a clip's seeds, edits and prompts the interval sees only what clips make of them: it resamples clips.
# - Beside the two by two by two, the variants change one part each.
# - What is asked on every third clip has wide intervals, and one seed.
# - Frame consistency rewards stillness: a variant that moves less agrees more with itself.
# - The paper shows one clip per ablation and no numbers, so there is nothing of it to be compared with.
