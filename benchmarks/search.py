"""Which settings edit best on the development clips, none of which is evaluated: for our method and for every peer.

    python -m benchmarks.search tune-a-video per-frame sdedit

Every method gets as many tries, those of `TRIES`. A try tunes (if the method does) on four clips of
data/development.yaml, two of them of unseen objects, with the other settings of params.yaml, samples its edits and has
them read by the judge. Its worth is the mean over edits of what `measures.protocol.worth` names. Everything that was
tried is in benchmarks/results/settings/METHOD.csv; what it is made from are pieces, and is not made twice.
"""

import argparse
import json
import sys
from functools import lru_cache
from itertools import product
from pathlib import Path

import pandas as pd

from measures.clips import ClipEntry
from measures.protocol import worth
from measures.tables import Stored
from peers import PEERS
from studies.command import ended
from studies.method import Method
from studies.peers import Peers
from studies.scores import Scores
from studies.settings import Params, load_params
from studies.store import Piece
from tav import interrupt
from tav.clip import read_frames

RESULTS = Path(__file__).parent / "results/settings"
LIST, OURS = "data/development.yaml", "tune-a-video"


def grid(**values: list) -> list[dict]:
    """All combinations of the values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


SCALES = [1.0, 2.0, 4.0, 7.0]  # of guidance: from none to more than most methods want here
HIGHER = [2.0, 4.0, 7.0, 11.0]  # of methods that were best at 7
ALIKE = [{"feature_share": 0.8, "attention_share": 0.5}, {"feature_share": 0.5, "attention_share": 0.3}]
TRIES = {  # eight each: two settings of a method's own, at four scales
    OURS: grid(learning_rate=[1e-3, 2e-3], guidance_scale=SCALES),
    "per-frame": grid(captioned_inversion=[True, False], guidance_scale=SCALES),
    "sdedit": grid(strength=[0.6, 0.8], guidance_scale=HIGHER),
    "plug-and-play": [{**alike, "guidance_scale": scale} for alike in ALIKE for scale in SCALES],
    "text2video-zero": grid(captioned_inversion=[True, False], guidance_scale=SCALES),
    "fatezero": grid(threshold=[0.65, 0.8], guidance_scale=SCALES),
    "tokenflow": [{**alike, "guidance_scale": scale} for alike in ALIKE for scale in SCALES],
    "vidtome": [{**alike, "guidance_scale": scale} for alike in ALIKE for scale in HIGHER],
    "text-to-video": grid(guidance_scale=[*SCALES, 1.5, 3.0, 5.5, 9.0]),
}


def search(method: str, params: Params) -> pd.DataFrame:
    """The scores of all tries of a method, a row per clip, try and edit; also in benchmarks/results/settings."""
    sources = Method(params)
    scores, rows = Scores(params, lambda name: read_frames(sources.source(params.clips[name]).folder)), []
    for name, entry in params.clips.items():
        for settings in TRIES[method]:
            pieces = edits_at(method, params, settings, entry)
            edits = Stored({(name, edit): piece.folder for edit, piece in pieces.items()})
            rows.append(scores.table({method: edits}).drop(columns="method").assign(settings=said(settings)))
        print(method, name, flush=True)
    table = pd.concat(rows).round(4)
    RESULTS.mkdir(exist_ok=True, parents=True)
    table[["settings", *table.columns.drop("settings")]].to_csv(RESULTS / f"{method}.csv", index=False)
    return table


def edits_at(method: str, params: Params, settings: dict, entry: ClipEntry) -> dict[str, Piece]:
    """The edits of a clip by a method with other settings than those of params.yaml."""
    if method != OURS:
        own = {method: {**params.peers.get(method, {}), **settings}}
        return peers_at(json.dumps(own)).edits(method, entry)
    ours = method_at(settings["learning_rate"], settings["guidance_scale"])
    return {edit: ours.edit(entry, prompt) for edit, prompt in entry.edits.items()}


@lru_cache(maxsize=1)
def method_at(rate: float, scale: float) -> Method:
    """Our method at another learning rate and guidance scale."""
    return Method(load_params().changed(tune={"learning_rate": rate}, edit={"guidance_scale": scale}))


@lru_cache(maxsize=1)
def peers_at(own: str) -> Peers:
    """The peers with these settings, {peer: settings} as JSON."""
    return Peers(load_params().model_copy(update={"peers": json.loads(own)}))


def said(settings: dict) -> str:
    """A try's settings in a table."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def main() -> int:
    """Tries what is asked for and prints the means of every try, the best one first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(TRIES), metavar="METHOD", help=f"of {', '.join(TRIES)}")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(TRIES):
        parser.error(f"no method {', '.join(sorted(unknown))}: there are {', '.join(TRIES)}")
    return ended(lambda: _search(options.methods))


def _search(methods: list[str]) -> None:
    params = load_params().with_clips(LIST)
    third = [clip for number, clip in enumerate(params.clips.items()) if number % 8 in (0, 3)]  # seen and unseen
    params = params.model_copy(update={"clips": dict(third)})
    for method in methods:
        table = search(method, params)
        table["worth"] = table[worth(method)]
        measures = ["worth", "edit success", "motion correlation", "identity stability", "text alignment"]
        means = table.groupby("settings")[measures].mean().sort_values("worth", ascending=False)
        print(f"{method}\n{means.round(3).to_string()}")


if __name__ == "__main__":
    assert set(TRIES) == {OURS, *PEERS}
    sys.exit(interrupt.run(main))
