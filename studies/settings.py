"""params.yaml as typed, validated settings: what is wrong with it is said in one line, before anything is computed."""

import math
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from measures.clips import ClipEntry, Count, Name, Needed, Place, Section, Shown, Whole, place
from tav.errors import InputError, one_line


def _side_or_sides(size):
    """One side in pixels, or [height, width]; each a whole number from 8 to a million."""
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if any(isinstance(side, bool) or not isinstance(side, int) or not 8 <= side <= 10**6 for side in sides):
        raise ValueError("one number of pixels or [height, width], each 8 or more, up to a million")
    return size if isinstance(size, int) else tuple(sides)


def _one_value(value):
    """What a setting can be at all that is checked where it is used."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("a finite number, a text, true, false or null")


def _one_value_or_two_numbers(value):
    """The same of a variant, whose settings may be an interval."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, int | float) for one in value):
        return [_one_value(one) for one in value]
    return _one_value(value)


def _one_value_or_place(value):
    """The same of a peer, whose texts are models."""
    return place(value) if isinstance(value, str) else _one_value(value)


def _interval(value) -> tuple[float, float]:
    """Two shares, the lower one first."""
    numbers = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or len(numbers) == 1:
        raise ValueError("a list of two shares, such as [0, 1]")
    if not 0 <= numbers[0] < numbers[1] <= 1:
        raise ValueError("two shares from 0 to 1, the lower one first")
    return tuple(map(float, numbers))


Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=1, lt=1000)]  # of DDIM, among the 1,000 that Stable Diffusion was trained with
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Solver = Literal["ddim", "dpm"]
Changes = dict[str, Annotated[Any, AfterValidator(_one_value_or_two_numbers)]]


