"""Which learning rate and guidance scale edit best on the development clips, none of which is evaluated.

    python benchmarks/settings.py --learning-rates 3e-4 --guidance-scales 2 3.5 5 7.5

Tunes on every clip of data/development.yaml with the other settings of params.yaml, samples its edits and has them read
by the judge. A setting's worth is the mean over edits of edit success times motion correlation: both at once, so that
neither doing nothing nor forgetting the source pays. Everything that was tried is in benchmarks/results/settings.csv;
a row that is there already is not run again.
"""

import argparse
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from tav.clip import read_clip
from tav.config import Params, load_params
from tav.evaluate import Evaluator
from tav.stages import find_clip, load_model
from tav.tune import tune

TABLE = Path(__file__).parent / "results" / "settings.csv"


def with_clips(params: Params, file: str) -> Params:
    """The settings of params.yaml with the clips of another list."""
    clips = YAML(typ="safe").load(Path(file))["clips"]
    return Params.model_validate(params.model_dump(mode="json") | {"clips": clips})


def read(params: Params, name: str):
    """A clip as the stage `tune` reads it: f 3 h w in [-1, 1]."""
    source = find_clip(params, name).source
    size, fit = params.clip.size, params.clip.fit
    return read_clip(source.path, params.clip.num_frames, size, source.start, source.stride, fit)


def try_rate(params: Params, rate: float, scales: list[float], evaluator: Evaluator) -> list[dict]:
    """Tunes on every clip and scores its edits at every guidance scale: a row per clip, edit and scale."""
    rows = []
    for name, entry in params.clips.items():
        pipe = load_model(params)
        pipe.set_progress_bar_config(disable=True)
        clip = read(params, name)
        list(tune(pipe, clip, entry.caption, **params.tune.model_dump() | {"learning_rate": rate}))
        noise = pipe.invert(pipe.encode_clip(clip), params.invert.steps)
        for scale, (edit, prompt) in product(scales, entry.edits.items()):
            frames = pipe(prompt, noise, params.edit.steps, guidance_scale=scale, output_type="pt").frames[0]
            scores = evaluator.score(name, edit, frames)
            rows.append({"learning rate": rate, "guidance scale": scale, "clip": name, "edit": edit} | scores)
        print(f"learning rate {rate:g}: {name}", flush=True)
    return rows


def main() -> None:
    """Tries what is asked for and prints the table of means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4])
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[2, 3.5, 5, 7.5])
    options = parser.parse_args()
    params = with_clips(load_params(), "data/development.yaml")
    evaluator = Evaluator(params, source=cache(lambda name: (read(params, name) + 1) / 2))
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    for rate in options.learning_rates:
        done = {row["guidance scale"] for row in rows if row["learning rate"] == rate}
        if wanted := [scale for scale in options.guidance_scales if scale not in done]:
            rows += try_rate(params, rate, wanted, evaluator)
            TABLE.parent.mkdir(exist_ok=True)
            pd.DataFrame(rows).round(4).to_csv(TABLE, index=False)
    table = pd.DataFrame(rows)
    table["worth"] = table["edit success"] * table["motion correlation"].clip(lower=0)
    measures = ["worth", "edit success", "motion correlation", "identity stability", "text alignment"]
    print(table.groupby(["learning rate", "guidance scale"])[measures].mean().round(3).to_string())


if __name__ == "__main__":
    main()
