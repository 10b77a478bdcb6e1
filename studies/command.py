"""Command lines of verbs that work on params.yaml, with one boundary for what goes wrong.

Exit codes: 0 done, 2 bad input, 3 a loss that is not finite, 4 out of memory, 130 Ctrl-C (`tav.interrupt`); each with
one line on stderr. 1 is a bug.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib import import_module

from safetensors import SafetensorError

from studies.results import explain
from studies.settings import load_params
from studies.warm import ask
from tav.errors import InputError, NumericalError, is_out_of_memory


def run(
    package: str,
    about: str,
    verbs: Mapping[str, tuple[str, str | Mapping[str, dict], str]],
    arguments: list[str] | None = None,
    without_settings: Collection[str] = (),
    light: frozenset[str] = frozenset(),
) -> int:
    """Runs one verb of `python -m package` and returns the exit code.

    verbs: verb -> the function, "module:name", which takes the settings and the verb's argument, if it has one; what
        the argument is called, or "", or several with what argparse takes of each, which the function gets together as
        a namespace; what --help says.
    without_settings: the verbs whose function takes no settings.
    light: the verbs that import little, and so do not wait for a warm process, see `studies.warm`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not light.intersection(arguments[:1]) and (code := ask(package, arguments)) is not None:
        return code
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"

    def work() -> None:
        options = _parser(package, about, verbs).parse_args(arguments)
        words = [options.name] if "name" in options else [options] if len(vars(options)) > 1 else []
        _run(verbs[options.verb][0], options.verb, words, options.verb not in without_settings)

    return ended(work, lambda: _smaller(arguments[0]))


def ended(work: Callable[[], None], smaller: Callable[[], str] = lambda: "") -> int:
    """The exit code of a command's `work`, whose failures of the known kinds are a line each.

    smaller: the settings, each with a comma, that would save memory.
    """
    try:
        work()
    except InputError as error:
        return _fail(error, 2)
    except OSError as error:
        return _fail(explain(error), 2)
    except SafetensorError as error:
        return _fail(f"cannot write weights ({error}): is the disk full?", 2)
    except NumericalError as error:
        return _fail(error, 3)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(f"out of memory: {smaller()}lower clip.size or clip.num_frames", 4)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; `{self.prog.partition(' VERB')[0]} --help` lists what there is")


def _parser(package: str, about: str, verbs: Mapping) -> _Parser:
    parser = _Parser(prog=f"python -m {package}", description=about)
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, what, help) in verbs.items():
        sub = subparsers.add_parser(verb, help=help, description=help)
        for name, settings in what.items() if isinstance(what, Mapping) else ():
            sub.add_argument(name, **settings)
        if what and isinstance(what, str):
            sub.add_argument("name", metavar=what)
    return parser


def _run(path: str, verb: str, words: list[str], with_settings: bool) -> None:
    module, name = path.split(":")
    function = getattr(import_module(module), name)  # imported when it runs: a stage depends on what it imports
    if not with_settings:
        return function(*words)
    params = load_params()
    function(params, *words)
    # DVC hashes the settings after the command: without this check it would file results under settings they are not of
    if changed := [section for section, value in load_params() if value != getattr(params, section)]:
        raise InputError(f"params.yaml changed while {verb} was running ({', '.join(changed)}): run it again")


def _smaller(verb: str) -> str:
    """The settings that would save memory and are not made, in the order of what they save for what they cost."""
    params = load_params()
    todo = {
        "set processes to 1": params.processes != 1,
        "set tune.recompute to full": verb != "edit" and params.tune.recompute != "full",
        "set memory.dtype and tune.mixed_precision to bf16": params.memory.dtype == "float32",
        "set memory.vae_frames to 1": params.memory.vae_frames > 1,
        "set memory.offload to true": not params.memory.offload,
        "set memory.attention_frames to 1": params.memory.attention_frames is None,
    }
    return "".join(f"{what}, " for what, open in todo.items() if open)


def _fail(message: object, code: int) -> int:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return code
