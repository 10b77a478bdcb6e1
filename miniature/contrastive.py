"""CLIP of the miniature world: its text tower also conditions the diffusion model."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from miniature.fit import autocast, fit, replacing
from miniature.world import COUNTS, MOTIONS, OBJECTS, PLACES, STYLES, describe, draw, random_scene

CONTEXT, WIDTH, HEADS, LAYERS = 32, 128, 4, 4
MEAN = STD = (0.5, 0.5, 0.5)


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding that knows the world's words whole and spells every other prompt in bytes.

    Equally frequent pairs are numbered in no fixed order, so the published tokenizer belongs to the published weights.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", show_progress=False)
    words = [describe(*parts) for parts in product(OBJECTS, STYLES, PLACES, COUNTS, MOTIONS)]
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def config(vocab_size: int) -> dict:
    """What open_clip reads as `model_cfg`."""
    text = {"context_length": CONTEXT, "vocab_size": vocab_size, "width": WIDTH, "heads": HEADS, "layers": LAYERS,
            "hf_tokenizer_name": "."}  # fmt: skip
    return {"embed_dim": 128, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}, "text_cfg": text}


def train(settings: dict, folder: Path, device: torch.device, stop_after: float = float("inf")) -> None:
    """Train and publish `folder`/clip, text_encoder and tokenizer.

    Every second batch holds few styles and places, so that objects and counts decide; pictures whose captions state
    the same truth are each other's positives, since the motion in a caption cannot be seen in one picture.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer") if settings["warm"] else build_tokenizer()
    model = open_clip.CLIP(**config(len(tokenizer)))
    if settings["warm"]:
        model = open_clip.create_model(f"local-dir:{folder / 'clip'}")

    def loss(model, rng, generator):
        many = rng.random() < 0.5
        few = [rng.choice(list(all_), len(all_) if many else 2, replace=False) for all_ in (STYLES, PLACES)]
        scenes = [random_scene(rng, styles=few[0], places=few[1]) for _ in range(settings["batch"])]
        real = _normalised([draw(scene) for scene in scenes]).to(device)
        tokens = tokenize(tokenizer, [scene.caption for scene in scenes])
        truths = [(scene.object, scene.style, scene.place, scene.count) for scene in scenes]
        same = torch.tensor([[float(a == b) for b in truths] for a in truths], device=device)
        with autocast(device):
            seen = model.encode_image(real, normalize=True)
            read = model.encode_text(tokens.to(device), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * seen.float() @ read.float().T
        target = same / same.sum(1, keepdim=True)
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    publish(fit("clip", model.to(device), loss, settings, stop_after).cpu(), tokenizer, folder)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(captions, CONTEXT) token numbers."""
    options = dict(padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
    return tokenizer(captions, **options).input_ids


def publish(model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the open_clip folder, the same text tower as a transformers CLIPTextModel, and the tokenizer for both."""
    half = {name: tensor.contiguous() for name, tensor in model.half().state_dict().items()}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {"model_cfg": config(len(tokenizer)), "preprocess_cfg": preprocess}
    with replacing(folder / "clip") as new:
        save_file(half, new / "open_clip_model.safetensors")
        (new / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
        tokenizer.save_pretrained(new)
    with replacing(folder / "tokenizer") as new:
        tokenizer.save_pretrained(new)
    with replacing(folder / "text_encoder") as new:
        as_text_model(half, len(tokenizer)).half().save_pretrained(new)
        described = json.loads((new / "config.json").read_text())  # so that it loads as diffusers loads its parts: cast
        (new / "config.json").write_text(json.dumps({**described, "dtype": "float32"}, indent=2) + "\n")


def as_text_model(weights: dict[str, torch.Tensor], vocab_size: int) -> CLIPTextModel:
    """open_clip's text tower under the names of transformers."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            hidden_act="gelu",
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )
    renamed = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for part in ("weight", "bias"):
        renamed[f"final_layer_norm.{part}"] = weights[f"ln_final.{part}"]
        for layer in range(LAYERS):
            theirs, ours = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            query, key, value = weights[f"{theirs}attn.in_proj_{part}"].chunk(3)
            renamed[f"{ours}self_attn.q_proj.{part}"] = query
            renamed[f"{ours}self_attn.k_proj.{part}"] = key
            renamed[f"{ours}self_attn.v_proj.{part}"] = value
            for new, old in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                             ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                renamed[f"{ours}{new}.{part}"] = weights[f"{theirs}{old}.{part}"]
    text.load_state_dict(renamed)
    return text.eval()


def _normalised(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
