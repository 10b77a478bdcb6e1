"""What the verdicts rest on: every method, variant and control on a whole list of clips; runs if asked to.

The list of the miniature has the 42 clips and 140 edits of the paper's protocol. What a run found is committed.
"""

import json
import shutil
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
from studies.digests import digest_of_files, digest_of_model
from studies.machine import process_count
from studies.method import SAME_RESULT, Method
from studies.peers import Peers
from studies.results import reading, replacing, write_whole
from studies.scores import Scores
from studies.settings import Params
from tav.clip import read_frames

KEPT, UNFINISHED, SETTINGS = Path("reports/benchmark"), Path("reports/benchmark.unfinished"), "settings.json"
READ = ("model", "lora", "inflate", "clip", "tune", "invert", "edit", "score")  # sections that every part depends on
FILES = {  # by what `benchmark.parts` asks for
    "peers": ("scores", "reconstructions"),
    "ablation": ("ablation",),
    "full_ablation": ("full_ablation",),
    "control": ("control", "paths"),
    "objects": ("objects",),
}
PARTS = {  # by the name of its file: the section that names its methods
    part: "control" if what == "objects" else what for what, parts in FILES.items() for part in parts
}
AT_ONCE = 3  # clips for every process, before their scores are kept
THIRD = 3  # of so many clips one is taken for the variants of full_ablation


def benchmark(params: Params) -> None:
    """Makes and scores the clips of `benchmark.clips` in every way: reports/benchmark/<part>.csv, see `score_clip`.

    settings.json beside them holds what they were made with. What is there already, with the same settings, is not made
    again. What a clip gave is kept in reports/benchmark.unfinished until all clips of the list are done, so that an
    interrupted run goes on where it was, on another machine too. Parts that `benchmark.parts` does not ask for stay if
    they were made with the same settings, and are deleted otherwise. Clips are made side by side as `processes` says
    or, with `benchmark.ray`, as tasks of Ray; the scores are the same. If `benchmark.run` is false, nothing is done,
    and what an earlier run found stays.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    if not params.benchmark.run:
        print("benchmark.run is false in params.yaml: reports/benchmark stays as it is")
        return
    lists = {score_clip: params.with_clips(params.benchmark.clips)}
    if "objects" in params.benchmark.parts:
        lists[score_several] = params.with_clips(params.benchmark.objects)
    Peers(params)  # what is wrong with one is said before anything is tuned
    _begin(params)
    for score, listed in lists.items():
        for asked, names in _open(score, listed).items():
            some = listed.model_copy(update={"benchmark": listed.benchmark.model_copy(update={"parts": list(asked)})})
            clips = each(score, some, names) if params.benchmark.ray else _side_by_side(score, some, names)
            for name, tables in tqdm(clips, "benchmark", len(names), disable=None):  # a bar is for a terminal
                _keep(name, asked, tables)
    _finish(lists, params)


def _side_by_side(score: Callable, params: Params, names: list[str]) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """Some clips at a time: what those before them gave is kept, whatever becomes of these."""
    count = AT_ONCE * process_count(params)
    for at_once in (names[start : start + count] for start in range(0, len(names), count)):
        make_ahead(params, score, [(params, name) for name in at_once])
        for name in at_once:
            yield name, score(params, name)


def _begin(params: Params) -> None:
    """Deletes what an interrupted run of other settings left."""
    settings = UNFINISHED / SETTINGS
    if not settings.is_file() or settings.read_text() != _as_text(params):
        shutil.rmtree(UNFINISHED, ignore_errors=True)
        UNFINISHED.mkdir(parents=True)
        settings.write_text(_as_text(params))


def _open(score: Callable, listed: Params) -> dict[tuple[str, ...], list[str]]:
    """Clips that are not done, by what is asked of them still."""
    of = {what: _clips_of(what, score, listed) for what in listed.benchmark.parts if not _is_there(what, listed)}
    clips: dict[tuple[str, ...], list[str]] = {}
    for name in listed.clips:
        if asked := tuple(what for what in of if name in of[what] and not (UNFINISHED / what / name).is_dir()):
            clips.setdefault(asked, []).append(name)
    return clips


def _clips_of(what: str, score: Callable, listed: Params) -> list[str]:
    """The clips of a list that are asked for `what`, one of `benchmark.parts`."""
    if (what == "objects") != (score is score_several):
        return []
    return list(listed.clips)[:: THIRD if what == "full_ablation" else 1]


def _keep(name: str, asked: Iterable[str], tables: dict[str, pd.DataFrame]) -> None:
    for what in asked:
        with replacing(UNFINISHED / what / name) as folder:
            for part in FILES[what]:
                tables[part].to_csv(folder / f"{part}.csv", index=False)


def _finish(lists: dict[Callable, Params], params: Params) -> None:
    """Puts the clips of what was asked for together, and deletes parts that other settings made."""
    made = {}
    for score, listed in lists.items():
        for what in params.benchmark.parts:
            names = [] if _is_there(what, params) else _clips_of(what, score, listed)
            for part in FILES[what] if names else ():
                made[part] = pd.concat(_texts(UNFINISHED / what / name / f"{part}.csv") for name in names)
    for part in PARTS:
        path = KEPT / f"{part}.csv"
        if path.is_file() and len(kept(part, params)[0]) < len(pd.read_csv(path)):  # some of it had other settings
            path.unlink()
    for part in made:  # so that whenever this is killed, settings.json tells of every table that is there
        (KEPT / f"{part}.csv").unlink(missing_ok=True)
    write_whole(KEPT / SETTINGS, _as_text(params))
    for part, table in made.items():
        write_whole(KEPT / f"{part}.csv", table.to_csv(index=False))
    for what in params.benchmark.parts:
        shutil.rmtree(UNFINISHED / what, ignore_errors=True)
    if [path.name for path in UNFINISHED.iterdir()] == [SETTINGS]:
        shutil.rmtree(UNFINISHED)


def _texts(path: Path) -> pd.DataFrame:
    """A table as it was written, to the digit."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _is_there(what: str, params: Params) -> bool:
    """Whether reports/benchmark holds all files of what is asked for, made with these settings."""
    if not (KEPT / SETTINGS).is_file() or not all((KEPT / f"{part}.csv").is_file() for part in FILES[what]):
        return False
    with reading(KEPT / SETTINGS):
        made, now = json.loads((KEPT / SETTINGS).read_text()), made_with(params)
    return all(made.get(key) == now[key] for part in FILES[what] for key in [*_rests_on(part), PARTS[part]])


