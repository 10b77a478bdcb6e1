"""The gates: what has to hold before a tuned model is looked at."""

import hashlib
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from miniature import gates, judge
from miniature.clips import DATA, as_asked, scenes
from miniature.scenes import PLACES, STYLES, objects, objects_of, parse
from tav.clip import write_clip, write_frames
from tav.errors import InputError
from tests.miniature.test_control import tiny_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small random models, a judge among them."""
    folder = tiny_models(tmp_path_factory.mktemp("models"))
    torch.manual_seed(0)
    for name, part in judge.build().items():
        part.half().save_pretrained(folder / "judge" / name)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder for what is written."""
    monkeypatch.setattr(gates, "HERE", tmp_path)
    (tmp_path / "reports").mkdir()
    return tmp_path


def test_a_gate_holds_within_its_bounds_and_not_without_a_model():
    bounds = {"low": 0.9, "high": 1.1}
    for measured, holds in (
        (0.89, False),
        (0.9, True),
        (1.1, True),
        (1.2, False),
        (None, False),
        (float("nan"), False),
    ):
        assert gates.Gate("noise", "0.9 to 1.1", "", measured, **bounds).holds is holds


def test_a_guidance_is_inside_of_its_grid_if_the_best_try_has_neither_the_least_nor_the_greatest(tmp_path):
    settings = [f"strength={strength} guidance_scale={scale}" for strength in (0.4, 0.7) for scale in (1.5, 3, 6)]
    measured = {"edit success": [0, 0, 0, 0, 0, 1.0], "edited in motion": [0, 0.3, 0.1, 0.2, 0.1, 0]}
    tries = pd.DataFrame({"settings": settings} | measured)
    tries.to_csv(tmp_path / "sdedit.csv", index=False)
    tries.to_csv(tmp_path / "text-to-video.csv", index=False)
    assert gates.inside(sorted(tmp_path.iterdir())) == {"sdedit": True, "text-to-video": False}


def test_without_models_every_gate_is_open_and_with_perfect_ones_every_gate_holds():
    assert {gate.measured for gate in gates.table({})} == {None}
    controls = {stage: {"centre_px": 1, "iou": 0.9} for stage in gates.control.FOLDERS}
    perfect = {
        "guidance": {"sdedit": True},
        "open": {"drawing": 1, "colour": 1, "facing": 1},
        "room": {"source": 0.02, "edited": 0.4},
        "clips": dict.fromkeys(gates.QUESTIONS, 99) | {"hue": 3, "centre": 0.5},
        "several": {"recall": 97, "swaps": 1},
        "trivial": {"source": 0.01, "repeated": 0.0, "drawn": 0.97},
        "foreign": {"edited in motion": 0.2, "identity kept": 0.1},
        "vae": {"seen": 31, "unseen": 30},
        "inversion": {"deviation mean": 1, "high mean": 1, "psnr mean": 30},
        "samples": {"object": 98, "style": 99, "place": 99},
        "eye": {"all": 93},
        "edited": {"all": 88},
        "control": {"none": {"centre_px": 9}, **controls},
    }
    assert all(gate.holds for gate in gates.table(perfect))
    kept = {"foreign": {"edited in motion": 0.4, "identity kept": 0.6}}
    assert sum(not gate.holds for gate in gates.table(perfect | kept)) == 2
    assert not all(gate.holds for gate in gates.table(perfect | {"room": {"source": 0.2, "edited": 0.4}}))
    rows = gates.markdown(gates.table({"vae": {"seen": 29.5, "unseen": 29.5}})).splitlines()
    assert "| VAE, fresh pictures | 30 dB | 29.5 dB | no |" in rows
    assert "| VAE, objects never seen | 29 dB | 29.5 dB | yes |" in rows
    assert sum("no model yet" in row for row in rows) == len(rows) - 7
    assert sum("no search yet" in row for row in rows) == 1
    assert sum("no labels of these yet" in row for row in rows) == 2


def test_how_far_readings_differ_is_the_chance_that_two_of_them_do():
    assert gates.differing(["a"] * 5) == 0
    assert gates.differing(list("abcde")) == 1
    assert gates.differing(["a", "a", "b", "b"]) == pytest.approx(2 / 3)


