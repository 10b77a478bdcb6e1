"""`python -m miniature STAGE`: make the data, train the models, measure them. Run from the repository's root."""

import argparse
import json
from pathlib import Path

MODELS = Path("models/miniature")
FOLDERS = {"vae": "vae", "clip": "clip", "unet": "unet", "judge": "judge", "edges": "controlnet-edges",
           "mask": "controlnet-mask", "pose": "t2i-adapter-pose", "video": "text-to-video"}  # fmt: skip


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description=__doc__)
    parser.add_argument("stage", choices=["sprites", "clips", *FOLDERS, "labels", "quality"])
    parser.add_argument("--art", type=Path, help="sprites: folder with the three unpacked emoji packages")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the published weights")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; the next run continues there")
    options = parser.parse_args()
    if options.stage == "sprites":
        from miniature import sprites

        sprites.main(options.art)
    elif options.stage == "clips":
        from miniature import clips

        clips.main()
    elif options.stage == "labels":
        from miniature import quality

        quality.draw_for_labelling(options.models)
    elif options.stage == "quality":
        from miniature import quality

        quality.main(options.models)
    else:
        train(options.stage, options.models, options.stop_after)


def train(stage: str, folder: Path, stop_after: float) -> None:
    """Train one model with the chosen preset, on a GPU if there is one, and note what its weights have seen."""
    import torch

    from miniature import contrastive, control, fit, judge, unet, vae, video

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = settings(stage, folder)
    if stage in control.FOLDERS:
        control.train(stage, chosen, folder, device, stop_after)
    elif stage == "video":
        video.train(chosen, folder, device, stop_after)
    else:
        {"vae": vae, "clip": contrastive, "unet": unet, "judge": judge}[stage].train(chosen, folder, device, stop_after)
        (folder / stage / "training.json").write_text(json.dumps(fit.progress(stage, chosen)) + "\n")


def settings(stage: str, folder: Path) -> dict:
    """The stage's settings in the chosen preset of miniature/params.yaml, and what a warm start's weights have seen."""
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(Path("miniature/params.yaml"))
    chosen = {**params[params["preset"]][stage], "warm": params["warm"], "before": {}}
    if params["warm"]:
        chosen["before"] = json.loads((folder / FOLDERS[stage] / "training.json").read_text())
    return chosen
