"""All methods on a list of clips: what is kept, what is taken over, and what is left alone."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from diffusers import ControlNetModel, UNet2DConditionModel
from ruamel.yaml import YAML

from studies import benchmark, code
from studies.__main__ import main
from studies.cluster import each
from studies.settings import load_params
from studies.store import RECORD
from tav.errors import InputError
from tests.tiny_clip import save_clip

EDITS = {"object": "a circle is moving"}
EDITED = 2 * 2 * 2  # of two clips and by two seeds, the method's edit and its variant's


@pytest.fixture
def listed(workplace, set_params):
    """A folder with a list of two clips and two peers to run on them."""
    save_clip(Path("clip"))
    clip = load_params().clips["square"].model_dump(mode="json") | {"edits": EDITS}
    YAML(typ="safe").dump({"clips": {"one": clip, "two": clip | {"caption": "a square"}}}, Path("list.yaml"))
    set_params({"score.clip_model": "clip", "peers": {"per-frame": {}, "sdedit": {"strength": 0.5}}})
    set_params({"benchmark.run": True, "benchmark.clips": "list.yaml", "benchmark.objects": "list.yaml"})
    set_params({"benchmark.parts": ["peers", "ablation"]})
    set_params({"ablation": {"own-frame-attention": {"inflate": {"attention": "own"}}}})
    return workplace


def test_every_method_is_scored_on_every_clip_of_the_list(listed):
    assert main(["benchmark"]) == 0
    scores = pd.read_csv("reports/benchmark/scores.csv")
    assert scores.groupby("clip").size().to_dict() == {"one": 5, "two": 5}
    assert {"Tune-A-Video", "DDIM inversion, frame by frame", "SDEdit", "the source clip itself"} < set(scores.method)
    assert scores["text alignment"].notna().all()
    kept = json.loads(Path("reports/benchmark/settings.json").read_text())
    assert kept == benchmark.made_with(load_params())
    varied = pd.read_csv("reports/benchmark/ablation.csv").groupby(["clip", "method", "seed"]).size()
    assert len(varied) == EDITED and varied.eq(1).all()
    still = pd.read_csv("reports/benchmark/reconstructions.csv")
    assert still.groupby("method").size().to_dict() == {"mean frame": 2, "reconstruction": 2}


def test_variants_of_the_full_ablation_are_made_on_every_third_clip_by_the_first_seed(listed, set_params):
    set_params({"full_ablation": {"method": {}, "untuned": {"tune": {"steps": 0}}}})
    set_params({"benchmark.parts": ["full_ablation"]})
    assert main(["benchmark"]) == 0
    rows = pd.read_csv("reports/benchmark/full_ablation.csv")
    assert rows[["method", "clip", "seed"]].to_numpy().tolist() == [["untuned", "one", 33]]
    assert [path.name for path in Path("reports/benchmark").glob("*.csv")] == ["full_ablation.csv"]
    assert len(benchmark.kept("full_ablation", load_params())[0]) == 1
    set_params({"full_ablation.untuned.tune.steps": 1})
    assert not len(benchmark.kept("full_ablation", load_params())[0])


def test_a_part_that_is_not_asked_for_stays_while_its_settings_do(listed, set_params):
    set_params({"benchmark.parts": ["peers"]})
    assert main(["benchmark"]) == 0
    scores = SCORES.read_bytes()
    set_params({"benchmark.parts": ["ablation"]})
    assert main(["benchmark"]) == 0
    assert SCORES.read_bytes() == scores and Path("reports/benchmark/ablation.csv").exists()
    set_params({"peers.sdedit.strength": 0.6})  # else settings.json would say so of the old rows
    assert main(["benchmark"]) == 0
    assert not SCORES.exists() and Path("reports/benchmark/ablation.csv").exists()
    set_params({"benchmark.parts": ["control"], "edit.guidance_scale": 3.0})
    assert main(["benchmark"]) == 0
    assert not Path("reports/benchmark/ablation.csv").exists()


def test_what_was_kept_holds_for_the_settings_that_made_it_and_variant_by_variant(listed, set_params):
    assert benchmark.kept("ablation", load_params())[1].startswith("The whole list of clips has not been run")
    assert main(["benchmark"]) == 0
    rows, said = benchmark.kept("ablation", load_params())
    assert len(rows) == EDITED and "2 clips and 2 edits" in said
    set_params({"peers.sdedit.strength": 0.6, "ablation.own-frame-attention.inflate.attention": "first"})
    assert set(benchmark.kept("ablation", load_params())[0]["method"]) == {"Tune-A-Video"}
    assert "SDEdit" not in set(benchmark.kept("scores", load_params())[0]["method"])
    set_params({"edit.guidance_scale": 3.0})
    rows, said = benchmark.kept("scores", load_params())
    assert not len(rows) and "with other settings of edit" in said


def test_a_table_that_a_full_disk_cut_off_is_made_again(listed, monkeypatch, set_params):
    set_params({"benchmark.parts": ["peers"]})
    assert main(["benchmark"]) == 0
    set_params({"benchmark.parts": ["ablation"]})
    whole = benchmark.write_whole

    def full(path, content):
        if path.name == "ablation.csv":
            path.with_name("ablation.csv.partial").write_text("method,clip")
            raise OSError(28, "No space left on device", str(path))
        whole(path, content)

    with monkeypatch.context() as full_disk:
        full_disk.setattr(benchmark, "write_whole", full)
        assert main(["benchmark"]) == 2
    assert SCORES.exists() and not Path("reports/benchmark/ablation.csv").exists()
    assert main(["benchmark"]) == 0
    assert len(pd.read_csv("reports/benchmark/ablation.csv")) == EDITED


def test_replaced_weights_take_the_committed_scores_away(listed):
    assert main(["benchmark"]) == 0
    model = Path(load_params().model)
    shutil.copytree(model, "replaced")
    model.unlink() if model.is_symlink() else shutil.rmtree(model)
    shutil.copytree("replaced", model)
    assert len(benchmark.kept("scores", load_params())[0])  # the same bytes elsewhere are the same model
    with open(next((model / "unet").glob("*.safetensors")), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    rows, said = benchmark.kept("scores", load_params())
    assert not len(rows) and "with other settings of model" in said


def test_controls_are_scored_on_every_clip_and_on_those_of_several_things(listed, set_params, tiny_model):
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4)).save_pretrained("models/edges")
    set_params({"control": {"edges": "models/edges"}, "benchmark.parts": ["control", "objects"]})
    assert main(["benchmark"]) == 0
    scores = pd.read_csv("reports/benchmark/control.csv")
    assert scores.groupby(["clip", "method"]).size().to_dict() == {
        (clip, method): 1 for clip in ("one", "two") for method in ("Tune-A-Video", "edges")
    }
    assert not len(pd.read_csv("reports/benchmark/paths.csv"))  # no judge reads where things are
    several = pd.read_csv("reports/benchmark/objects.csv")
    assert several.groupby("clip")["method"].apply(list).to_dict() == dict.fromkeys(
        ("one", "two"), ["Tune-A-Video", "no-tuning", "edges", "the source clip itself"]
    )


def pieces(kind: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(".pieces", kind).rglob("*.*") if path.name != RECORD}


def test_an_interrupted_run_keeps_the_pieces_that_were_done_and_ends_with_the_same_bytes(listed, monkeypatch):
    assert main(["benchmark"]) == 0
    whole = {path: path.read_bytes() for path in Path("reports/benchmark").iterdir()}
    shutil.rmtree("reports")
    shutil.rmtree(".pieces")
    scored = []

    def interrupted(params, name):
        if scored:
            raise KeyboardInterrupt
        scored.append(name)
        return score_clip(params, name)

    score_clip = benchmark.score_clip
    monkeypatch.setattr(benchmark, "score_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["benchmark"])
    done = pieces("weights") | pieces("peer") | pieces("scores")
    monkeypatch.setattr(benchmark, "score_clip", score_clip)
    assert main(["benchmark"]) == 0
    assert {path: path.read_bytes() for path in Path("reports/benchmark").iterdir()} == whole
    assert done and {path: path.stat().st_mtime_ns for path in done} == done


def test_an_interrupted_run_goes_on_on_another_machine_with_the_clips_that_are_left(listed, set_params, monkeypatch):
    whole, asked, left = Path("reports/benchmark"), [], Path("reports/benchmark.unfinished")
    score_clip = benchmark.score_clip

    def ends_at(stop):
        def scored(params, name):
            asked.append((name, *params.benchmark.parts))
            if name == stop:
                raise KeyboardInterrupt
            return score_clip(params, name)

        return scored

    monkeypatch.setattr(benchmark, "score_clip", ends_at("two"))
    with pytest.raises(KeyboardInterrupt):
        main(["benchmark"])
    assert [path.name for path in left.glob("*/*")] == ["one", "one"] and not list(whole.iterdir())
    shutil.rmtree(".pieces")
    monkeypatch.setattr(benchmark, "score_clip", ends_at(None))
    set_params({"benchmark.parts": ["peers"]})
    assert main(["benchmark"]) == 0
    assert asked[2:] == [("two", "peers")] and [path.name for path in left.glob("*/*")] == ["one"]
    set_params({"benchmark.parts": ["peers", "ablation", "control"]})
    assert main(["benchmark"]) == 0
    assert asked[3:] == [("one", "control"), ("two", "ablation", "control")] and not left.exists()
    assert pd.read_csv(whole / "scores.csv").groupby("clip", sort=False).size().to_dict() == {"one": 5, "two": 5}
    assert main(["benchmark"]) == 0
    assert len(asked) == 2 + 1 + 2  # nothing that is there is made again


def test_what_an_interrupted_run_of_other_settings_left_is_not_taken(listed):
    unfinished = Path("reports/benchmark.unfinished")
    for what in ("peers", "ablation"):
        (unfinished / what / "one").mkdir(parents=True)
    (unfinished / "settings.json").write_text("{}")
    assert main(["benchmark"]) == 0
    assert set(pd.read_csv(SCORES)["clip"]) == {"one", "two"}


def test_a_changed_setting_makes_anew_what_depends_on_it(listed, set_params):
    assert main(["benchmark"]) == 0
    weights, made = set(pieces("weights")), {path.parent for path in pieces("frames")}
    set_params({"edit.guidance_scale": 3.0})
    assert main(["benchmark"]) == 0
    again = {path.parent for path in pieces("frames")} - made
    assert set(pieces("weights")) == weights and len(again) == EDITED  # and no clip is reconstructed again


def test_a_changed_measure_scores_again_and_samples_nothing(listed, monkeypatch):
    assert main(["benchmark"]) == 0
    made = set(pieces("weights")) | set(pieces("frames")) | set(pieces("peer"))
    scores = set(pieces("scores"))
    digest = code.digest_of_code

    def other(*roots):
        return digest(*roots) + ("other" if "measures.evaluate.Evaluator" in roots else "")

    monkeypatch.setattr("studies.store.digest_of_code", other)
    monkeypatch.setattr("studies.benchmark.digest_of_code", other)
    assert main(["benchmark"]) == 0
    assert set(pieces("weights")) | set(pieces("frames")) | set(pieces("peer")) == made
    assert len(set(pieces("scores"))) == 2 * len(scores)


def test_unless_asked_nothing_is_run_and_what_was_found_stays(listed, set_params):
    Path("reports/benchmark").mkdir(parents=True)
    Path("reports/benchmark/scores.csv").write_text("kept")
    set_params({"benchmark.run": False})
    assert main(["benchmark"]) == 0
    assert Path("reports/benchmark/scores.csv").read_text() == "kept" and not Path(".pieces").exists()


def test_a_list_that_is_missing_is_said_in_one_line(listed, set_params, capsys):
    set_params({"benchmark.clips": "nowhere.yaml"})
    assert main(["benchmark"]) == 2
    assert "nowhere.yaml does not exist: name a list of clips" in capsys.readouterr().err


def test_a_peer_that_cannot_run_is_refused_before_anything_is_tuned(listed, set_params, capsys):
    set_params({"peers.sdedit": {"strenght": 0.5}})
    assert main(["benchmark"]) == 2
    assert "peers.sdedit takes guidance_scale, strength, not strenght" in capsys.readouterr().err
    assert not Path(".pieces").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("{}", "list.yaml has no clips: name a list of clips"),
        ("", "list.yaml has no clips"),
        ("clips:\n", "list.yaml: clips is None: it must be a table of names"),
        ("clips: {}\n", "list.yaml: clips is {}: it must be a table of one name or more"),
        ("clips: [\n", "list.yaml, line 2, column 1: expected the node content"),
        ("clips: {é: {}}\n", "list.yaml: unacceptable character #x00e9: invalid continuation byte: save it as text in"),
        ("clips: {a: {}, a: {}}\n", 'list.yaml, line 1, column 16: found duplicate key "a"'),
        ("clips: {1: {}}\n", "list.yaml: clips.1 cannot be a name: it is no text"),
        ("clips: {one: {caption: 3}}\n", "list.yaml: clips.one.caption is 3: it must be a text"),
        ("- one\n", "list.yaml holds ['one']: it must be a table of settings"),
        ("clips: [one]\n", "list.yaml: clips is ['one']: it must be a table of names"),
        ("clips: {One: {}}\n", "list.yaml: clips.One cannot be a name"),
        ("clips: {one: {caption: a}}\n", "list.yaml: clips.one.source is missing"),
    ],
)
def test_a_list_that_is_none_is_said_in_one_line(listed, capsys, text, words):
    Path("list.yaml").write_text(text, encoding="latin-1")
    assert main(["benchmark"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


SCORES = Path("reports/benchmark/scores.csv")


def dies_once(params, name):
    """The work of a clip, whose worker is killed after it, the first time."""
    scores = benchmark.score_clip(params, name)
    if name == "one" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return scores


def of_a_kind(params, name):
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "refused":
        raise InputError("refused is no clip")
    return name


@pytest.fixture
def ray_beside_tests(monkeypatch):
    """Ray's workers with one thread each, and at no lower priority than what else tests run: they would starve."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")


