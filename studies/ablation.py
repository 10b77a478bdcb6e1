"""Section 5.3: variants of the method. What a variant shares with the full method are the same pieces."""

from studies.ahead import make_ahead
from studies.method import Method
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.stages import collect_edits, edits_of


def ablate(params: Params) -> None:
    """Samples all edits as every variant does, into results/ablate/<variant>/<seed>/<clip>/<edit>."""
    varied = {(variant, seed): params.varied(variant, seed) for variant, seed in params.runs()}
    make_ahead(params, edits_of, [(settings, clip) for settings in varied.values() for clip in params.clips])
    with replacing(RESULTS / "ablate") as folder:
        for (variant, seed), settings in varied.items():
            collect_edits(Method(settings), settings, folder / variant / str(seed))
