"""What the verdicts rest on: every method, variant and control on a whole list of clips; runs if asked to.

The list of the miniature has the 42 clips and 140 edits of the paper's protocol. What a run found is committed.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from measures.clips import ClipEntry
from measures.score import psnr
from measures.tables import CAPTION, METHOD, SOURCE, Stored, trivial
from peers import PEERS
from studies import control, objects
from studies.ahead import make_ahead
from studies.cluster import each
from studies.code import digest_of_code
from studies.digests import digest_of_files
from studies.method import SAME_RESULT, Method
from studies.peers import Peers
from studies.results import reading
from studies.scores import Scores
from studies.settings import Params
from tav.clip import read_frames

KEPT = Path("reports/benchmark")
READ = ("model", "lora", "inflate", "clip", "tune", "invert", "edit", "score")  # sections that every part depends on
PARTS = {  # by the name of its file: the section that names its methods, which is also what `benchmark.parts` asks for
    "scores": "peers",
    "ablation": "ablation",
    "full_ablation": "full_ablation",
    "control": "control",
    "paths": "control",
    "reconstructions": "peers",
    "objects": "control",
}
THIRD = 3  # of so many clips one is taken for the variants of full_ablation


def benchmark(params: Params) -> None:
    """Makes and scores the clips of `benchmark.clips` in every way: reports/benchmark/<part>.csv, see `score_clip`.

    settings.json beside them holds what they were made with. Parts that `benchmark.parts` does not ask for stay if they
    were made with the same settings, and are deleted otherwise. Clips are made side by side as `processes` says or,
    with `benchmark.ray`, as tasks of Ray; the scores are the same. If `benchmark.run` is false, nothing is done, and
    what an earlier run found stays.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    if not params.benchmark.run:
        print("benchmark.run is false in params.yaml: reports/benchmark stays as it is")
        return
    lists = {score_clip: params.with_clips(params.benchmark.clips)}
    if "objects" in params.benchmark.parts:
        lists[score_several] = params.with_clips(params.benchmark.objects)
    Peers(params)  # what is wrong with one is said before anything is tuned
    parts = {}
    for score, listed in lists.items():
        clips = each(score, listed, list(listed.clips)) if params.benchmark.ray else _in_turn(score, listed)
        tables = dict(tqdm(clips, "benchmark", len(listed.clips), disable=None))  # a bar is for a terminal
        for part in dict.fromkeys(part for of in tables.values() for part in of):
            parts[part] = pd.concat(tables[name][part] for name in listed.clips if part in tables[name])
    for part in PARTS:
        path = KEPT / f"{part}.csv"
        if path.is_file() and len(kept(part, params)[0]) < len(pd.read_csv(path)):  # some of it had other settings
            path.unlink()
    for part, table in parts.items():
        table.to_csv(KEPT / f"{part}.csv", index=False)
    (KEPT / "settings.json").write_text(json.dumps(made_with(params), indent=1) + "\n")


def _in_turn(score: Callable, params: Params) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    make_ahead(params, score, [(params, name) for name in params.clips])
    for name in params.clips:
        yield name, score(params, name)


def made_with(params: Params) -> dict:
    """What the benchmark's scores depend on: settings, the digest of the list of clips, and that of the measures."""
    sections = {*READ, *PARTS.values(), "memory"}
    settings = params.model_dump(mode="json", include=sections)
    settings["memory"] = settings["memory"]["dtype"]
    settings["clip"].pop("fps")
    settings["tune"] = {name: value for name, value in settings["tune"].items() if name not in SAME_RESULT}
    measures = digest_of_code("measures.evaluate.Evaluator", "measures.truth.followed")
    lists = {what: digest_of_files(getattr(params.benchmark, what)) for what in ("clips", "objects")}
    return settings | {"seeds": params.benchmark.seeds, **lists, "measures": measures}


def kept(part: str, params: Params) -> tuple[pd.DataFrame, str]:
    """What reports/benchmark holds of a part that these settings would make again, and a sentence about it.

    Methods whose own settings are others are left out; where a setting differs on which all depend, there is no row.
    """
    path, none = KEPT / f"{part}.csv", pd.DataFrame(columns=["method", "clip", "edit"], dtype=object)
    if not path.is_file():
        return none, "The whole list of clips has not been run: verdicts are of the clips of this run."
    with reading(path):
        rows, made = pd.read_csv(path), json.loads((KEPT / "settings.json").read_text())
    now = made_with(params)
    shared = [*READ, "memory", "measures", "objects" if part == "objects" else "clips"]
    shared += ["seeds"] if "ablation" in part else []
    if differ := [key for key in shared if made.get(key) != now[key]]:
        other = f"The whole list of clips was run with other settings of {', '.join(differ)}:"
        return none, f"{other} verdicts are of the clips of this run."
    before, today = (of.get(PARTS[part], {}) for of in (made, now))
    named = {name: PEERS[name].name if part == "scores" and name in PEERS else name for name in before}
    rows = rows[~rows["method"].isin([named[name] for name in before if before[name] != today.get(name)])]
    count, edits = rows["clip"].nunique(), rows.groupby(["clip", "edit"]).ngroups
    return rows, f"Verdicts rest on the whole list, {count} clips and {edits} edits, whose scores are committed."