def on_ray(monkeypatch, set_params, function, retries=1) -> int:
    monkeypatch.setattr(benchmark, "score_clip", function)
    set_params({"benchmark.ray": "local", "benchmark.retries": retries})
    return main(["benchmark"])


def test_a_worker_that_is_killed_loses_nothing_and_scores_equal_those_of_a_sequential_run(
    listed, set_params, monkeypatch, ray_beside_tests
):
    assert main(["benchmark"]) == 0
    sequential = SCORES.read_bytes(), Path("reports/benchmark/settings.json").read_bytes()
    shutil.rmtree(".pieces")
    SCORES.unlink()
    assert on_ray(monkeypatch, set_params, dies_once) == 0
    assert Path("killed").exists()
    assert (SCORES.read_bytes(), Path("reports/benchmark/settings.json").read_bytes()) == sequential


def test_a_worker_that_always_dies_and_bad_input_are_said_in_a_line_and_the_other_clips_are_kept(ray_beside_tests):
    settings = load_params()
    params = settings.model_copy(
        update={"benchmark": settings.benchmark.model_copy(update={"ray": "local", "retries": 0})}
    )
    ended, said = [], []
    for names in (["dies", "fine"], ["refused"]):
        try:
            ended += each(of_a_kind, params, names)
        except InputError as error:
            said.append(str(error))
    assert ended == [("fine", "fine")] and said[1] == "refused is no clip"
    assert said[0].startswith("dies did not end, with 0 retries: The worker died")


def test_a_cluster_that_is_not_there_and_a_missing_ray_are_said_in_one_line(listed, set_params, monkeypatch, capsys):
    set_params({"benchmark.ray": "127.0.0.1:1"})
    assert main(["benchmark"]) == 2
    assert "no Ray at 127.0.0.1:1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["benchmark"]) == 2
    assert 'pip install ".[ray]"' in capsys.readouterr().err.splitlines()[-1]