def test_decibels_of_a_known_difference():
    one = torch.zeros(2, 3, 4, 4)
    other = torch.stack([one[0] + 0.1, one[1] + 1])
    assert gates.decibels(one, other).tolist() == pytest.approx([20, 0], abs=1e-4)


def test_pictures_of_one_caption_differ_in_what_it_leaves_open_alone():
    scenes = gates._alike("dog", "3d", "snow", np.random.default_rng(0), 32)
    assert {list(objects())[number] for number in objects_of(scenes.drawing[:, 0])} == {"dog"}
    assert len(set(zip(scenes.style, scenes.place, scenes.count, strict=True))) == 1
    assert all(len(set(part)) > 1 for part in (scenes.drawing[:, 0], scenes.colour[:, 0], scenes.facing[:, 0]))


def test_clips_that_are_not_drawn_are_said_to_be_missing(monkeypatch, tmp_path):
    (tmp_path / "development.yaml").write_text("clips: {dog: {source: {path: nowhere.mp4}}}")
    monkeypatch.setattr(gates, "DATA", tmp_path)
    with pytest.raises(InputError, match="python -m miniature clips"):
        gates.listed("development")


@torch.no_grad()
def test_what_an_untuned_model_does_to_clips_is_measured(models, monkeypatch, tmp_path, here):
    write_clip(tmp_path / "clip.mp4", torch.rand(16, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    facts = {"source": {"path": str(tmp_path / "clip.mp4"), "start": 0, "stride": 2}}
    monkeypatch.setattr(gates, "listed", lambda which: [("clip", facts)])
    monkeypatch.setattr(gates, "STEPS", 2)
    found = gates.inversion(models, CPU)
    assert found["deviation min"] <= found["deviation mean"] <= found["deviation max"]
    assert found["high mean"] > 0 and found["psnr min"] == found["psnr max"]


@torch.no_grad()
def test_samples_are_read_and_shown_and_their_figures_reach_the_table(models, monkeypatch, here):
    monkeypatch.setattr(gates.control, "STEPS", 2)
    reader = gates.Judge.load(models / "judge", CPU)
    asked = gates.wanted(6)
    shares = gates.right(reader, asked, gates.sampled(models, CPU, asked))
    assert list(shares) == ["object", "style", "place", "all"] and all(0 <= share <= 100 for share in shares.values())
    assert (here / "reports" / "samples.png").stat().st_size > 0
    assert shares["all"] <= min(shares.values())


def test_labels_count_for_the_sheet_that_they_were_given_for_alone(here):
    asked, folder = [("dog", "3d", "snow"), ("cat", "neon", "sea")], here / "reports"
    assert gates.by_eye(asked, folder) == {}
    (folder / "samples.png").write_bytes(b"a sheet")
    labels = {"sheet": hashlib.sha256(b"a sheet").hexdigest(), "labels": [["dog", "3d", "sea"], ["cat", "neon", "sea"]]}
    (folder / "samples.json").write_text(json.dumps(labels))
    assert gates.by_eye(asked, folder) == {"object": 100, "style": 100, "place": 50, "all": 50}
    assert gates.by_eye([*asked, ("ram", "3d", "sea")], folder) == {}
    (folder / "samples.png").write_bytes(b"another")
    assert gates.by_eye(asked, folder) == {}


def test_the_sheet_of_edited_frames_is_of_all_methods_alike_and_the_judge_is_held_against_its_labels(here, models):
    with pytest.raises(InputError, match="there are no edits in .*results: run `make reproduce` first"):
        gates.show_edited(here / "results")
    shades = {"edit/dog/place": 0.0, "peers/sdedit/dog/place": 0.4, "peers/sdedit/cat/style": 0.4,
              "ablate/no-tuning/33/dog/place": 0.8, "tune/dog/source": 1.0}  # fmt: skip
    for folder, shade in shades.items():
        write_frames(here / "results" / folder, torch.full((3, 3, 64, 64), shade))
    gates.show_edited(here / "results")
    sheet = np.asarray(Image.open(here / "reports" / "edited.png"))
    assert sheet.shape == (12 * 64, 10 * 64, 3)
    assert np.unique(sheet[::64, ::64, 0], return_counts=True)[1].tolist() == [40, 40, 40]
    reader, folder = gates.Judge.load(models / "judge", CPU), here / "reports"
    assert gates.agreement(reader, folder) == {}
    said = gates._said(reader, torch.from_numpy(sheet[:64, :64].copy()).permute(2, 0, 1)[None] / 255)[0]
    labels = [said] * 30 + [("unicorn", *said[1:])] * 90
    digest = hashlib.sha256((folder / "edited.png").read_bytes()).hexdigest()
    (folder / "edited.json").write_text(json.dumps({"sheet": digest, "labels": labels}))
    shares = gates.agreement(reader, folder)
    assert shares["object"] <= 25 and shares["all"] <= min(shares[what] for what in gates.ASKED)


class Told:
    """A judge that says of pictures what it was told to, in turn."""

    def __init__(self, *said: list[str]) -> None:
        self.said = iter(said)

    def read(self, pictures):
        names = next(self.said)
        assert len(names) == len(pictures)
        return SimpleNamespace(names=dict.fromkeys(gates.OPEN_QUESTIONS, names))


def test_openness_is_how_far_samples_differ_over_how_far_drawn_pictures_do(models, monkeypatch):
    monkeypatch.setattr(gates.control, "STEPS", 1)
    monkeypatch.setattr(gates, "OPEN", 4)
    found = gates.openness(models, Told(list("aabb"), list("abcd"), list("aaaa"), list("abcd")), CPU, captions=2)
    assert found == dict.fromkeys(gates.OPEN_QUESTIONS, pytest.approx((2 / 3 + 0) / 2, abs=1e-3))
    blind = gates.openness(models, Told(list("aabb"), list("aaaa")), CPU, captions=1)
    assert all(math.isnan(value) for value in blind.values())


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_room_is_how_often_frames_of_a_clip_differ_edited_one_by_one_and_as_they_are(models, monkeypatch):
    first = gates.listed("development")[:1]
    monkeypatch.setattr(gates, "listed", lambda which: first)
    monkeypatch.setattr(gates, "STEPS", 1)
    found = gates.room(models, gates.Judge.load(models / "judge", CPU), CPU)
    assert list(found) == ["source", "edited"] and all(0 <= value <= 1 for value in found.values())


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_an_edit_by_hand_shows_what_is_asked_and_moves_as_the_source():
    for name, facts in gates.listed("evaluation")[:9]:
        clip = json.loads((DATA / "clips" / f"{name}.json").read_text())
        for prompt in facts["edits"].values():
            said, source, edit = parse(prompt), scenes(clip), as_asked(clip, prompt)
            assert (edit.style == list(STYLES).index(said["style"])).all()
            assert (edit.place == list(PLACES).index(said["place"])).all()
            (shown,), (wanted,) = edit.things(0), said["things"]
            assert shown.object == wanted.object and wanted.colour in (None, shown.colour)
            assert wanted.wears in (None, shown.wears)
            assert (edit.pose == source.pose).all() and (edit.view == source.view).all()
            if wanted.object == clip["things"][0]["object"]:
                assert (edit.drawing == source.drawing).all()


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_a_judge_that_errs_in_nothing_reads_all_clips_rightly(models, monkeypatch):
    first = gates.listed("evaluation")[:6]
    monkeypatch.setattr(gates, "listed", lambda which: first if which == "evaluation" else [])
    found = gates.on_clips(gates.Judge.load(models / "judge", CPU))
    assert list(found) == [*gates.QUESTIONS, "hue", "centre"]
    assert all(0 <= found[question] <= 100 for question in gates.QUESTIONS)

    def knowing(reader, frames, truth):
        said = {"style": truth.style, "place": truth.place} | vars(truth.shown[0])
        names = {question: [said.get(question)] * len(frames) for question in gates.QUESTIONS}
        names["facing"] = ["right" if facing > 0 else "left" for facing in truth.facing[:, 0]]
        colour = torch.tensor(truth.shown[0].paint).expand(len(frames), 3)
        return SimpleNamespace(names=names, colour=colour, things=truth.things)

    monkeypatch.setattr(gates, "read", knowing)
    found = gates.on_clips(None)
    assert all(found[question] == 100 for question in gates.QUESTIONS) and found["centre"] == 0
    assert found["hue"] == pytest.approx(0, abs=0.01)


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_what_no_method_does_is_scored_by_a_judge(models, monkeypatch):
    first = gates.listed("evaluation")[:1]
    monkeypatch.setattr(gates, "listed", lambda which: first)
    found = gates.trivial(gates.Judge.load(models / "judge", CPU), CPU)
    assert list(found) == ["source", "repeated", "drawn"] and all(0 <= value <= 1 for value in found.values())


def test_every_figure_is_written_and_the_readme_keeps_the_rest(models, monkeypatch, here):
    (here / "README.md").write_text("before\n<!-- gates -->\nformer\n<!-- end -->\nafter\n")
    monkeypatch.setattr(gates, "autoencoder", lambda *_: {"seen": 31.0, "unseen": 28.0})
    for part in ("inversion", "right", "openness", "room", "trivial", "several"):
        monkeypatch.setattr(gates, part, lambda *_: {})
    monkeypatch.setattr(gates, "sampled", lambda *_: None)
    monkeypatch.setattr(gates.judge, "measure", lambda *_: {"drawn": {}})
    monkeypatch.setattr(gates, "on_clips", lambda *_: {"style": 97.0})
    gates.main(models, CPU)
    assert json.loads((here / "reports" / "gates.json").read_text())["vae"] == {"seen": 31.0, "unseen": 28.0}
    text = (here / "README.md").read_text()
    assert text.startswith("before\n<!-- gates -->\n| gate |") and text.endswith("<!-- end -->\nafter\n")
    assert "| judge on drawn clips: style | 95 % | 97 % | yes |" in text and "former" not in text


@pytest.mark.skipif(not (DATA / "clips").exists(), reason="python -m miniature clips makes them")
def test_what_never_saw_the_source_is_held_against_what_claims_ask_of_keeping_it(models, monkeypatch):
    first, asked = gates.listed("evaluation")[:2], []
    monkeypatch.setattr(gates, "listed", lambda which: first)

    def sources(models, prompts, **_):
        asked.extend(prompts)
        clips = [gates.read_clip(**facts["source"], num_frames=8, size=64) / 2 + 0.5 for _, facts in first]
        return torch.stack([clip for clip in clips for _ in ("place", "style")])

    monkeypatch.setattr(gates.video, "sample", sources)
    found = gates.foreign(models, gates.Judge.load(models / "judge", CPU), CPU)
    assert asked == [facts["edits"][kind] for _, facts in first for kind in ("place", "style")]
    assert list(found) == ["edited in motion", "identity kept"] and found["identity kept"] == 0


def test_what_is_known_for_these_weights_is_not_measured_again(models, monkeypatch, here, tmp_path):
    (here / "README.md").write_text("<!-- gates -->\n<!-- end -->\n")
    shutil.copytree(models / "vae", tmp_path / "models" / "vae")
    shutil.copytree(models / "judge", tmp_path / "models" / "judge")
    taken = []
    monkeypatch.setattr(gates, "autoencoder", lambda *_: taken.append("vae") or {"seen": 31.0, "unseen": 30.0})
    monkeypatch.setattr(gates.judge, "measure", lambda *_: taken.append("pictures") or {"drawn": {}})
    for part in ("trivial", "several", "on_clips"):
        monkeypatch.setattr(gates, part, lambda *_, part=part: taken.append(part) or {})
    for _ in range(2):
        table = gates.main(tmp_path / "models", CPU)
    of_judge = ["pictures", "on_clips", "several", "trivial"]
    assert taken == ["vae", *of_judge] and gates.markdown(table) in (here / "README.md").read_text()
    (weights,) = (tmp_path / "models" / "judge" / "reader").glob("*.safetensors")
    save_file({name: part + 1 for name, part in load_file(weights).items()}, weights, {"format": "pt"})
    gates.main(tmp_path / "models", CPU)
    assert taken == ["vae", *of_judge, *of_judge]


def test_a_sheet_that_differs_by_rounding_alone_stays(tmp_path):
    pictures = torch.full((4, 3, 8, 8), 0.5)
    gates._save(pictures, 2, tmp_path / "sheet.png")
    first = (tmp_path / "sheet.png").read_bytes()
    gates._save(pictures + 1 / 255, 2, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == first
    gates._save(pictures + 9 / 255, 2, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() != first
