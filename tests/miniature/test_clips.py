import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from miniature import clips
from miniature.world import CANVAS, OBJECTS, TRAINED, draw, masks, parse

DATA = Path("data")


def read(name):
    return YAML(typ="safe").load(DATA / f"{name}.yaml")


def truth(name):
    return json.loads((DATA / "clips" / f"{name}.json").read_text())


def test_the_evaluation_set_has_42_clips_and_140_edits_and_the_development_set_shares_none():
    evaluation, development = read("evaluation")["clips"], read("development")["clips"]
    assert len(evaluation) == 42 and sum(len(clip["edits"]) for clip in evaluation.values()) == 140
    assert len(development) == 8 and evaluation.keys().isdisjoint(development)


def test_the_default_clips_cover_kinds_and_motions_and_are_evaluation_clips():
    default, evaluation = read("default")["clips"], read("evaluation")
    about = [evaluation["about"][name] for name in default]
    assert len(default) == 8 and {facts["kind"] for facts in about} == {"animal", "vehicle", "person"}
    assert {"turn", "closer"} <= {facts["motion"] for facts in about}


def test_the_clips_of_several_objects_cover_numbers_and_overlap_and_are_no_others():
    objects = read("objects")
    cells = [(facts["count"], facts["overlap"]) for facts in objects["about"].values()]
    assert sorted(cells) == sorted(2 * [(1, "apart"), (2, "apart"), (2, "crossing")] + [(3, "apart"), (3, "crossing")])
    assert {facts["kind"] for facts in objects["about"].values()} == {"animal", "vehicle", "person"}
    assert objects["clips"].keys().isdisjoint([*read("evaluation")["clips"], *read("development")["clips"]])
    for name, clip in objects["clips"].items():
        source = parse(clip["caption"])
        assert list(clip["edits"]) == ["object", "place"] and source["object"] in TRAINED
        assert {key: objects["about"][name][key] for key in ("object", "count")}.items() <= source.items()


def test_things_that_cross_hide_each_other_and_things_apart_do_not():
    for number, group in enumerate(clips.GROUPS):
        planned = clips._group(*group, number)
        published = truth(planned["name"])
        assert [list(map(list, things)) for things in planned["frames"]] == published["frames"]
        drawn = [masks(scene, CANVAS) > 0.5 for scene in clips.scenes(published)]
        seen = np.stack(drawn).sum((2, 3))
        hidden = 1 - (seen / seen.max(0)).mean(1)
        assert (hidden.max() > 0.25) if published["overlap"] == "crossing" else (hidden.max() < 0.03)


@pytest.mark.parametrize("which", ["evaluation", "development", "default", "objects"])
def test_an_edit_asks_for_trained_objects_and_changes_what_its_name_says(which):
    for clip in read(which)["clips"].values():
        source = parse(clip["caption"])
        for name, prompt in clip["edits"].items():
            asked = parse(prompt)
            changed = {what for what in asked if asked[what] != source[what]}
            assert changed == ({"object", "style", "place"} if name == "several" else {name})
            assert asked["object"] in TRAINED or asked["object"] == source["object"]


def test_a_clip_is_written_with_the_same_bytes_again(tmp_path, monkeypatch):
    name = next(iter(read("default")["clips"]))
    clip = truth(name)
    clip["edits"] = {what: edit["prompt"] for what, edit in clip["edits"].items()}
    published = DATA.resolve() / "clips"
    monkeypatch.setattr(clips, "DATA", tmp_path)
    clips.write(clip)
    for path in (tmp_path / "clips").iterdir():
        assert path.read_bytes() == (published / path.name).read_bytes(), path.name


def test_the_video_shows_its_truth():
    for name in read("default")["clips"]:
        with av.open(str(DATA / "clips" / f"{name}.mp4")) as video:
            frames = [cv2.resize(f.to_ndarray(format="rgb24"), (64, 64), interpolation=cv2.INTER_AREA)
                      for f in video.decode(video=0)]  # fmt: skip
        drawn = [draw(scene) for scene in clips.scenes(truth(name))]
        error = np.square(np.float32(frames) - np.float32(drawn)).mean()
        assert 10 * np.log10(255**2 / error) > 38


def test_the_masks_lie_where_the_truth_puts_the_things():
    for name in read("default")["clips"]:
        facts = truth(name)
        sheet = cv2.imread(str(DATA / "clips" / f"{name}.masks.png"), cv2.IMREAD_GRAYSCALE)
        assert sheet.shape == (facts["count"] * CANVAS, clips.FRAMES * CANVAS)
        for frame, ((x, y, size, _),) in enumerate(facts["frames"]):
            rows, columns = np.nonzero(sheet[:, frame * CANVAS : (frame + 1) * CANVAS])
            assert abs(columns.mean() / CANVAS - x) < 0.12 and abs(rows.mean() / CANVAS - y) < 0.12
            assert np.ptp(columns) < 1.3 * size * CANVAS and OBJECTS[facts["object"]].kind == facts["kind"]
