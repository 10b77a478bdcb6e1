"""The pipeline's stages: `python -m tav tune CLIP` and the like, run in the folder that holds params.yaml.

Exit codes: 0 done, 2 bad input, 3 a loss that is not finite, 4 out of memory; each with one line on stderr. 1 is a bug.
"""

import argparse
import sys
import warnings
from importlib import import_module

from tav.config import load_params, settings_of
from tav.errors import InputError, NumericalError


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        options = _parser().parse_args(arguments)
        _run(options.verb, getattr(options, "name", ""))
    except InputError as error:
        return _fail(error, 2)
    except NumericalError as error:
        return _fail(error, 3)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(f"out of memory: {_smaller(options.verb)}lower clip.size or clip.num_frames", 4)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; `python -m tav --help` lists what there is")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m tav", description="The stages of the pipeline: `dvc repro` runs what is stale.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, what, help) in VERBS.items():
        sub = verbs.add_parser(verb, help=help, description=help)
        if what:
            sub.add_argument("name", metavar=what)
    return parser


def _run(verb: str, name: str) -> None:
    if verb == "use":  # which has to work when params.yaml does not
        return import_module("studies.presets").use(name)
    params, stage = load_params(), name if verb == "notebook" else verb
    before = settings_of(params, stage, name)
    module, function = VERBS[verb][0].split(":")  # imported when it runs: a stage depends on what it imports
    getattr(import_module(module), function)(params, *([name] if name else []))
    # DVC hashes the settings after the command: without this check it would file results under settings they are not of
    after = settings_of(load_params(), stage, name)
    if changed := [key for key in before if before[key] != after.get(key)]:
        raise InputError(f"params.yaml changed while {verb} {name} was running ({', '.join(changed)}): run it again")


def _smaller(verb: str) -> str:
    """The settings that would save memory and are not made, in the order of what they save for what they cost."""
    params = load_params()
    todo = {
        "set tune.gradient_checkpointing to true": verb != "edit" and not params.tune.gradient_checkpointing,
        "set memory.dtype and tune.mixed_precision to bf16": params.memory.dtype == "float32",
        "set memory.vae_frames to 1": params.memory.vae_frames > 1,
        "set memory.offload to true": not params.memory.offload,
        "set memory.attention_frames to 1": params.memory.attention_frames is None,
    }
    return "".join(f"{what}, " for what, open in todo.items() if open)


VERBS = {  # verb -> the function, what its argument is, what --help says
    "tune": ("tav.stages:tune_clip", "CLIP", "tune the inflated model on one clip of params.yaml"),
    "invert": ("tav.stages:invert_clip", "CLIP", "invert a tuned clip to noise, and sample it back as a check"),
    "edit": ("tav.stages:edit_clip", "CLIP", "sample a tuned clip's edits from its noise"),
    "ablate": ("studies.ablation:ablate", "VARIANT", "tune and sample all clips as a variant of the ablation does"),
    "ablate-full": ("studies.ablation:ablate_full", "", "the variants of full_ablation, if full is true"),
    "baseline": ("studies.peers:baseline", "METHOD", "edit all clips as one of baselines/ does"),
    "control": ("studies.control:control_clips", "", "sample edits under ControlNets and adapters"),
    "objects": ("studies.objects:objects", "", "the clips of several objects, with and without control"),
    "benchmark": ("studies.benchmark:benchmark", "", "all methods on a whole list of clips, if benchmark.run is true"),
    "notebook": ("tav.notebook:execute_notebook", "NAME", "execute one of notebooks/ (its name without .py)"),
    "use": ("studies.presets:use", "PRESET", "make params/PRESET.yaml the params.yaml; what was changed in it is kept"),
    "report": ("tav.report:write_report", "", "write reports/ from the results"),
    "readme": ("studies.readme:write_readme", "", "write the tables of README.md from reports/"),
}


def _is_out_of_memory(error: Exception) -> bool:
    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def _fail(message: object, code: int) -> int:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
