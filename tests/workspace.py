"""A copy of this repository's pipeline in a folder of its own, with a tiny random model, short clips and few steps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from diffusers import ControlNetModel, UNet2DConditionModel
from ruamel.yaml import YAML

from tav.clip import write_clip
from tests import tiny, tiny_clip

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
CLIP = {
    "source": {"path": "data/clips/one.mp4", "start": 0, "stride": 1},
    "caption": "a square is moving",
    "edits": {"object": "a circle is moving"},
}
SMALL = {
    "model": "models/miniature",
    "device": "cpu",
    "processes": 1,
    "clip": {"num_frames": 3, "size": 32, "fit": "crop", "fps": 8},
    "invert": {"steps": 2, "solver": "ddim", "diffused_steps": 0, "stock": False},
    "edit": {
        "steps": 2,
        "solver": "ddim",
        "noise": "inverted",
        "guidance_scale": 7.5,
        "guidance_interval": [0, 1],
        "negative_prompt": "",
    },
    "score": {"clip_model": "models/miniature/clip", "accuracy_model": "", "pick_model": "", "judge": ""},
    "ablation": {"own": {"inflate": {"attention": "own"}}},
    "full_ablation": {},
    "peers": {"per-frame": {"guidance_scale": 2.0}},
    "control": {"edges": "models/miniature/controlnet-edges"},
    "objects": "data/objects.yaml",
    "benchmark": {
        "run": False,
        "clips": "data/evaluation.yaml",
        "footage": "data/clips",
        "ray": "",
        "retries": 1,
        "parts": ["peers"],
        "objects": "data/objects.yaml",
        "seeds": [33],
    },
}


class Workspace:
    """A copy of this repository's pipeline with its own models, clips and settings."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder, ""
        for name in ("tav", "measures", "peers", "studies", "publish", "benchmarks", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        tiny.save_model(folder / "models/miniature")
        tiny_clip.save_clip(folder / "models/miniature/clip")
        (folder / "miniature/reports").mkdir(parents=True)
        (folder / "miniature/reports/gates.json").write_text("{}")
        (folder / "data/clips").mkdir(parents=True)
        for name in ("judge", "controlnet-mask", "t2i-adapter-pose", "text-to-video"):  # nothing here uses them
            (folder / "models/miniature" / name).mkdir()
        unet = UNet2DConditionModel.from_pretrained(folder / "models/miniature/unet")
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4))
        control.save_pretrained(folder / "models/miniature/controlnet-edges")
        (folder / "data/evaluation.yaml").write_text("clips: {}\n")
        YAML(typ="safe").dump({"clips": {"pair": CLIP}}, folder / "data/objects.yaml")
        square = (tiny.moving_square(3) + 1) / 2
        for name, clip in {"one": square, "two": square.flip(-1)}.items():
            write_clip(folder / f"data/clips/{name}.mp4", clip)
        settings = YAML(typ="safe").load(ROOT / "params.yaml")
        self.settings = settings | SMALL | {"clips": {}}
        self.settings["tune"] |= {"steps": 2}
        self.add_clip("one")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

    def add_clip(self, name: str) -> None:
        source = CLIP["source"] | {"path": f"data/clips/{name}.mp4"}
        self.settings["clips"][name] = CLIP | {"source": source, "edits": dict(CLIP["edits"])}

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen:
        """Starts `python -m module arguments` here, under `settings`, in a process group of its own."""
        YAML(typ="safe").dump(self.settings, self.folder / "params.yaml")
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | environment | {"PATH": paths, "PYTHONPATH": "", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", module, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **pipes)

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Runs `dvc repro` and returns the stages that were executed, in order; `output` holds what was printed."""
        running = self.start("dvc", "repro", *arguments, **environment)
        self.output = running.communicate()[0]
        assert running.returncode == 0, self.output[-3000:]
        return re.findall(r"^Running stage '(.+)':", self.output, re.MULTILINE)

    def pieces(self, *kinds: str) -> dict[str, int]:
        """How many pieces of each kind the store has."""
        return {kind: len(list((self.folder / ".pieces" / kind).iterdir())) for kind in kinds}

    def files(self, *folders: str) -> dict[str, bytes]:
        paths = (path for folder in folders for path in sorted((self.folder / folder).rglob("*")))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths if path.is_file()}
