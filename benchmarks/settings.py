"""Which settings edit best on the development clips, none of which is evaluated: for our method and for every peer.

    python benchmarks/settings.py tune-a-video per-frame sdedit

Every method gets as many tries, those of `TRIES`. A try tunes (if the method does) on every second clip of
data/development.yaml with the other settings of params.yaml, samples its edits and has them read by the judge. Its
worth is the mean over edits of edit success times motion correlation: both at once, so that neither doing nothing nor
forgetting the source pays. Text to video never sees the source: its worth is edit success alone. Everything that was
tried is in benchmarks/results/settings-METHOD.csv; a clip that is there already is not run again.
"""

import argparse
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path

import pandas as pd
from torch import Tensor

from measures.evaluate import Evaluator
from peers import METHODS
from studies.benchmark import sample, with_clips
from studies.peers import edit_as, load_image_model
from studies.scores import evaluator
from studies.settings import Params, load_params
from studies.stages import read_source
from studies.tuned import tuned
from tav.pipeline import TuneAVideoPipeline

RESULTS = Path(__file__).parent / "results"
LIST, OURS = "data/development.yaml", "tune-a-video"


def grid(**values: list) -> list[dict]:
    """All combinations of the values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


ALIKE = [{"feature_share": 0.8, "attention_share": 0.5}, {"feature_share": 0.5, "attention_share": 0.3}]
TRIES = {  # eight each
    OURS: grid(learning_rate=[1e-3, 2e-3], guidance_scale=[1.25, 1.5, 2.0, 3.0]),
    "per-frame": grid(captioned_inversion=[True, False], guidance_scale=[1.25, 1.5, 2.0, 3.0]),
    "sdedit": grid(strength=[0.4, 0.55, 0.7, 0.85], guidance_scale=[2.0, 4.0]),
    "plug-and-play": [{**alike, "guidance_scale": scale} for alike in ALIKE for scale in (1.5, 2.0, 3.0, 5.0)],
    "first-frame-attention": grid(captioned_inversion=[True, False], guidance_scale=[1.25, 1.5, 2.0, 3.0]),
    "attention-fusion": grid(threshold=[0.65, 0.8], cross_share=[0.4, 0.8], guidance_scale=[2.0, 4.0]),
    "feature-propagation": [
        {**alike, "keyframe_interval": interval, "guidance_scale": scale}
        for alike in ALIKE for interval in (2, 4) for scale in (2.0, 4.0)
    ],
    "text-to-video": grid(guidance_scale=[1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5]),
}  # fmt: skip


def search(method: str, params: Params, scorer: Evaluator) -> pd.DataFrame:
    """The scores of all tries of a method, a row per clip, try and edit."""
    file = RESULTS / f"settings-{method}.csv"
    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["settings", "clip"])
    pipe = None if method == OURS else load_image_model(params)
    for name in params.clips:
        if name not in set(rows["clip"]):
            edit = partial(ours, params, name) if method == OURS else partial(theirs, method, pipe, params, name)
            for settings in TRIES[method]:
                scores = scorer.table({method: edit(settings)}).drop(columns="method")
                rows = pd.concat([rows, scores.assign(settings=said(settings))]).round(4)
            RESULTS.mkdir(exist_ok=True)
            rows.to_csv(file, index=False)
            print(method, name, flush=True)
    return rows


def ours(params: Params, name: str, settings: dict) -> dict[tuple[str, str], Tensor]:
    """The edits of a clip by Tune-A-Video."""
    edit = params.edit.model_copy(update={"guidance_scale": settings["guidance_scale"]})
    return sample(params.model_copy(update={"edit": edit}), name, *tuned_at(settings["learning_rate"], name))


@lru_cache(maxsize=1)
def tuned_at(rate: float, name: str) -> tuple[TuneAVideoPipeline, Tensor]:
    """The model tuned on a development clip at a learning rate, and the clip's noise."""
    params = with_clips(load_params(), LIST)
    return tuned(params.model_copy(update={"tune": params.tune.model_copy(update={"learning_rate": rate})}), name)


def theirs(method: str, pipe, params: Params, name: str, settings: dict) -> dict[tuple[str, str], Tensor]:
    """The edits of a clip by a peer method."""
    pipe.set_progress_bar_config(disable=True)
    params = params.model_copy(update={"baselines": {method: {**params.baselines.get(method, {}), **settings}}})
    entry, clip = params.clips[name], read_source(params, name)
    prompts = entry.edits.items()
    return {(name, edit): edit_as(method, pipe, params, clip, entry.caption, prompt) for edit, prompt in prompts}


def said(settings: dict) -> str:
    """A try's settings in a table."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def worth(scores: pd.DataFrame, method: str) -> pd.Series:
    """What an edit is worth, 0 to 1."""
    moves = 1 if method == "text-to-video" else scores["motion correlation"].clip(lower=0)
    return scores["edit success"] * moves


def main() -> None:
    """Tries what is asked for and prints the means of every try, the best one first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(TRIES), metavar="METHOD", help=f"of {', '.join(TRIES)}")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(TRIES):
        parser.error(f"no method {', '.join(sorted(unknown))}: there are {', '.join(TRIES)}")
    params = with_clips(load_params(), LIST)
    params = params.model_copy(update={"clips": dict(list(params.clips.items())[::2])})
    scorer = evaluator(params, source=cache(lambda name: (read_source(params, name) + 1) / 2))
    for method in options.methods:
        table = search(method, params, scorer)
        table["worth"] = worth(table, method)
        measures = ["worth", "edit success", "motion correlation", "identity stability", "text alignment"]
        means = table.groupby("settings")[measures].mean().sort_values("worth", ascending=False)
        print(f"{method}\n{means.round(3).to_string()}")


if __name__ == "__main__":
    assert set(TRIES) == {OURS, *METHODS}
    main()
