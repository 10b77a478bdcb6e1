"""Every method on a whole list of clips and edits, such as the 42 and 140 of the paper's protocol; runs if asked to."""

import hashlib
import json
from functools import cache
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML
from torch import Tensor
from tqdm import tqdm

from studies.peers import edit_as, load_image_model
from tav.config import Params, settings_of
from tav.errors import InputError
from tav.evaluate import METHOD, Evaluator, trivial
from tav.pipeline import TuneAVideoPipeline
from tav.stages import find_clip, fingerprint, load_model, read_source
from tav.tune import tune

KEPT, STATE = Path("reports/benchmark"), Path(".state/benchmark")


def benchmark(params: Params) -> None:
    """Tune on every clip of `benchmark.clips`, edit it by every method, score: reports/benchmark/scores.csv.

    settings.json beside it holds what it was made with. Of an interrupted run the clips that were done stay done. If
    `benchmark.run` is false, nothing is done, and what an earlier run found stays.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    if not params.benchmark.run:
        print("benchmark.run is false in params.yaml: reports/benchmark stays as it is")
        return
    listed = with_clips(params, params.benchmark.clips)
    evaluator = Evaluator(listed, source=cache(lambda name: (read_source(listed, name) + 1) / 2))
    done = []
    for name in tqdm(listed.clips, "benchmark"):
        done.append(STATE / f"{name}-{_key(listed, name)}.csv")
        if not done[-1].exists():
            scores = evaluator.table(edits_by_all(listed, name)).round(4)
            STATE.mkdir(parents=True, exist_ok=True)
            scores.to_csv(done[-1].with_suffix(".partial"), index=False)
            done[-1].with_suffix(".partial").rename(done[-1])
    pd.concat(map(pd.read_csv, done)).to_csv(KEPT / "scores.csv", index=False)
    (KEPT / "settings.json").write_text(json.dumps(made_with(params), indent=1) + "\n")


def made_with(params: Params) -> dict:
    """The settings that the benchmark's scores depend on."""
    settings = settings_of(params, "benchmark")
    settings["benchmark"] = {"clips": params.benchmark.clips}
    return settings


def edits_by_all(params: Params, name: str) -> dict[str, dict[tuple[str, str], Tensor]]:
    """Every edit of a clip by every method: {method: {(clip, edit): frames f 3 h w in [0, 1]}}."""
    entry, clip = find_clip(params, name), read_source(params, name)
    ours = sample(params, name, *tuned(params, name))
    edits = trivial(ours, lambda _: (clip + 1) / 2) | {METHOD: ours}
    pipe = load_image_model(params)
    pipe.set_progress_bar_config(disable=True)
    for method in params.baselines:
        prompts = {(name, edit): prompt for edit, prompt in entry.edits.items()}
        edits[method] = {
            pair: edit_as(method, pipe, params, clip, entry.caption, prompt) for pair, prompt in prompts.items()
        }
    return edits


def tuned(params: Params, name: str) -> tuple[TuneAVideoPipeline, Tensor]:
    """The model tuned on a clip, and the clip's inverted noise f c h w."""
    entry, clip, pipe = find_clip(params, name), read_source(params, name), load_model(params)
    pipe.set_progress_bar_config(disable=True)
    list(tune(pipe, clip, entry.caption, **params.tune.model_dump()))
    return pipe, pipe.invert(pipe.encode_clip(clip), params.invert.steps)


def sample(params: Params, name: str, pipe: TuneAVideoPipeline, noise: Tensor) -> dict[tuple[str, str], Tensor]:
    """Every edit of a clip from its noise: {(clip, edit): frames f 3 h w in [0, 1]}."""
    settings = {"guidance_scale": params.edit.guidance_scale, "negative_prompt": params.edit.negative_prompt}
    return {
        (name, edit): pipe(prompt, noise, params.edit.steps, output_type="pt", **settings).frames[0]
        for edit, prompt in params.clips[name].edits.items()
    }


def with_clips(params: Params, path: str) -> Params:
    """The same settings with the clips of another list, a YAML file with `clips` as in params.yaml."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: benchmark.clips names a list of clips, such as data/evaluation.yaml")
    clips = YAML(typ="safe").load(Path(path))["clips"]
    return Params.model_validate(params.model_dump(mode="json") | {"clips": clips})


def _key(params: Params, name: str) -> str:
    """Names what a clip's scores depend on, so that only scores of the same run are taken over."""
    settings = made_with(params) | {"benchmark": None, "clip": params.clips[name].model_dump()}
    return hashlib.sha256((json.dumps(settings) + fingerprint(params, name)).encode()).hexdigest()[:16]
