"""Captions by a BLIP-2 of random weights in the Hub's layout, made by the real classes."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from einops import rearrange
from ruamel.yaml import YAML
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    GPT2Tokenizer,
    OPTConfig,
)

from footage.__main__ import main
from footage.caption import Captioner
from measures.clips import ClipEntry
from tav.clip import read_clip, write_clip
from tav.errors import InputError
from tests import tiny

QUERIES = 4


def save_blip2(folder: Path) -> Path:
    """A BLIP-2 with OPT, with letters for tokens, that looks at pictures of 28 pixels."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    tokenizer = GPT2Tokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[], **special)
    pictures = BlipImageProcessor(size={"height": 28, "width": 28})
    processor = Blip2Processor(pictures, tokenizer, num_query_tokens=QUERIES)
    processor.save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(processor.tokenizer), "ffn_dim": 32, "word_embed_proj_dim": 16, "pad_token_id": 1}
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=tower | {"image_size": 28, "patch_size": 14, "initializer_range": 0.5},
        qformer_config=tower | {"encoder_hidden_size": 16, "initializer_range": 0.5},
        text_config=OPTConfig(**tower, **words, bos_token_id=2, eos_token_id=2, init_std=0.5).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    return save_blip2(tmp_path_factory.mktemp("blip2"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command sets its own


@pytest.fixture
def clip():
    write_clip("square.mp4", (tiny.moving_square(7) + 1) / 2)
    return Path("square.mp4")


def test_a_caption_is_what_blip2_says_of_the_middle_frame(blip2, clip):
    captioner = Captioner(str(blip2), "cpu")
    caption = captioner.caption(clip, 7)
    frame = (read_clip(clip, 1, 448, start=3)[0] + 1) / 2
    picture = rearrange((frame * 255).round().byte(), "c h w -> h w c").numpy()
    model, processor = Blip2ForConditionalGeneration.from_pretrained(blip2), Blip2Processor.from_pretrained(blip2)
    words = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=40, do_sample=False)
    assert caption == " ".join(processor.batch_decode(words, skip_special_tokens=True)[0].split())
    assert caption and captioner.caption(clip, 7) == caption


def test_a_list_is_written_with_captions_and_captions_are_printed(blip2, clip, capsys):
    assert main(["list", str(clip), "--frames", "4", "--caption", "--model", str(blip2)]) == 0
    entry = ClipEntry.model_validate(YAML(typ="safe").load(Path("own.yaml"))["clips"]["square"])
    assert entry.caption == Captioner(str(blip2)).caption(clip, 7)
    assert "Captions are by BLIP-2" in Path("own.yaml").read_text()
    capsys.readouterr()
    assert main(["caption", str(clip), "--model", str(blip2)]) == 0
    assert capsys.readouterr().out.strip() == f"square.mp4: {entry.caption}"


def test_weights_that_are_not_there_give_one_line(blip2, clip, capsys):
    for missing in ("model.safetensors", "tokenizer.json"):
        shutil.copytree(blip2, missing)
        Path(missing, missing).unlink()
    for folder in ("model.safetensors", "tokenizer.json", "nowhere/at/all"):
        assert main(["caption", str(clip), "--model", folder]) == 2
        words = capsys.readouterr().err
        assert words.startswith(f"error: cannot load BLIP-2 from {folder} (") and words.count("\n") == 1


def test_half_a_model_is_refused(blip2):
    shutil.copytree(blip2, "half")
    weights = Blip2ForConditionalGeneration.from_pretrained(blip2).state_dict()
    half = dict(list(weights.items())[:5])
    Blip2ForConditionalGeneration.from_pretrained(blip2).save_pretrained("half", state_dict=half)
    with pytest.raises(InputError, match="weights are missing"):
        Captioner("half")
