# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Control
#
# **Question.** Do ControlNet and T2I-Adapter combine with a tuned model with no further training?
#
# **Claim** (paper, section 4). A model tuned on one clip stays open to what was made for the image model: a control
# shown one condition per frame leads the clip that is drawn, and the edit is still what its prompt says.
#
# The controls of `params.yaml` were trained on single pictures for the image model, before any clip was seen. The stage
# `control` used them as they are on every tuned model. Two things are asked of them:
#
# - **own**: every edit from the clip's inverted noise, under the condition of its own source. Is anything lost against
#   the edit without control?
# - **other**: each clip's first edit from random noise, which holds no motion, under the condition of the *next* clip
#   of `params.yaml`. Do the drawn things go where that clip's things go?

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
from measures.tables import METHOD, Stored, gains, means
from publish import figures
from studies.benchmark import kept
from studies.scores import Scores, edits_in
from studies.settings import load_params
from tav.clip import read_frames

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
out = "results/notebooks/06_control"  # where figures, scores and metrics go
shown_frames = 4  # of a strip

# %% [markdown]
# ## What was sampled

# %%
params, results = load_params(), Path("results/control")
kinds = [kind for kind in params.control if (results / kind / "own").exists()]
following = {clip: params.next_clip(clip) for clip in params.clips}
count = sum(len(entry.edits) for entry in params.clips.values())
if not kinds:
    display(Markdown("Nothing was drawn under a control of params.yaml: every question here stays open."))
setting = f"{params.edit.steps} DDIM steps, guidance {params.edit.guidance_scale:g}"
display(Markdown(f"{len(params.clips)} clips with {count} edits, {setting}, without control and under that of:"))
display(pd.Series({kind: params.control[kind] for kind in kinds}, name="model", dtype=str).to_frame())

# %% [markdown]
# Edges are Canny's, of the source frames; depth and openpose are found in them by the models of `conditions`. Mask and
# pose are drawn from what is known of a clip (its truth), so that a clip without truth has neither.

# %%
folders = [folder for folder in sorted(results.glob("*/o*/*/*")) if folder.is_dir()]  # kind, own or other, clip, edit
drawn = Stored({folder.relative_to(results).parts: folder for folder in folders})
edits = edits_in(params, "results/edit")
methods = {METHOD: edits}
for kind in kinds:
    own = [pair for pair in edits if (kind, "own", *pair) in drawn]
    methods[kind] = Stored({pair: drawn.data[kind, "own", *pair] for pair in own})

# %% [markdown]
# ## Is the condition followed?
#
# The judge reads off every frame where the things are. *Centre error* is how far their centre is from where the
# condition's clip has it, in pixels of a frame of 64; *mask overlap* is the intersection over union of the pixels that
# show a thing, there and here; *motion correlation* compares the whole path (1: the same motion, 0: none of it). That
# something is drawn where it should be does not say that it is what the prompt asks: *edit success* does.

# %%
scorer = Scores(params)
cases = {(*at, following[at[2]] if at[1] == "other" else at[2]): folder for at, folder in drawn.data.items()}
cases |= {("none", "own", *pair, pair[0]): folder for pair, folder in edits.data.items()}
paths = {case: scorer.led(*case[2:], read_frames(folder)) for case, folder in cases.items()}

# %%
columns = ["method", "whose", "clip", "edit", "centre error", "mask overlap", "motion correlation", "edit success"]
rows = [dict(zip(columns, case[:4], strict=False)) | path for case, path in paths.items() if path]
paths = pd.DataFrame(rows, columns=columns)
paths = paths.sort_values("method", key=lambda names: names.map(["none", *kinds].index), kind="stable").round(4)
paths.to_csv(f"{out}/paths.csv", index=False)
if scorer.unread():
    display(Markdown(f"{scorer.unread()} Whether a condition is followed is left to the eye there."))

# %%
titles = {"other": "From random noise, under the next clip's condition", "own": "Under the clip's own condition"}
tables = {whose: paths[paths.whose == whose] for whose in titles}
for whose, title in titles.items():
    if len(tables[whose]):
        chart = figures.intervals(means(tables[whose], columns[4:]), title)
        figures.show(chart, f"{out}/figures/{whose}.png")

# %% [markdown]
# ## What is lost?
#
# Every edit under its clip's own condition, less the same edit without control: means with 95 % intervals that resample
# the clips. The table's last columns need neither judge nor truth but for *Semantic*: point tracks and flow against the
# source's (*motion fidelity*, better higher; *warp error* and EditBoard's *FF-alpha*, *FF-beta* and *Semantic*, lower).

