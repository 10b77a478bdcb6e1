"""params.yaml: what is read, and what is refused in which words."""

from pathlib import Path

import pytest

from studies.settings import load_params
from tav.errors import InputError

ROOT = Path(__file__).parents[2]


def refusal(path="params.yaml") -> str:
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_settings_of_this_repository_are_valid():
    params = load_params(ROOT / "params.yaml")
    assert params.clips and params.clip.size


def test_numbers_are_numbers_as_yaml_1_2_and_dvc_read_them(workplace):
    text = Path("params.yaml").read_text()
    for number in ("3e-5", "3.0e-05", "0.00003"):
        rate = next(line for line in text.splitlines() if "learning_rate" in line)
        Path("params.yaml").write_text(text.replace(rate, f"  learning_rate: {number}"))
        assert load_params().tune.learning_rate == 3e-5


def test_a_size_is_one_side_or_height_and_width(workplace, set_params):
    assert load_params().clip.size == 32
    set_params({"clip.size": [32, 64]})
    assert load_params().clip.size == (32, 64)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("tune.steps", -3, "tune.steps is -3: it must be greater than or equal to 0"),
        ("tune.steps", "many", "tune.steps is 'many': it must be a whole number"),
        ("tune.steps", 2.5, "tune.steps is 2.5: it must be a whole number"),
        ("tune.learning_rate", "3e-5", "tune.learning_rate is '3e-5': it must be a number"),
        ("tune.learning_rate", 0, "tune.learning_rate is 0: it must be greater than 0"),
        ("tune.learning_rate", float("nan"), "tune.learning_rate is nan: it must be a finite number"),
        ("tune.mixed_precision", False, "tune.mixed_precision is False: it must be 'no', 'fp16' or 'bf16'"),
        ("inflate.attention", "sparse", "it must be 'sparse-causal', 'own', 'first' or 'full'"),
        ("inflate.temporal", "yes", "inflate.temporal is 'yes': it must be true or false"),
        ("clip.size", 4, "clip.size is 4: it must be one number of pixels or [height, width], each 8 or more"),
        ("clip.size", [64, 64, 3], "it must be one number of pixels or [height, width]"),
        ("clip.num_frames", True, "clip.num_frames is True: it must be a whole number"),
        ("edit.guidance_scale", 0.5, "edit.guidance_scale is 0.5: it must be greater than or equal to 1"),
        ("tune.stepz", 3, "tune.stepz is not a setting: tune takes steps, learning_rate, seed"),
        ("clips.square.edit", {}, "clips.square.edit is not a setting: clips.square takes source, caption, edits"),
        ("edit.steps", None, "edit.steps is missing: add it"),
        ("clips", {}, "clips is {}: it must be a table of one name or more"),
        ("clips", ["square"], "clips is ['square']: it must be a table of names"),
        ("clips.Square One", {}, "clips.Square One cannot be a name: names are made of a-z, 0-9 and -"),
        ("clips.square.edits.a/b", "a circle", "clips.square.edits.a/b cannot be a name"),
        ("clips.square.caption", " ", "clips.square.caption is ' ': it must be a text that is not empty"),
        ("ablation.slow", {"tune": {"steps": "many"}}, "variant slow: tune.steps is 'many': it must be a whole number"),
        ("ablation.slow", {"tune": {"stepz": 3}}, "variant slow: tune.stepz is not a setting: tune takes steps"),
        ("ablation.slow", {"clip": {}}, "ablation.slow.clip is not a setting: ablation.slow takes inflate, tune"),
        ("clips.square.source.start", -1, "clips.square.source.start is -1: it must be greater than or equal to 0"),
    ],
)
def test_a_bad_setting_is_refused_with_its_key_its_value_and_what_is_allowed(workplace, set_params, key, value, words):
    set_params({key: value})
    assert words in refusal()


def test_a_file_that_is_missing_or_no_yaml_is_refused(workplace):
    assert refusal("nowhere.yaml") == "nowhere.yaml does not exist: run this from the folder that holds it"
    Path("broken.yaml").write_text("clip:\n  size: 64\n  size: 32\n")
    assert refusal("broken.yaml").startswith('broken.yaml, line 3, column 3: found duplicate key "size"')
    Path("broken.yaml").write_text("clip: [64\n")
    assert refusal("broken.yaml").startswith("broken.yaml, line 2")
    Path("broken.yaml").write_bytes(b"clip: \xff\xfe")
    assert refusal("broken.yaml").endswith("save it as text in UTF-8")
    Path("broken.yaml").write_text("")
    assert "model is missing: add it" in refusal("broken.yaml")
    Path("broken.yaml").write_text("- clip\n")
    assert "it must be" in refusal("broken.yaml")
