"""`python -m studies VERB`: the experiments, run by the stages of dvc.yaml in the folder that holds params.yaml."""

import argparse
import sys
from pathlib import Path

from studies.command import run
from tav import interrupt


def whole(text: str, least: int = 0) -> int:
    """The number of a frame."""
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is no number from {least} on")
    return int(text)


def count(text: str) -> int:
    """A number of frames, pixels or steps."""
    return whole(text, 1)


TRY = {
    "clip": {"metavar": "CLIP", "type": Path, "help": "a video, a GIF or a folder of frames"},
    "--caption": {"default": "", "metavar": "TEXT", "help": "what it shows; without it, BLIP-2 says it"},
    "--edit": {"action": "append", "required": True, "metavar": "TEXT", "help": "a prompt; give as many as you like"},
    "--model": {"help": "a Stable Diffusion, by default params.yaml's"},
    "--captioner": {"metavar": "MODEL", "help": "BLIP-2: a folder or Hub id"},
    "--frames": {"type": count, "help": "by default clip.num_frames, or as many as memory suffices for"},
    "--stride": {"type": count, "help": "every so manieth frame; by default about 8 a second"},
    "--size": {"type": count, "help": "pixels of a side; by default clip.size"},
    "--steps": {"type": count, "help": "of tuning; by default tune.steps"},
    "--until-learnt": {"action": "store_true", "help": "end tuning when the clip is learnt; --steps is the most"},
    "--preview": {"type": count, "metavar": "STEPS", "help": "a rough look at the first edit every so many steps"},
    "--keep": {
        "metavar": "WORDS|MASK",
        "help": "change only what words of the caption mean, or what is white in a mask",
    },
    "--window": {"type": count, "metavar": "FRAMES", "help": "frames at once, of a longer clip"},
    "--overlap": {"type": whole, "default": 2, "metavar": "FRAMES", "help": "that two windows share; by default 2"},
    "--out": {"type": Path, "help": "the folder that gets clips and page; by default results/own/NAME"},
    "--save": {"type": Path, "help": "a folder that gets tuned weights and noise, to share or load elsewhere"},
}
SCORE = {
    "frames": {"metavar": "FRAMES", "type": Path, "help": "what is scored: a video, a GIF or a folder of frames"},
    "--source": {"required": True, "type": Path, "help": "what it was made from"},
    "--prompt": {"required": True, "help": "what it should show"},
    "--caption": {"default": "", "help": "what the source shows, for frame accuracy"},
    "--start": {"type": whole, "default": 0, "help": "the source's frame that is the first one"},
    "--stride": {"type": count, "default": 1, "help": "every so manieth frame of the source"},
    "--out": {"type": Path, "help": "a CSV that gets the line, too"},
}
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
    "try": ("own.attempt:edit_own_clip", TRY, "edit a clip of your own: read, tune, invert, sample, show"),
    "score": ("own.frames:score_frames", SCORE, "score frames that any tool made: a line of CSV"),
    "pieces": ("studies.store:show", "", "show how many pieces the store has, and what they take"),
    "prune": ("studies.store:prune", "SIZE", "delete the pieces longest not used until SIZE is left, such as 2GB or 0"),
    "use": ("studies.presets:use", "PRESET", "make params/PRESET.yaml the params.yaml; what was changed in it is kept"),
}
WITHOUT_SETTINGS = {"pieces", "prune", "use"}  # which have to work when params.yaml does not
LIGHT = frozenset({"inputs", *WITHOUT_SETTINGS})


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code, see `studies.command`."""
    about = "The stages of the pipeline, of which `dvc repro` runs what is stale, and the store of what they made."
    return run("studies", about, VERBS, arguments, WITHOUT_SETTINGS, LIGHT)


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