# %%
scores = scorer.table(methods).round(4)
scores.to_csv(f"{out}/scores.csv", index=False)
wanted = ["edited in motion", "edit success", "identity stability", "identity kept", "motion correlation"]
wanted += ["frame consistency", "text alignment"]
taken = [measure for measure in scores if scores[measure].notna().any()]
measures = [measure for measure in wanted if measure in taken]
others = ["PickScore", "motion fidelity", "warp error", "FF-alpha", "FF-beta", "Semantic"]
table = means(scores, [*measures, *(measure for measure in others if measure in taken)])
display(pd.DataFrame(table).map("{:.2f}".format).rename_axis("method"))

# %%
lost = {measure: {kind: gains(scores, measure, kind, METHOD) for kind in kinds} for measure in measures}
if kinds:
    chart = figures.intervals(lost, "Gained (above 0) or lost by control, under the own condition")
    figures.show(chart, f"{out}/figures/lost.png")

# %% [markdown]
# ## Under the own condition
#
# Clip number i shows its edit number i, counted round: chosen by their place in `params.yaml`, not by eye.

# %%
indices = figures.pick_frames(params.clip.num_frames, shown_frames)
for number, (clip, entry) in enumerate(params.clips.items()):
    edit, prompt = list(entry.edits.items())[number % len(entry.edits)]
    strip = {"source": scorer.source(clip), "edit without control": edits[clip, edit]}
    for kind in (kind for kind in kinds if (kind, "own", clip, edit) in drawn):
        strip[f"condition: {kind}"] = read_frames(results / kind / "condition" / clip)
        strip[f"under {kind}"] = drawn[kind, "own", clip, edit]
    figures.show(figures.strip(strip, indices, title=f"{clip}: {prompt}"), f"{out}/figures/{clip}.jpg")

# %% [markdown]
# ## Under another clip's condition
#
# The first edit of every clip. The first row is the clip whose condition was given, the second what the same random
# noise becomes without one.

# %%
for clip, edit in [pair for pair in edits if ("none", "other", *pair) in drawn]:
    shown = following[clip]
    strip = {f"source: {shown}": scorer.source(shown), "without control": drawn["none", "other", clip, edit]}
    for kind in (kind for kind in kinds if (kind, "other", clip, edit) in drawn):
        strip[f"condition: {kind}"] = read_frames(results / kind / "condition" / shown)
        strip[f"under {kind}"] = drawn[kind, "other", clip, edit]
    title = f"{clip}: {params.clips[clip].edits[edit]}"
    figures.show(figures.strip(strip, indices, title=title), f"{out}/figures/{clip}-other.jpg")

# %% [markdown]
# ## Evidence
#
# Differences are paired: the same clip, prompt and noise with and without control.

# %%
paths_of_all, said = kept("paths", params)
scores_of_all, _ = kept("control", params)
size = scores_of_all["clip"].nunique()
display(Markdown(said))

# %%
led = [table[table["whose"] == "other"].replace({"method": {"none": "no control"}}) for table in
       (paths_of_all.reindex(columns=paths.columns), paths)]  # fmt: skip
asked = claims("06_control", kinds=kinds)
names = f"all {size} clips", f"{len(params.clips)} clips"
tables = {"other": dict(zip(names, led, strict=True)), "own": dict(zip(names, (scores_of_all, scores), strict=True))}

# %%
rows = {}
for whose in tables:
    rows |= answers({key: claim for key, claim in asked.items() if key.startswith(whose)}, tables[whose])
rows = settled(rows)

# %%
own = {key: claim for key, claim in asked.items() if key.startswith("own")}
figures.show_verdicts(own, tables["own"], rows, f"{out}/figures/evidence-own.png")

# %%
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))
other = {key: claim for key, claim in asked.items() if key.startswith("other")}
figures.show_verdicts(other, tables["other"], rows, f"{out}/figures/evidence.png")

# %% [markdown]
# ## Limits
#
# - Where no judge or no truth is (real footage), whether a condition is followed stays undecided: look at the strips.
# - Mask and pose come from what is known of the drawn clips. Depth and openpose, which real footage has, come from
#   models whose errors are then part of the result.
# - A clip's own condition tells what its inverted noise tells already: that it costs nothing says more than that it
#   helps.
# - Edges hold the shapes of the source as well as its path: an edit to another object or place has to disagree.
# - One seed of the random noise, one strength of the control, no further training of anything.
# - The paper shows single examples of such combinations and gives no numbers.
