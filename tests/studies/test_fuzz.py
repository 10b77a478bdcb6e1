"""params.yaml changed at random, by the types and ranges of its own schema: every verb ends as `studies.command` says.

FUZZ_CASES=2000 python -m pytest tests/studies/test_fuzz.py    # a long run; the cases are the same ones each time
"""

import copy
import json
import math
import os
from collections import Counter
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from safetensors.torch import load_file

from peers import PEERS, own_settings
from studies.__main__ import main
from studies.settings import Params, load_params
from studies.store import RECORD
from tav.errors import InputError
from tests import tiny
from tests.tav.test_control import make
from tests.tiny_clip import save_clip

CASES = int(os.environ.get("FUZZ_CASES", 40))
FUZZ = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
VERBS = ("inputs", "tune", "invert", "edit", "ablate", "peers", "control", "objects", "benchmark")
SCHEMA = Params.model_json_schema()
ODD = [None, True, -1, 0, 1.5, 2**63, 10**400, 1e300, math.nan, math.inf, -math.inf]
ODD += ["", " ", "x/y/z", "\0", 300 * "x", "a\nb", [], [3], [24, 40], [16, 1.5], {}, {"x": 1}]
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
NAMES = ["--help", "-h", "source", "reconstruction", "a/b", "..", "x;touch made", "$(touch made)", "é", "", 300 * "x"]
NAMES += ["one", 3, None, True, math.nan]
SPLICES = [
    "\0",
    "\t",
    ":",
    "[",
    "{",
    "&a ",
    "*a",
    "!!int ",
    "!!binary ",
    "%",
    "---\n",
    "'",
    '"\\ud800"',
    "- ",
    999 * "[",
]


def keys(table: dict, above: tuple = ()):
    """The places of all settings and tables."""
    for key, value in table.items():
        yield *above, key
        if isinstance(value, dict):
            yield from keys(value, (*above, key))


def types(schema: dict | bool) -> list[dict]:
    """The types that one setting may have; none are known where anything goes."""
    if isinstance(schema, bool):
        return []
    if "$ref" in schema:
        return [SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]]
    return [one for kind in schema["anyOf"] for one in types(kind)] if "anyOf" in schema else [schema]


def limits(place: tuple) -> list:
    """The borders of what the schema allows at a place: choices, and bounds with their neighbours."""
    section, *rest = place
    if section == "peers" and len(rest) == 2 and rest[0] in PEERS and rest[1] in own_settings(rest[0]):
        found = types(TypeAdapter(own_settings(rest[0])[rest[1]][0]).json_schema())
    else:
        found = [SCHEMA]
        for key in place:
            inner = [kind.get("properties", {}).get(key, kind.get("additionalProperties", False)) for kind in found]
            found = [kind for schema in inner for kind in types(schema)]
    bounds = [kind[name] for kind in found for name in kind if name in BOUNDS]
    choices = [choice for kind in found for choice in kind.get("enum", [])]
    choices += [value for kind in found if kind.get("type") == "boolean" for value in (True, False)]
    return choices + [bound + step for bound in bounds for step in (-1, 0, 1)]


@st.composite
def changed(draw, settings: dict, changes: list[str]) -> dict:
    """These settings with one to three changes of the kinds that are named."""
    settings = copy.deepcopy(settings)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        *above, key = place = draw(st.sampled_from(list(keys(settings))))
        table = reduce(getitem, above, settings)
        change = draw(st.sampled_from(changes))
        if change == "take out":
            del table[key]
        elif change == "rename":
            table[draw(st.sampled_from(NAMES))] = table.pop(key)
        elif change == "add":
            table[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from([*ODD, table[key]])))
        else:
            table[key] = copy.deepcopy(draw(st.sampled_from((limits(place) if change == "limit" else []) or ODD)))
        assume(settings)
    return settings


def write(settings: dict) -> None:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(settings, Path("params.yaml"))


