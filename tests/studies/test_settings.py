"""params.yaml: what is read, and what is refused in which words."""

import json
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
        (
            "invert.diffused_steps",
            2,
            "it must be of fewer diffused_steps than steps, and with dpm of none and not stock",
        ),
        ("edit.guidance_interval", [0.5], "edit.guidance_interval is [0.5]: it must be a list of two shares"),
        ("edit.guidance_interval", [0.5, 0.2], "it must be two shares from 0 to 1, the lower one first"),
        ("edit.guidance_interval", [0, float("nan")], "it must be two shares from 0 to 1, the lower one first"),
        ("edit.solver", "euler", "edit.solver is 'euler': it must be 'ddim' or 'dpm'"),
        ("compile", "yes", "compile is 'yes': it must be true or false"),
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
        ("clips", {2: {}}, "clips.2 cannot be a name: it is no text: put it in quotes"),
        ("clips.--help", {}, "clips.--help cannot be a name: names begin with a-z or 0-9"),
        ("clips.square.edits.-h", "a circle", "clips.square.edits.-h cannot be a name: names begin with a-z or 0-9"),
        ("clips.square.edits.source", "a circle", "edits.source cannot be a name: the clip's own source is shown"),
        ("ablation.source", {}, "ablation.source cannot be a name: the clip's own source is shown under it"),
        ("clips." + 101 * "a", {}, "cannot be a name: names begin with a-z or 0-9, and have at most 100 characters"),
        ("clips.square.source.path", 256 * "a", "it must be a path or id of at most 1,000 characters"),
        ("clips.square.source.path", "a\0b", "it must be a path or id of at most 1,000 characters"),
        ("model", 501 * "a/", "it must be a path or id of at most 1,000 characters"),
        ("clip.size", 10**9, "each 8 or more, up to a million"),
        ("clip.fps", 1e300, "clip.fps is 1e+300: it must be less than or equal to 240"),
        ("edit.steps", 1000, "edit.steps is 1000: it must be less than 1000"),
        ("tune.learning_rate", 1e38, "tune.learning_rate is 1e+38: it must be less than or equal to 1000000000"),
        ("edit.guidance_scale", 1e300, "edit.guidance_scale is 1e+300: it must be less than or equal to 1000"),
        ("tune.prior_preservation", 1e30, "it must be less than or equal to 1000000"),
        ("tune.prior_preservation", float("nan"), "tune.prior_preservation is nan: it must be a finite number"),
        ("memory.vae_frames", 10**30, "it must be less than 2147483648"),
        ("peers", {"sdedit": {"strength": [1]}}, "peers.sdedit.strength is [1]: it must be a finite number, a text"),
        ("peers", {"sdedit": {"strength": float("inf")}}, "peers.sdedit.strength is inf: it must be a finite number"),
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
    Path("broken.yaml").write_text("clip: " + 3000 * "[" + 3000 * "]")
    assert refusal("broken.yaml") == "broken.yaml is nested deeper than settings are: write it anew"
    for value in ("!!int many", "2024-99-99", "!!bool perhaps", 5000 * "9"):
        Path("broken.yaml").write_text(f"clip: {value}")
        assert "broken.yaml holds a value that cannot be read" in refusal("broken.yaml")
    bomb = [f"&a{level} [{', '.join(9 * [f'*a{level - 1}'])}]" for level in range(1, 12)]
    Path("broken.yaml").write_text("\n- ".join(["- &a0 clip", *bomb]))
    assert refusal("broken.yaml").startswith("broken.yaml holds ['clip', [")
    nested = f"ablation: {{one: {{tune: {{steps: [&a0 clip, {', '.join(bomb)}]}}}}}}"
    good = f"\n{Path('params.yaml').read_text()}"
    Path("broken.yaml").write_text(good.replace("\nablation: {}", f"\n{nested}"))
    assert "ablation.one.tune.steps is ['clip', [" in refusal("broken.yaml")
    Path("broken.yaml").write_text(good.replace("fps: 8", f"fps: 0x{5000 * 'f'}"))
    assert "clip.fps is a number of many digits: it must be" in refusal("broken.yaml")
    Path("broken.yaml").write_text("- clip\n")
    assert "it must be" in refusal("broken.yaml")


@pytest.mark.parametrize("table", ["clips", "ablation", "full_ablation", "peers", "control"])
@pytest.mark.parametrize("name", ["x;touch y", "$(touch y)", "`touch y`", "a | b", "a&b", "a\nb", "'\"", "../a", ""])
def test_a_name_that_a_shell_or_a_file_system_would_read_otherwise_is_refused(workplace, set_params, table, name):
    set_params({table: {"its-name": {}}})
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("its-name", json.dumps(name)))
    assert "cannot be a name: names are made of a-z, 0-9 and -" in refusal()


def test_the_same_name_in_both_tables_of_variants_is_refused(workplace, set_params):
    set_params({"ablation": {"slow": {}}, "full_ablation": {"slow": {"tune": {"steps": 1}}}})
    assert refusal() == "params.yaml: slow is in ablation and in full_ablation: give one of them another name"


def test_a_seed_that_is_named_twice_is_run_once(workplace, set_params):
    set_params({"full": True, "seeds": [34, 34, 33], "full_ablation": {"slow": {}}})
    assert load_params().runs() == [("slow", 33), ("slow", 34)]
