# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Several objects
#
# **Question.** Does the method fail with several objects, and where they occlude each other? Is it the image model's
# fault, and does a condition help?
#
# **Claim** (paper, section 6). Clips of several objects, especially of objects that occlude each other, are where it
# fails, which the paper puts down to the image model. It suggests conditions such as depth, and shows none.
#
# The clips of the list that `objects` in `params.yaml` names show one thing that passes behind another that stands
# still, or two or three that pass each other. Each was tuned and inverted as any other clip. Its edits were sampled
# without a condition, by the tuned model and by the model before tuning, and under every kind of `control`, drawn from
# the source clip: its edges, the mask of its things, and their pose.

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
from measures.tables import CAPTION, METHOD, SOURCE, Stored, means
from publish import figures

# %% jupyter={"source_hidden": true}
from studies.benchmark import kept
from studies.objects import CASES, told
from studies.scores import Scores
from studies.settings import load_params
from studies.sources import kept_frames

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
out = "results/notebooks/05_multi_object"  # where figures, scores and metrics go
shown_frames = 8  # of a strip

# %% [markdown]
# ## What was sampled

# %%
params = load_params()
few = params.with_clips(params.objects)
listed, params = few.clips, told(few)
if not listed:
    display(Markdown("`objects` in params.yaml names no clips: nothing was edited, every question here stays open."))
display(pd.Series({clip: entry.caption for clip, entry in listed.items()}, name="caption", dtype=str).to_frame())

# %%
folder = Path("results/objects")
kinds = {name: kind for kind, name in CASES.items()} | {kind: kind for kind in params.control}
edits = [(clip, edit) for clip, entry in listed.items() for edit in entry.edits]
methods = {name: [pair for pair in edits if (folder / pair[0] / kind).exists()] for name, kind in kinds.items()}
methods = {
    name: Stored({(clip, edit): folder / clip / kinds[name] / edit for clip, edit in pairs})
    for name, pairs in methods.items()
}

# %%
scorer = Scores(params, source=lambda clip: kept_frames(params, folder / clip / "source"))
methods[SOURCE] = {(clip, CAPTION): scorer.source(clip) for clip in listed}
scores = scorer.table(methods).round(4)
scores = scores if "things" in scores else scores.assign(things=float("nan"), hidden=float("nan"))
scores.to_csv(f"{out}/scores.csv", index=False)
if listed and scorer.unread():
    display(Markdown(f"{scorer.unread()} Recall and swaps need both, too."))

# %% [markdown]
# ## By number and occlusion
#
# *Recall*: of all things, over the frames in which they can be seen, the share that is read at its true place, of the
# object and the colour asked for. *Swaps*: the share whose place is read as another thing of the prompt. *Hidden* is
# the share of the things that cannot be seen, over all frames. The judge errs, too: the source clips, scored by their
# own captions, show how much. What an edit has beyond that is its own.

# %%
measured = ["recall", "swaps", "edit success", "motion correlation"]
judged = [measure for measure in measured if measure in scores and scores[measure].notna().any()]
by_number = scores.groupby(["things", "method"], sort=False)[judged].mean()
if judged:
    display(scores.groupby("things")["hidden"].mean().map("{:.0%}".format).to_frame())
    display(by_number.unstack("method").round(2).sort_index())

# %% [markdown]
# Every clip, the mean of its edits without a condition, by its number of things and the share of them that is hidden:

# %%
ordered = scores.dropna(subset=["things"]).sort_values(["things", "hidden"], kind="stable")
told_of = ordered["clip"] + [f": {row.things:.0f}, {row.hidden:.0%} hidden" for row in ordered.itertuples()]
ordered = ordered.assign(method=told_of)
of_edits, of_source = (ordered[scores["method"].loc[ordered.index] == method] for method in (METHOD, SOURCE))
panels = means(of_edits, judged[:2])
if "recall" in panels:
    panels |= {"recall of the source": means(of_source, ["recall"])["recall"]}
    figures.show(figures.intervals(panels, "By clip, without a condition"), f"{out}/figures/clips.png")

