"""Section 5.3: variants of the method. What a variant shares with the full method are the same pieces."""

from studies.ahead import make_ahead
from studies.method import Method
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.stages import collect_edits, edits_of


def ablate(params: Params) -> None:
    """Samples all edits as every variant does, into results/ablate/<variant>/<seed>/<clip>/<edit>."""
    varied = {(variant, seed): params.varied(variant, seed) for variant, seed in runs(params)}
    make_ahead(params, edits_of, [(settings, clip) for settings in varied.values() for clip in params.clips])
    with replacing(RESULTS / "ablate") as folder:
        for (variant, seed), settings in varied.items():
            collect_edits(Method(settings), settings, folder / variant / str(seed))


def runs(params: Params) -> list[tuple[str, int]]:
    """The variants and the seeds of tuning that are run: those of full_ablation and `seeds` only if `full` is true."""
    variants = [*params.ablation, *(params.full_ablation if params.full else [])]
    seeds = dict.fromkeys([params.tune.seed, *(params.seeds if params.full else [])])
    return [(variant, seed) for variant in variants for seed in seeds]
