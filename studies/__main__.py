"""`python -m studies VERB`: the experiments, run by the stages of dvc.yaml in the folder that holds params.yaml."""

import sys

from studies.command import run

VERBS = {
    "tune": ("studies.stages:tune_clip", "CLIP", "tune the inflated model on one clip of params.yaml"),
    "invert": ("studies.stages:invert_clip", "CLIP", "invert a tuned clip to noise, and sample it back as a check"),
    "edit": ("studies.stages:edit_clip", "CLIP", "sample a tuned clip's edits from its noise"),
    "ablate": ("studies.ablation:ablate", "VARIANT", "tune and sample all clips as a variant of the ablation does"),
    "ablate-full": ("studies.ablation:ablate_full", "", "the variants of full_ablation, if full is true"),
    "baseline": ("studies.peers:baseline", "METHOD", "edit all clips as one of peers/ does"),
    "control": ("studies.control:control_clips", "", "sample edits under ControlNets and adapters"),
    "objects": ("studies.objects:objects", "", "the clips of several objects, with and without control"),
    "benchmark": ("studies.benchmark:benchmark", "", "all methods on a whole list of clips, if benchmark.run is true"),
    "use": ("studies.presets:use", "PRESET", "make params/PRESET.yaml the params.yaml; what was changed in it is kept"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code, see `studies.command`."""
    return run("studies", "The stages of the pipeline: `dvc repro` runs what is stale.", VERBS, arguments)


if __name__ == "__main__":
    sys.exit(main())