class _Shown(Repr):
    """Values as messages show them: a few lines of YAML with aliases can stand for gigabytes of text."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**60 else "a number of many digits"


SHOWN = _Shown()
SHOWN.maxstring = 60

PLAIN = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "dict_type": "a table of names",
    "too_short": "a table of one name or more",
    "model_type": "a table of settings",
}


class Inflate(Section):
    """How the image model becomes a model of clips (section 3 of the paper)."""

    norm: Literal["clip", "frame"]
    attention: Literal["sparse-causal", "own", "first", "full"]
    temporal: bool
    temporal_conv: bool


class Clip(Section):
    """What is read from every clip, in frames and pixels, and the frames per second that results are shown at."""

    num_frames: Count
    size: Annotated[int | tuple[int, int], BeforeValidator(_side_or_sides)]
    fit: Literal["crop", "letterbox"]
    fps: Annotated[float, Field(ge=0.1, le=240, allow_inf_nan=False)]

    @property
    def is_square(self) -> bool:
        """Whether frames have sides alike: truth is known of such alone."""
        return isinstance(self.size, int) or self.size[0] == self.size[1]


class Tune(Section):
    """One-shot tuning; `save_every` counts the steps between the states that an interrupted run resumes from."""

    steps: Whole
    learning_rate: Rate
    seed: Seed
    tuned: Literal["paper", "queries", "temporal", "everything"]
    tune_down_blocks: bool
    recompute: Literal["none", "lean", "feed-forward", "full"]
    mixed_precision: Literal["no", "fp16", "bf16"]
    prior_preservation: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    frames: Literal["in-order", "shuffled"]
    stop: Literal["steps", "measure"]
    save_every: Count

    def arguments(self) -> dict:
        """What `tav.tune.tune` takes."""
        return self.model_dump(exclude={"frames", "stop"})


class Memory(Section):
    """What saves memory: half-precision weights, fewer frames at once, encoder and VAE off the GPU when not used."""

    dtype: Literal["float32", "fp16", "bf16"]
    vae_frames: Count
    attention_frames: Count | None
    offload: bool


class Invert(Section):
    """Inversion, by DDIM or by a multistep solver that takes fewer steps; some steps may be forward diffusion."""

    steps: Steps
    solver: Solver
    diffused_steps: Whole
    stock: bool

    @model_validator(mode="after")
    def _inverts_some(self) -> "Invert":
        if self.diffused_steps >= self.steps or (self.solver != "ddim" and (self.diffused_steps or self.stock)):
            raise ValueError("of fewer diffused_steps than steps, and with dpm of none and not stock")
        return self


class Edit(Section):
    """Sampling with an edit prompt."""

    steps: Steps
    solver: Solver
    noise: Literal["inverted", "random"]
    guidance_scale: Guidance
    guidance_interval: Annotated[tuple[float, float], BeforeValidator(_interval)]
    negative_prompt: str


class Score(Section):
    """What scores: CLIP, an open_clip name such as ViT-L-14/openai or a folder; what else there is, or nothing."""

    clip_model: Needed
    accuracy_model: Place
    pick_model: Place
    judge: Place


class Variant(Section):
    """What an ablation changes in the settings of the full method."""

    inflate: Changes = {}
    tune: Changes = {}
    invert: Changes = {}
    edit: Changes = {}


class Conditions(Section):
    """The models that draw the conditions of a clip, folders or Hub ids."""

    depth: Place
    openpose: Place


class Benchmark(Section):
    """Whether `benchmark` runs, what of it, over which list of clips, where these lie, on which Ray cluster."""

    run: bool
    parts: list[Literal["peers", "ablation", "full_ablation", "control", "objects"]]
    clips: Needed
    objects: Needed
    footage: Needed
    seeds: Annotated[list[Seed], Field(min_length=1)]
    ray: str
    retries: Whole


class Params(Section):
    """All of params.yaml."""

    model: Needed
    lora: Place
    device: Literal["auto", "cpu", "cuda", "mps"]
    processes: Literal["auto"] | Count
    compile: bool
    inflate: Inflate
    clip: Clip
    tune: Tune
    memory: Memory
    invert: Invert
    edit: Edit
    score: Score
    clips: Annotated[dict[Name, ClipEntry], Field(min_length=1)]
    full: bool
    seeds: list[Seed]
    ablation: dict[Shown, Variant]
    full_ablation: dict[Shown, Variant]
    peers: dict[Name, dict[str, Annotated[Any, AfterValidator(_one_value_or_place)]]]  # whose types are in `peers`
    control: dict[Name, Needed]
    conditions: Conditions
    objects: Place
    benchmark: Benchmark

    def changed(self, **sections: dict) -> "Params":
        """These settings with other values in their sections, which are not checked."""
        return self.model_copy(
            update={name: getattr(self, name).model_copy(update=values) for name, values in sections.items()}
        )

    def varied(self, variant: str, seed: int | None = None) -> "Params":
        """These settings with a variant's and a seed of tuning in their place; InputError if they are not allowed."""
        settings = self.model_dump(mode="json") | {"ablation": {}, "full_ablation": {}}
        for section, values in (self.ablation | self.full_ablation)[variant].model_dump().items():
            settings[section] |= values
        if seed is not None:
            settings["tune"]["seed"] = seed
        try:
            return Params.model_validate(settings)
        except ValidationError as error:
            raise InputError(f"variant {variant}: {explain(error)}") from None

    def runs(self) -> list[tuple[str, int]]:
        """The ablation's variants and their seeds of tuning: those of full_ablation and `seeds` only if `full`."""
        variants = [*self.ablation, *(self.full_ablation if self.full else [])]
        seeds = dict.fromkeys([self.tune.seed, *(self.seeds if self.full else [])])
        return [(variant, seed) for variant in variants for seed in seeds]

    def next_clip(self, name: str) -> str:
        """The clip whose condition a clip is drawn under: the next in params.yaml, for the last one the first."""
        names = list(self.clips)
        return names[(names.index(name) + 1) % len(names)]

    def with_clips(self, path: str) -> "Params":
        """These settings with the clips of a list, a YAML file with `clips` as in params.yaml; "" is a list of none.

        Raises InputError, one line, if the file is missing, or no such list.
        """
        if not path:
            return self.model_copy(update={"clips": {}})
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist: name a list of clips, such as data/evaluation.yaml")
        listed = read_yaml(path)
        if "clips" not in listed:
            raise InputError(f"{path} has no clips: name a list of clips, such as data/evaluation.yaml")
        try:
            return Params.model_validate(self.model_dump(mode="json") | {"clips": listed["clips"]})
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error)}") from None


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks params.yaml; raises InputError, one line with the setting, its value and what is allowed."""
    settings = read_yaml(path)
    try:
        params = Params.model_validate(settings)
        if twice := params.ablation.keys() & params.full_ablation.keys():
            raise InputError(f"{min(twice)} is in ablation and in full_ablation: give one of them another name")
        for variant in params.ablation | params.full_ablation:
            params.varied(variant)
        return params
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from None


def read_yaml(path: str | Path) -> dict:
    """What a YAML file holds, {} if it is empty; InputError, one line, if it is missing or no YAML of a mapping."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: run this from the folder that holds it")
    try:  # ruamel reads YAML 1.2, as DVC does: there 3e-5 is a number and `no` is a text
        settings = YAML(typ="safe").load(Path(path))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}") from None
    except YAMLError as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}: save it as text in UTF-8") from None
    except RecursionError:
        raise InputError(f"{path} is nested deeper than settings are: write it anew") from None
    except (ValueError, LookupError) as error:  # of a value that is no number or date, but says that it is
        raise InputError(f"{path} holds a value that cannot be read ({one_line(error)}): correct it") from None
    if settings is not None and not isinstance(settings, dict):
        raise InputError(f"{path} holds {_cut(SHOWN.repr(settings), 60)}: it must be a table of settings")
    return settings or {}


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, and how many more there are."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] == "missing")  # a typo before its gap
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_explain(problems[0])}{more}"


def _explain(problem: dict) -> str:
    key = _cut(".".join(map(str, problem["loc"])), 160) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a setting: {_neighbours(problem['loc'][:-1])}"
    if problem["type"] == "missing":
        return f"{key} is missing: add it"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["loc"][-1:] == ("[key]",):
        why = "it is no text: put it in quotes" if problem["type"] == "string_type" else message
        return f"{key.removesuffix('.[key]')} cannot be a name: {why}"
    return f"{key} is {_cut(SHOWN.repr(problem['input']), 60)}: it must be {PLAIN.get(problem['type'], message)}"


def _cut(text: str, most: int) -> str:
    """A text without line breaks, of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _neighbours(loc: tuple) -> str:
    """The settings that exist where an unknown one was given."""
    section = Params
    for key in loc:
        section = section.model_fields[key].annotation if hasattr(section, "model_fields") else get_args(section)[1]
    return f"{'.'.join(map(str, loc)) or 'params.yaml'} takes {', '.join(section.model_fields)}"