def _as_text(params: Params) -> str:
    return json.dumps(made_with(params), indent=1) + "\n"


def made_with(params: Params) -> dict:
    """What the benchmark's scores depend on: settings, the digests of what models they name, of the lists of clips and
    of the measures."""
    sections = {*READ, *PARTS.values(), "memory"}
    settings = params.model_dump(mode="json", include=sections)
    settings["memory"] = settings["memory"]["dtype"]
    settings["clip"].pop("fps")
    settings["tune"] = {name: value for name, value in settings["tune"].items() if name not in SAME_RESULT}
    for section in ("score", "control"):
        settings[section] = {name: digest_of_model(model) for name, model in settings[section].items()}
    for name in ("model", "lora"):
        settings[name] = digest_of_model(settings[name])
    for own in settings["peers"].values():
        own |= {"model": digest_of_model(own["model"])} if "model" in own else {}
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
        rows, made = pd.read_csv(path), json.loads((KEPT / SETTINGS).read_text())
    now = made_with(params)
    if differ := [key for key in _rests_on(part) if made.get(key) != now[key]]:
        other = f"The whole list of clips was run with other settings of {', '.join(differ)}:"
        return none, f"{other} verdicts are of the clips of this run."
    before, today = (of.get(PARTS[part], {}) for of in (made, now))
    named = {name: PEERS[name].name if part == "scores" and name in PEERS else name for name in before}
    rows = rows[~rows["method"].isin([named[name] for name in before if before[name] != today.get(name)])]
    count, edits = rows["clip"].nunique(), rows.groupby(["clip", "edit"]).ngroups
    return rows, f"Verdicts rest on the whole list, {count} clips and {edits} edits, whose scores are committed."


def _rests_on(part: str) -> list[str]:
    """The settings, see `made_with`, on which all methods of a part depend."""
    shared = [*READ, "memory", "measures", "objects" if part == "objects" else "clips"]
    return [*shared, "seeds"] if "ablation" in part else shared


def score_clip(params: Params, name: str) -> dict[str, pd.DataFrame]:
    """All that is measured of a clip, a table a part with a row per method and edit, to four digits.

    scores: of the method, the peers and those that do nothing. reconstructions: PSNR of what the inverted noise samples
    back to. ablation: of the method and its variants, each by the seeds of `benchmark.seeds`. full_ablation: of its
    variants by the first seed, on every third clip. control: of the method and of edits under the clip's own
    conditions. paths: how conditions are followed, the clip's own and those of the next clip, and edit success.
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
        if (path := scores.led(*case[2:], shown[case[1]], read_frames(folder)))
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns, dtype=object)


def _reconstructions(name: str, frames, scores: Scores) -> pd.DataFrame:
    source = scores.source(name)
    found = {"reconstruction": frames, "mean frame": source.mean(0, keepdim=True).expand_as(source)}
    rows = [{"method": what, "clip": name, "edit": CAPTION, "PSNR": psnr(of, source)} for what, of in found.items()]
    return pd.DataFrame(rows)
