"""`python -m studies VERB`: the experiments, run by the stages of dvc.yaml in the folder that holds params.yaml."""

import sys

from studies.command import run
from tav import interrupt

VERBS = {
    "inputs": ("studies.inputs:inputs", "", "note the digests of the models and clips that params.yaml names"),
    "tune": ("studies.stages:tune", "", "tune the inflated model on every clip of params.yaml"),
    "invert": ("studies.stages:invert", "", "invert every tuned clip to noise, and sample it back as a check"),
    "edit": ("studies.stages:edit", "", "sample every clip's edits from its noise"),
    "ablate": ("studies.ablation:ablate", "", "tune and sample all clips as the variants of the ablation do"),
    "peers": ("studies.peers:edit_by_peers", "", "edit all clips as the methods of peers/ do"),
    "control": ("studies.control:control_clips", "", "sample edits under ControlNets and adapters"),
    "objects": ("studies.objects:objects", "", "the clips of several objects, with and without control"),
    "benchmark": ("studies.benchmark:benchmark", "", "all methods on a whole list of clips, if benchmark.run is true"),
    "pieces": ("studies.store:show", "", "show how many pieces the store has, and what they take"),
    "prune": ("studies.store:prune", "SIZE", "delete the pieces longest not used until SIZE is left, such as 2GB or 0"),
    "use": ("studies.presets:use", "PRESET", "make params/PRESET.yaml the params.yaml; what was changed in it is kept"),
}
WITHOUT_SETTINGS = {"pieces", "prune", "use"}  # which have to work when params.yaml does not


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code, see `studies.command`."""
    about = "The stages of the pipeline, of which `dvc repro` runs what is stale, and the store of what they made."
    return run("studies", about, VERBS, arguments, WITHOUT_SETTINGS)


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