# %% [markdown]
# ## Without tuning, and with a condition
#
# Means over the edits of the clips of several things, with 95 % intervals that resample the clips. In the tables, the
# *warp error* and EditBoard's *FF-alpha*, *FF-beta* and *Semantic* are better lower.

# %%
several = scores[scores["things"] > 1]
shown = [m for m in (*judged, "identity stability") if m in several and several[m].notna().any()]
if shown:
    title = f"{several['clip'].nunique()} clips of two and three things"
    figures.show(figures.intervals(means(several, shown), title), f"{out}/figures/conditions.png")

# %%
measures = ["centre error", "frame consistency", "text alignment", "PickScore", "motion fidelity", "warp error"]
measures += ["FF-alpha", "FF-beta", "Semantic"]
measures = [measure for measure in measures if measure in scores and scores[measure].notna().any()]
for name, chosen in (("all clips", scores), ("several things", several)):
    if len(chosen):
        display(pd.DataFrame(means(chosen, [*shown, *measures])).map("{:.2f}".format).rename_axis(name))

# %% [markdown]
# ## Every clip
#
# Of clip number i its edit number i, counted round: by their place in `params.yaml`, not by eye.

# %%
indices = figures.pick_frames(params.clip.num_frames, shown_frames)
for number, (clip, entry) in enumerate(listed.items()):
    edit, prompt = list(entry.edits.items())[number % len(entry.edits)]
    rows = {"source": scorer.source(clip)}
    rows |= {name: drawn[clip, edit] for name, drawn in methods.items() if (clip, edit) in drawn}
    figures.show(figures.strip(rows, indices, title=f"{clip}: {prompt}"), f"{out}/figures/{clip}.jpg")

# %% [markdown]
# ## Evidence
#
# What grows with number or occlusion is the slope of a straight line through the clips' means without a condition, each
# less the judge's own on the source; its interval is Student's, the clips being the sample. What a condition or tuning
# changes is paired: the same clip, edit prompt and noise with and without. A method that draws nothing recognisable
# has no swaps, so they are read beside recall; and as things that are to pass each other may stay apart, the motion is
# asked, too. What is there before tuning and stays is the image model's. *Per tenth hidden* is of the mean over things
# and frames, not of the peak that a clip's name gives.

# %%
whole, said = kept("objects", params)
display(Markdown(said))
asked = claims("05_multi_object", kinds=params.control)
tables = {f"all {whole['clip'].nunique()} clips": whole, f"{scores['clip'].nunique()} clips": scores}
rows = settled(answers(asked, tables))

# %%
write_metrics(f"{out}/metrics.json", rows)
display(Markdown("\n".join(f"- {evidence(row)}" for row in rows.values())))

# %% tags=["answer"] jupyter={"source_hidden": true}
display(Markdown(answer(rows)))
paired = {key: claim for key, claim in asked.items() if not claim.by}
figures.show_verdicts(paired, tables, rows, f"{out}/figures/evidence.png")

# %% [markdown]
# ## Limits
#
# - Clips of one thing are few, and more of it is hidden (first table), by something that stands still: a slope over the
#   number of things mixes the two, and that it is flat does not say that their number costs nothing. Nor are number and
#   occlusion told from the kind of object and the style.
# - What stays undecided here is not thereby refuted.
# - Where things cover each other the judge often reads too little, on source clips too. A right edit of such a frame
#   cannot be told from a wrong one, and what is beyond the judge's own may be too small.
# - Edges, mask and pose are of the source clip, the last two from its truth: in real footage a detector would have to
#   find them. Edges keep the shape of the old object, which an edit of the object is to change.
# - The paper suggests depth, which a drawn world does not have; and it shows no numbers to compare with.
