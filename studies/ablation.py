"""Section 5.3: variants of the method, which take what they share with the full method from its results."""

from itertools import product
from pathlib import Path

from studies.settings import Params
from studies.stages import (
    RESULTS,
    fingerprint,
    load_model,
    read_posterior,
    replacing,
    result,
    sample_edits,
    tune_with_progress,
)
from tav.checkpoint import load_tuned, read_safetensors
from tav.errors import InputError


def ablate(params: Params, variant: str) -> None:
    """Tunes, inverts and samples all clips as a variant does, into results/ablate/<variant>/<seed>/<clip>/<edit>."""
    if variant not in params.ablation:
        raise InputError(f"params.yaml has no variant {variant}: its ablation has {', '.join(params.ablation)}")
    with replacing(RESULTS / "ablate" / variant) as folder:
        _ablate(params, {variant: folder})


def ablate_full(params: Params) -> None:
    """The same for every variant of full_ablation, into results/ablate-full; does nothing unless `full` is true."""
    with replacing(RESULTS / "ablate-full") as folder:
        _ablate(params, {variant: folder / variant for variant in params.full_ablation if params.full})


def _ablate(params: Params, folders: dict[str, Path]) -> None:
    states = []
    seeds = [params.tune.seed, *(params.seeds if params.full else [])]
    for variant, seed, name in product(folders, seeds, params.clips):
        varied = params.varied(variant, seed)
        states.append(Path(".state/ablate") / f"{variant}-{name}-{fingerprint(varied, name)}.safetensors")
        _edit(params, varied, name, states[-1], folders[variant] / str(seed) / name)
    for state in states:  # until here an interrupted stage finds its tunings done
        state.unlink(missing_ok=True)


def _edit(params: Params, varied: Params, name: str, state: Path, folder: Path) -> None:
    """One clip, from the first step at which `varied` differs from the full method."""
    pipe = load_model(varied)
    posterior = read_posterior(pipe, name)
    tuned_alike = (varied.inflate, varied.tune) == (params.inflate, params.tune)
    if tuned_alike:
        load_tuned(pipe, result("tune", name, "tuned"))
    else:
        tune_with_progress(pipe, posterior, varied, name, state)
    if tuned_alike and varied.invert == params.invert:
        noise = read_safetensors(result("invert", name, "inverted"))["noise"]
    else:
        noise = pipe.invert(pipe.scale(posterior.mode()), num_inference_steps=varied.invert.steps)
    sample_edits(pipe, varied, name, noise, folder)
