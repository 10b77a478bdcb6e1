"""Two CLIPs of the miniature world, of which neither has seen a picture or a weight of the other.

`text` gives the diffusion model its text tower and knows the objects of training; `clip` scores, and knows all.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CLIPTokenizer

from miniature.fit import autocast, fit, replacing
from miniature.pool import Pool
from miniature.scenes import BARE, MOST, SIZE, Scenes, join, names, objects, objects_of, plain, random_scenes
from miniature.text import CONTEXT, HEADS, LAYERS, WIDTH, as_text_model, build_tokenizer, tokenize

MEAN = STD = (0.5, 0.5, 0.5)
NAMED = 0.5  # share of captions that name a colour, and of those that name what is worn: more than the world's


def config(vocab_size: int) -> dict:
    """What open_clip reads as `model_cfg`."""
    text = {"context_length": CONTEXT, "vocab_size": vocab_size, "width": WIDTH, "heads": HEADS, "layers": LAYERS,
            "hf_tokenizer_name": "."}  # fmt: skip
    return {"embed_dim": 128, "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 2, 1], "width": 24}, "text_cfg": text}


class Captioned:
    """A pool with captions that often name attributes, and which captions are true of which pictures."""

    def __init__(self, pool: Pool, seed: int, tokenizer: CLIPTokenizer) -> None:
        rng, scenes = np.random.default_rng([seed, 8]), pool.scenes
        says = rng.random(scenes.says.shape) < NAMED
        says[..., 1] &= scenes.wears != BARE
        self.pool, scenes = pool, scenes.with_(says=says)
        self.tokens = tokenize(tokenizer, scenes.captions()).to(pool.device)
        self.facts, self.stated = (torch.from_numpy(part).to(pool.device) for part in _facts(scenes))
        self.where = np.stack([scenes.style, scenes.place])

    def choose(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Every second batch is of one style and place, so that things and attributes decide."""
        if rng.random() < 0.5:
            return rng.integers(len(self.pool), size=count)
        one = self.where[:, rng.integers(len(self.pool)), None]
        return rng.choice(np.nonzero((self.where == one).all(0))[0], count)

    def true(self, chosen: np.ndarray) -> Tensor:
        """Whether caption j is true of picture i: (i, j)."""
        rows = torch.from_numpy(chosen).to(self.pool.device)
        facts, stated = self.facts[rows], self.stated[rows]
        return ((facts[:, None] == facts[None]) | ~stated[None]).all(2)


def _facts(scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of style, place, count and, of every thing, object, colour and what it wears; which the caption states.

    Motion is left out: it cannot be seen in one picture.
    """
    there = np.arange(MOST) < scenes.count[:, None]
    thing = np.where(there, objects_of(scenes.drawing), -1)
    facts = [scenes.style, scenes.place, scenes.count, *thing.T, *scenes.colour.T, *scenes.wears.T]
    stated = [np.ones((len(scenes), 3 + MOST), bool), scenes.says[..., 0] & there, scenes.says[..., 1] & there]
    return np.stack(facts, 1), np.concatenate(stated, 1)


def half_plain(among: Sequence[str], rng: np.random.Generator, n: int) -> Scenes:
    """Pictures of the objects `among`, half of them plain."""
    return join([plain(rng, n // 2, among=among), random_scenes(rng, n - n // 2, among)])


def train(
    which: str, settings: dict, folder: Path, device: torch.device, stop_after=float("inf"), seconds=None
) -> None:
    """Train `which`, text or clip, and publish `folder`/text_encoder and tokenizer, or `folder`/clip.

    Half of the pictures are plain. Those of which the same caption is true are each other's positives.
    """
    tokenizer = build_tokenizer()
    among = names(seen=True) if which == "text" else list(objects())
    pool = Pool(settings["pool"], settings["seed"], device, draw=partial(half_plain, among))
    data = Captioned(pool, settings["seed"], tokenizer)
    torch.manual_seed(settings["seed"])
    model = open_clip.CLIP(**config(len(tokenizer)))

    def loss(model, rng, generator):
        chosen = data.choose(rng, settings["batch"])
        pictures = data.pool.take(chosen, generator) * 2 - 1
        pictures[::2] = pictures[::2].flip(-1)  # captions do not say left and right
        with autocast(device):
            seen = model.encode_image(pictures, normalize=True)
            read = model.encode_text(data.tokens[torch.from_numpy(chosen).to(device)], normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * seen.float() @ read.float().T
        same = data.true(chosen).float()
        pairs = (logits, same), (logits.T, same.T)
        return sum(cross_entropy(scores, target / target.sum(1, keepdim=True)) for scores, target in pairs) / 2

    model = fit(which, model.to(device), loss, settings, stop_after, seconds).cpu()
    half = {name: tensor.contiguous() for name, tensor in model.half().state_dict().items()}
    if which == "clip":
        publish_clip(half, tokenizer, folder / "clip")
    else:
        publish_text(half, tokenizer, folder)


def publish_clip(weights: dict[str, Tensor], tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write an open_clip folder."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {"model_cfg": config(len(tokenizer)), "preprocess_cfg": preprocess}
    with replacing(folder) as new:
        save_file(weights, new / "open_clip_model.safetensors")
        (new / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
        tokenizer.save_pretrained(new)


def publish_text(weights: dict[str, Tensor], tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the text tower as a transformers CLIPTextModel, and its tokenizer."""
    with replacing(folder / "tokenizer") as new:
        tokenizer.save_pretrained(new)
    with replacing(folder / "text_encoder") as new:
        as_text_model(weights, len(tokenizer)).half().save_pretrained(new)
        described = json.loads((new / "config.json").read_text())  # so that it loads as diffusers loads its parts: cast
        (new / "config.json").write_text(json.dumps({**described, "dtype": "float32"}, indent=2) + "\n")
