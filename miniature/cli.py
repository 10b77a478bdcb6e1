"""`python -m miniature STAGE`: make the data, train the models. Run from the repository's root."""

import argparse
import json
import time
from importlib import import_module
from pathlib import Path

MODELS = Path("models/miniature")
FOLDERS = {"vae": "vae", "text": "text_encoder", "clip": "clip", "unet": "unet", "reader": "judge/reader",
           "finder": "judge/finder", "edges": "controlnet-edges", "mask": "controlnet-mask",
           "pose": "t2i-adapter-pose", "video": "text-to-video"}  # fmt: skip
SHARES = {
    "vae": 20,
    "text": 10,
    "clip": 12,
    "unet": 45,
    "reader": 8,
    "finder": 12,
    "edges": 8,
    "mask": 8,
    "pose": 6,
    "video": 12,
}
MODULES = {
    "text": "contrastive",
    "clip": "contrastive",
    "reader": "judge",
    "finder": "judge",
    "edges": "control",
    "mask": "control",
    "pose": "control",
}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description=__doc__)
    parser.add_argument("stage", choices=["sprites", "clips", "missing", "classify", "gates", "edited", *FOLDERS])
    parser.add_argument("--art", type=Path, help="sprites: folder with the unpacked art packages")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the published weights")
    parser.add_argument("--preset", choices=["cpu", "gpu"], help="instead of that of miniature/params.yaml")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; the next run continues there")
    parser.add_argument("--seconds", type=float, help="train this long, whatever the preset's number of pictures")
    options = parser.parse_args()
    if options.stage == "sprites":
        from miniature import sprites

        if not options.art:
            parser.error("sprites needs --art: the folder with the unpacked art packages")
        sprites.main(options.art)
    elif options.stage == "clips":
        from miniature import clips

        clips.main()
    elif options.stage == "classify":
        from miniature.classify import right

        print(json.dumps(right(options.models, _device())))
    elif options.stage == "gates":
        from miniature import gates

        print(gates.markdown(gates.main(options.models, _device())), end="")
    elif options.stage == "edited":
        from miniature import gates

        gates.show_edited(Path("results"))
    elif options.stage == "missing":
        train_missing(options.models, options.preset, options.seconds)
    else:
        train(options.stage, options.models, options.preset, options.stop_after, options.seconds)


def train_missing(folder: Path, preset: str | None, seconds: float | None) -> None:
    """Train every model that is not published, each for its share of `seconds` or as its preset says.

    Called again after an interruption it goes on with the first that is missing.
    """
    missing = [stage for stage, name in FOLDERS.items() if not (folder / name / "training.json").exists()]
    for number, stage in enumerate(missing):
        share = SHARES[stage] / sum(SHARES[other] for other in missing[number:])
        began = time.monotonic()
        train(stage, folder, preset, float("inf"), seconds and share * seconds)
        seconds = seconds and max(1.0, seconds - (time.monotonic() - began))


def train(stage: str, folder: Path, preset: str | None, stop_after: float, seconds: float | None) -> None:
    """Train one model, on a GPU if there is one, and note what its weights have seen."""
    from miniature import fit

    folder.mkdir(parents=True, exist_ok=True)
    chosen, how = settings(stage, folder, preset), (folder, _device(), stop_after, seconds)
    module = import_module(f"miniature.{MODULES.get(stage, stage)}")
    if stage in MODULES:
        module.train(stage, chosen, *how)
    else:
        module.train(chosen, *how)
    (folder / FOLDERS[stage] / "training.json").write_text(json.dumps(fit.progress(stage, chosen)) + "\n")


def settings(stage: str, folder: Path, preset: str | None = None) -> dict:
    """The stage's settings in a preset of miniature/params.yaml, and what a warm start's weights have seen."""
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(Path("miniature/params.yaml"))
    chosen = {**params[preset or params["preset"]][stage], "before": {}}
    if chosen.get("warm"):
        chosen["before"] = json.loads((folder / FOLDERS[stage] / "training.json").read_text())
    return chosen


def _device():
    """A GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
