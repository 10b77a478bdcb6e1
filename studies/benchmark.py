"""Every method on a whole list of clips and edits, such as the 42 and 140 of the paper's protocol; runs if asked to."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from measures.tables import METHOD, Stored, trivial
from peers import PEERS
from studies.cluster import each
from studies.code import digest_of_code
from studies.digests import digest_of_files
from studies.method import SAME_RESULT, Method
from studies.peers import Peers
from studies.scores import Scores
from studies.settings import Params
from tav.clip import read_frames

KEPT = Path("reports/benchmark")
READ = ("model", "lora", "inflate", "clip", "tune", "invert", "edit", "peers", "score")  # sections of params.yaml


def benchmark(params: Params) -> None:
    """Tune on every clip of `benchmark.clips`, edit it by every method, score: reports/benchmark/scores.csv.

    settings.json beside it holds what it was made with. Clips run one after the other or, with `benchmark.ray`, as
    tasks of Ray; the scores are the same. If `benchmark.run` is false, nothing is done, and what an earlier run found
    stays.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    if not params.benchmark.run:
        print("benchmark.run is false in params.yaml: reports/benchmark stays as it is")
        return
    listed, scores = params.with_clips(params.benchmark.clips), {}
    Peers(listed)  # what is wrong with one is said before anything is tuned
    clips = each(score_clip, listed, list(listed.clips)) if params.benchmark.ray else _in_turn(listed)
    for name, table in tqdm(clips, "benchmark", len(listed.clips), disable=None):  # a bar is for a terminal
        scores[name] = table
    pd.concat(scores[name] for name in listed.clips).to_csv(KEPT / "scores.csv", index=False)
    (KEPT / "settings.json").write_text(json.dumps(made_with(params), indent=1) + "\n")


def _in_turn(params: Params) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in params.clips:
        yield name, score_clip(params, name)


def made_with(params: Params) -> dict:
    """What the benchmark's scores depend on: settings, the digest of the list of clips, and that of the measures."""
    settings = params.model_dump(mode="json", include=set(READ) | {"memory"})
    settings["memory"] = settings["memory"]["dtype"]
    settings["clip"].pop("fps")
    settings["tune"] = {name: value for name, value in settings["tune"].items() if name not in SAME_RESULT}
    measures = digest_of_code("measures.evaluate.Evaluator")
    return settings | {"clips": digest_of_files(params.benchmark.clips), "measures": measures}


def score_clip(params: Params, name: str) -> pd.DataFrame:
    """A row per method and edit of a clip, as `Scores.table` gives it, to four digits."""
    entry, method, peers = params.clips[name], Method(params), Peers(params)
    scores = Scores(params, source=lambda _: read_frames(method.source(entry).folder))
    ours = Stored({(name, edit): method.edit(entry, prompt).folder for edit, prompt in entry.edits.items()})
    edits = trivial(ours, scores.source) | {METHOD: ours}
    for peer in params.peers:
        pieces = peers.edits(peer, entry)
        edits[PEERS[peer].name] = Stored({(name, edit): piece.folder for edit, piece in pieces.items()})
    return scores.table(edits).round(4)
