"""How captions become what a diffusion model reads: tokens, and the states of a CLIP text tower."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from miniature.places import PLACES
from miniature.scenes import COLOURS, MOTIONS, STYLES, WEARS, objects

CONTEXT, WIDTH, HEADS, LAYERS = 32, 128, 4, 4


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding that knows the world's words whole and spells every other prompt in bytes.

    Equally frequent pairs are numbered in no fixed order, so the published tokenizer belongs to the published weights.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", show_progress=False)
    phrases = [*STYLES.values(), *PLACES.values(), *WEARS.values(), *COLOURS, *MOTIONS, *objects()]
    words = sorted({word for phrase in phrases for word in phrase.split()} | {"of", "an", "and"})
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(captions, CONTEXT) token numbers."""
    options = dict(padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
    return tokenizer(captions, **options).input_ids


class Texts:
    """What the published text encoder makes of captions."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).to(device).eval()
        self.device, self.known = device, {}

    @torch.no_grad()
    def states(self, captions: list[str]) -> Tensor:
        """(captions, CONTEXT, WIDTH) on the device; each distinct caption is encoded once."""
        new = sorted(set(captions) - self.known.keys())
        for start in range(0, len(new), 512):
            part = new[start : start + 512]
            states = self.encoder(tokenize(self.tokenizer, part).to(self.device))[0]
            self.known.update(zip(part, states, strict=True))
        return torch.stack([self.known[caption] for caption in captions])

    def table(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """The half-precision states of all distinct captions and, last, of the empty one; and each caption's row."""
        distinct = [*sorted(set(captions)), ""]
        row = {caption: place for place, caption in enumerate(distinct)}
        parts = [self.states(distinct[start : start + 4096]).half() for start in range(0, len(distinct), 4096)]
        self.known.clear()
        return torch.cat(parts), torch.tensor([row[caption] for caption in captions], device=self.device)


def as_text_model(weights: dict[str, Tensor], vocab_size: int) -> CLIPTextModel:
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
