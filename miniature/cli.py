"""`python -m miniature STAGE`: make the data, train the models, measure them. Run from the repository's root."""

import argparse
from pathlib import Path

MODELS = Path("models/miniature")


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description=__doc__)
    parser.add_argument("stage", choices=["sprites", "clips", "vae", "clip", "unet", "quality"])
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
    elif options.stage == "quality":
        from miniature import quality

        quality.main(options.models)
    else:
        train(options.stage, options.models, options.stop_after)


def train(stage: str, folder: Path, stop_after: float) -> None:
    """Train one model with the chosen preset, on a GPU if there is one."""
    import torch

    from miniature import contrastive, unet, vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = {"vae": vae, "clip": contrastive, "unet": unet}[stage]
    folder.mkdir(parents=True, exist_ok=True)
    module.train(settings(stage), folder, device, stop_after)


def settings(stage: str) -> dict:
    """The stage's settings in the chosen preset of miniature/params.yaml."""
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(Path("miniature/params.yaml"))
    return {**params[params["preset"]][stage], "warm": params["warm"]}