def score_clip(params: Params, name: str) -> dict[str, pd.DataFrame]:
    """All that is measured of a clip, a table a part with a row per method and edit, to four digits.

    scores: of the method, the peers and those that do nothing. reconstructions: PSNR of what the inverted noise samples
    back to. ablation: of the method and its variants, each by the seeds of `benchmark.seeds`. full_ablation: of its
    variants by the first seed, on every third clip. control: of the method and of edits under the clip's own
    conditions. paths: how conditions are followed, the clip's own and those of the next clip.
    """
    entry, method, asked = params.clips[name], Method(params), params.benchmark.parts
    scores = Scores(params, source=lambda clip: read_frames(method.source(params.clips[clip]).folder))
    edits, tables = _edits(method, name, entry) if {"peers", "control"} & set(asked) else Stored(), {}
    if "peers" in asked:
        nothing, by_peers = trivial(edits, scores.source), _by_peers(params, name, entry)
        tables["scores"] = scores.table(nothing | {METHOD: edits} | by_peers)
        tables["reconstructions"] = _reconstructions(name, read_frames(method.reconstruction(entry).folder), scores)
    if "ablation" in asked:
        tables["ablation"] = _ablation(params, name, scores, [METHOD, *params.ablation], params.benchmark.seeds)
    if "full_ablation" in asked and list(params.clips).index(name) % THIRD == 0:
        variants = [variant for variant in params.full_ablation if variant != "method"]
        tables["full_ablation"] = _ablation(params, name, scores, variants, params.benchmark.seeds[:1])
    if "control" in asked:
        drawn = dict(control.pieces(control.Controlled(params), name))
        drawn = {tuple(place.split("/")): piece.folder for place, piece in drawn.items()}
        own = {kind: {at[2:]: drawn[at] for at in drawn if at[:2] == (kind, "own")} for kind in params.control}
        tables["control"] = scores.table({METHOD: edits} | {kind: Stored(of) for kind, of in own.items()})
        tables["paths"] = _paths(params, name, scores, edits, drawn)
    return {part: table.round(4) for part, table in tables.items()}


def score_several(params: Params, name: str) -> dict[str, pd.DataFrame]:
    """The same of a clip of the list of several things: `objects`, of its edits without a condition, tuned and not, and
    under each condition."""
    controlled, entry = control.Controlled(params), params.clips[name]
    drawn = {tuple(place.split("/")): piece.folder for place, piece in objects.pieces(controlled, entry)}
    source = read_frames(drawn.pop(("source",)))
    methods = {kind: Stored() for kind in (*objects.CASES, *params.control)}
    for (kind, edit), folder in drawn.items():
        methods[kind].data[name, edit] = folder
    methods = {objects.CASES.get(kind, kind): edits for kind, edits in methods.items()}
    alone = objects.told(params.model_copy(update={"clips": {name: entry}}))
    scores = Scores(alone, source=lambda _: source)
    return {"objects": scores.table(methods | {SOURCE: {(name, CAPTION): source}}).round(4)}


def _by_peers(params: Params, name: str, entry: ClipEntry) -> dict[str, Stored]:
    peers = Peers(params)
    pieces = {PEERS[peer].name: peers.edits(peer, entry) for peer in params.peers}
    return {peer: Stored({(name, edit): piece.folder for edit, piece in of.items()}) for peer, of in pieces.items()}


def _edits(method: Method, name: str, entry: ClipEntry) -> Stored:
    return Stored({(name, edit): method.edit(entry, prompt).folder for edit, prompt in entry.edits.items()})


def _ablation(params: Params, name: str, scores: Scores, methods: Iterable[str], seeds: Iterable[int]) -> pd.DataFrame:
    """Scores of a clip's edits by variants, and by the full method if it is named, by every seed."""
    tables, entry = [], params.clips[name]
    for seed in seeds:
        seeded = params.changed(tune={"seed": seed})
        runs = {method: seeded if method == METHOD else params.varied(method, seed) for method in methods}
        edits = {method: _edits(Method(settings), name, entry) for method, settings in runs.items()}
        tables.append(scores.table(edits).assign(seed=seed))
    return pd.concat(tables)


def _paths(params: Params, name: str, scores: Scores, edits: Stored, drawn: dict) -> pd.DataFrame:
    shown = {"own": name, "other": params.next_clip(name)}
    cases = {(control.NONE, "own", *pair): folder for pair, folder in edits.data.items()}
    cases |= {at: folder for at, folder in drawn.items() if at[1] in shown}
    columns = ["method", "whose", "clip", "edit"]
    rows = [
        dict(zip(columns, case, strict=True)) | path
        for case, folder in cases.items()
        if (path := scores.followed(shown[case[1]], read_frames(folder)))
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns, dtype=object)


def _reconstructions(name: str, frames, scores: Scores) -> pd.DataFrame:
    source = scores.source(name)
    found = {"reconstruction": frames, "mean frame": source.mean(0, keepdim=True).expand_as(source)}
    rows = [{"method": what, "clip": name, "edit": CAPTION, "PSNR": psnr(of, source)} for what, of in found.items()]
    return pd.DataFrame(rows)
