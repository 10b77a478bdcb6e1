"""Weights that travel: a folder with what was tuned, the clip's inverted noise, settings and a model card.

save_bundle("skiing", pipe, noise, model="CompVis/stable-diffusion-v1-4", caption="a man is skiing")
pipe, noise, settings = load_bundle("skiing")
frames = pipe("a panda is skiing", noise).frames[0]
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tav.checkpoint import load_tuned, merge_tuned, read_safetensors, save_tuned
from tav.errors import check_finite, loading
from tav.pipeline import TuneAVideoPipeline, load_pipeline

TUNED, NOISE, SETTINGS, CARD = "tuned.safetensors", "inverted.safetensors", "settings.json", "README.md"
CARD_TEXT = """---
base_model: {model}
library_name: diffusers
tags: [tune-a-video, text-to-video, video-editing]
---
# {caption}

An inflated `{model}`, tuned on one clip of {frames} frames with the caption "{caption}" (Tune-A-Video, arXiv
2212.11565). `{tuned}` holds what was tuned alone; `{noise}` is the clip's inverted noise, f c h w, to start edits from.

```python
from own.bundle import load_bundle

pipe, noise, settings = load_bundle("this folder")
frames = pipe("an edit prompt", noise).frames[0]
```

The base model's licence holds for these weights, too. They show what the clip shows: ask its owner before you share it.
"""


def save_bundle(folder: str | Path, pipe: TuneAVideoPipeline, noise: Tensor, model: str, caption: str, **more) -> None:
    """Write tuned weights, noise f c h w, settings and a model card into a folder; what it had of these is replaced.

    model: where the image model is, a folder or Hub id. more: settings to keep, of which `inflate`, the arguments of
    `tav.model.inflate` beside num_frames, is used when the folder is loaded.
    """
    folder = Path(folder)
    check_finite("the inverted noise", [noise])
    folder.mkdir(parents=True, exist_ok=True)
    save_tuned(pipe, folder / TUNED)
    save_file({"noise": noise.detach().cpu().contiguous()}, folder / NOISE)
    settings = {"model": model, "caption": caption, "num_frames": pipe.num_frames} | more
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
    words = {"model": model, "caption": caption, "frames": pipe.num_frames, "tuned": TUNED, "noise": NOISE}
    (folder / CARD).write_text(CARD_TEXT.format(**words), encoding="utf-8")


def load_bundle(
    folder: str | Path, scale: float = 1.0, model: str = "", dtype: torch.dtype = torch.float32
) -> tuple[TuneAVideoPipeline, Tensor, dict]:
    """The pipeline, the noise f c h w and the settings of a folder that `save_bundle` wrote.

    scale: of what was tuned; 0.5 is half of it. model: instead of the one in the settings, such as a copy elsewhere.
    Raises InputError if the folder is no such one, or the model cannot be had or is another.
    """
    folder = Path(folder)
    with loading(folder / SETTINGS, "give a folder that save_bundle wrote"):
        settings = json.loads((folder / SETTINGS).read_text())
        inflation = {"num_frames": settings["num_frames"]} | settings.get("inflate", {})
        model = model or settings["model"]
    pipe = load_pipeline(model, dtype=dtype, **inflation)
    if scale == 1:
        load_tuned(pipe, folder / TUNED)
    else:
        merge_tuned(pipe, {folder / TUNED: scale})
    with loading(folder / NOISE, "give a folder that save_bundle wrote"):
        noise = read_safetensors(folder / NOISE)["noise"]
    return pipe, noise, settings