@pytest.fixture
def base(workplace, set_params) -> dict:
    """Settings with something in every table, for models that are there."""
    for kind, role in (("edges", "controlnet"), ("mask", "controlnet"), ("pose", "adapter")):
        make(role).save_pretrained(Path("models") / kind)
    tiny.save_motion_adapter(Path("models/text-to-video"))
    save_clip(Path("clip"))
    clip = load_params().clips["square"].model_dump(mode="json") | {"edits": {"object": "a circle is moving"}}
    YAML(typ="safe").dump({"clips": {"one": clip}}, Path("list.yaml"))
    shipped = load_params(Path(__file__).parents[2] / "params.yaml").peers
    peers = shipped | {"text-to-video": {"model": "models/text-to-video"}}
    set_params({"clips": {"square": clip, "two": clip}, "objects": "list.yaml", "peers": peers, "seeds": [34]})
    set_params({"ablation": {"own": {"inflate": {"attention": "own"}}}, "score.clip_model": "clip"})
    set_params({"full_ablation": {"all": {"tune": {"tuned": "everything"}}}, "full": True, "tune.steps": 2})
    set_params({"control": {kind: f"models/{kind}" for kind in ("edges", "mask", "pose")}, "tune.save_every": 1})
    set_params({"benchmark.run": True, "benchmark.clips": "list.yaml", "benchmark.footage": "."})
    load_params()  # unchanged, they have to be allowed
    return YAML(typ="safe").load(Path("params.yaml"))


def test_settings_are_read_or_refused_in_one_line(base):
    @FUZZ
    @given(data=st.data())
    def case(data):
        write(data.draw(changed(base, ["odd", "limit", "take out", "rename", "add"])))
        text = Path("params.yaml").read_text()
        if data.draw(st.booleans()):
            where = data.draw(st.integers(0, len(text)))
            text = text[:where] + data.draw(st.sampled_from(SPLICES)) + text[where + data.draw(st.integers(0, 9)) :]
            Path("params.yaml").write_text(text)
        try:
            load_params()
        except InputError as error:
            assert str(error).startswith("params.yaml") and len(str(error).splitlines()) == 1

    case()


def test_every_verb_ends_with_one_line_and_keeps_nothing_that_is_half_written_or_not_finite(base, capsys):
    ended = Counter()

    @FUZZ
    @given(data=st.data())
    def case(data):
        write(data.draw(changed(base, ["odd", "limit", "limit", "take out"])))
        try:
            assume(is_small(load_params()))
        except InputError:  # which the other test looks at
            assume(data.draw(st.sampled_from([True, *[False] * 9])))
        verb = data.draw(st.sampled_from(VERBS))
        before, pieces = contents(f"results/{verb}"), set(Path(".pieces").glob("*/*"))
        code, errors = main([verb]), capsys.readouterr().err.splitlines()
        ended[code] += 1
        assert code in (0, 2, 3, 4)
        assert all(line.startswith("warning: ") for line in errors[: len(errors) - (code > 0)]), errors
        assert code == 0 or (errors[-1].startswith("error: ") and contents(f"results/{verb}") == before)
        for piece in set(Path(".pieces").glob("*/*")) - pieces - set(Path(".pieces/unfinished").glob("*")):
            assert json.loads((piece / RECORD).read_text())["digest"]
            for file in piece.glob("*.safetensors"):
                assert all(tensor.isfinite().all() for tensor in load_file(file).values())
        assert not Path("made").exists()

    case()
    assert ended[0] > sum(ended.values()) / 10, "few of the settings were run"
    print("verbs by exit code:", dict(sorted(ended.items())))  # shown by pytest -s


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def is_small(params: Params) -> bool:
    """Whether a run takes a second and little memory, and asks for no cluster."""
    variants = [params, *map(params.varied, params.ablation | params.full_ablation)]
    steps = max(max(varied.tune.steps, varied.invert.steps, varied.edit.steps) for varied in variants)
    size = params.clip.size
    pixels = size**2 if isinstance(size, int) else math.prod(size)
    return steps < 10 and pixels <= 64**2 and not params.benchmark.ray
