"""Every method on a whole list of clips and edits, such as the 42 and 140 of the paper's protocol; runs if asked to."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML
from torch import Tensor
from tqdm import tqdm

from measures.tables import METHOD, trivial
from studies.cluster import each
from studies.peers import edit_as, load_image_model, peer_settings
from studies.scores import evaluator
from studies.settings import Params, settings_of
from studies.stages import find_clip, fingerprint, guidance, label, read_source, start_noise
from studies.tuned import tuned
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline

KEPT, STATE = Path("reports/benchmark"), Path(".state/benchmark")


def benchmark(params: Params) -> None:
    """Tune on every clip of `benchmark.clips`, edit it by every method, score: reports/benchmark/scores.csv.

    settings.json beside it holds what it was made with. Clips run one after the other or, with `benchmark.ray`, as
    tasks of Ray; the scores are the same. Of an interrupted run the clips that were done stay done. If `benchmark.run`
    is false, nothing is done, and what an earlier run found stays.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    if not params.benchmark.run:
        print("benchmark.run is false in params.yaml: reports/benchmark stays as it is")
        return
    listed = with_clips(params, params.benchmark.clips)
    for method in params.baselines:
        peer_settings(params, method)  # what is wrong is said before anything is tuned
    done = {name: STATE / f"{name}-{_key(listed, name)}.csv" for name in listed.clips}
    missing = [name for name, path in done.items() if not path.exists()]
    STATE.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(done), initial=len(done) - len(missing), desc="benchmark") as bar:
        for name, scores in each(score_clip, listed, missing) if params.benchmark.ray else _in_turn(listed, missing):
            scores.to_csv(done[name].with_suffix(".partial"), index=False)
            done[name].with_suffix(".partial").rename(done[name])
            bar.update()
    pd.concat(map(pd.read_csv, done.values())).to_csv(KEPT / "scores.csv", index=False)
    (KEPT / "settings.json").write_text(json.dumps(made_with(params), indent=1) + "\n")


def _in_turn(params: Params, names: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in names:
        yield name, score_clip(params, name)


def made_with(params: Params) -> dict:
    """The settings that the benchmark's scores depend on."""
    return {key: value for key, value in settings_of(params, "benchmark").items() if key != "benchmark.run"}


def score_clip(params: Params, name: str) -> pd.DataFrame:
    """A row per method and edit of a clip, as `Evaluator.table` gives it, to four digits."""
    edits = edits_by_all(params, name)
    return evaluator(params, source=cache(lambda name: (read_source(params, name) + 1) / 2)).table(edits).round(4)


def edits_by_all(params: Params, name: str) -> dict[str, dict[tuple[str, str], Tensor]]:
    """Every edit of a clip by every method: {method: {(clip, edit): frames f 3 h w in [0, 1]}}."""
    entry, clip = find_clip(params, name), read_source(params, name)
    state = STATE / f"{name}-{_key(params, name)}.safetensors"
    ours = sample(params, name, *tuned(params, name, state))
    edits = trivial(ours, lambda _: (clip + 1) / 2) | {METHOD: ours}
    pipe = load_image_model(params)
    for method in params.baselines:
        edits[method] = {}
        for edit, prompt in entry.edits.items():
            label(pipe, f"{method} {name} {edit}")
            edits[method][name, edit] = edit_as(method, pipe, params, clip, entry.caption, prompt).cpu()
    state.unlink(missing_ok=True)
    return edits


def sample(params: Params, name: str, pipe: TuneAVideoPipeline, noise: Tensor) -> dict[tuple[str, str], Tensor]:
    """Every edit of a clip from its noise: {(clip, edit): frames f 3 h w in [0, 1]}."""
    task, edits = {"num_inference_steps": params.edit.steps, **guidance(params)}, {}
    for edit, prompt in params.clips[name].edits.items():
        label(pipe, f"edit {name} {edit}")
        edits[name, edit] = pipe(prompt, start_noise(params, noise), **task, output_type="pt").frames[0].cpu()
    return edits


def with_clips(params: Params, path: str) -> Params:
    """The same settings with the clips of another list, a YAML file with `clips` as in params.yaml."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: benchmark.clips names a list of clips, such as data/evaluation.yaml")
    clips = YAML(typ="safe").load(Path(path))["clips"]
    return Params.model_validate(params.model_dump(mode="json") | {"clips": clips})


def _key(params: Params, name: str) -> str:
    """Names what a clip's scores depend on, so that only scores of the same run are taken over."""
    settings = made_with(params) | {"benchmark.clips": None, "clip": params.clips[name].model_dump()}
    return hashlib.sha256((json.dumps(settings) + fingerprint(params, name)).encode()).hexdigest()[:16]
