from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from miniature import fit as loop
from miniature import vae
from miniature.contrastive import build_tokenizer, tokenize

MODELS = Path("models/miniature")
PROMPTS = ["a cartoon of a fox running in the snow", "", "Zürich, 47 GHOSTS!", "two pandas " * 40]


def test_both_text_towers_say_the_same():
    clip = open_clip.create_model(f"local-dir:{MODELS / 'clip'}").eval()
    theirs = open_clip.get_tokenizer(f"local-dir:{MODELS / 'clip'}")(PROMPTS)
    ours = tokenize(CLIPTokenizer.from_pretrained(MODELS / "tokenizer"), PROMPTS)
    assert torch.equal(theirs, ours)
    with torch.no_grad():
        pooled = CLIPTextModel.from_pretrained(MODELS / "text_encoder")(ours).pooler_output
        torch.testing.assert_close(pooled @ clip.text_projection, clip.encode_text(theirs), atol=2e-4, rtol=1e-4)


def test_the_tokenizer_knows_the_words_of_the_world_and_spells_the_rest():
    tokenizer = build_tokenizer()
    assert len(tokenizer.tokenize("a line drawing of two helicopters on the beach")) == 9
    assert tokenizer.unk_token_id not in tokenizer("Größe 12 naïve ☃", add_special_tokens=False).input_ids
    published = CLIPTokenizer.from_pretrained(MODELS / "tokenizer")
    assert published.get_vocab().keys() == tokenizer.get_vocab().keys() and published.model_max_length == 32


def test_a_stock_pipeline_loads_the_folder_and_samples():
    pipe = StableDiffusionPipeline.from_pretrained(MODELS)
    pipe.set_progress_bar_config(disable=True)
    draws = [
        pipe("a cartoon of a fox in the snow", height=64, width=64, num_inference_steps=3, output_type="np",
             generator=torch.Generator().manual_seed(0)).images
        for _ in range(2)
    ]  # fmt: skip
    assert draws[0].shape == (1, 64, 64, 3) and np.isfinite(draws[0]).all() and np.array_equal(*draws)
    assert sum(parameter.numel() for parameter in pipe.unet.parameters()) <= 8e6


def test_latents_have_mean_zero_and_deviation_one_in_every_channel():
    model = vae.AutoencoderKL.from_pretrained(MODELS / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        latents = model.encode(vae.pictures(np.random.default_rng(8), 64)).latent_dist.mode()
    assert latents.mean((0, 2, 3)).abs().max() < 0.2 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_standardising_latents_does_not_change_the_picture():
    torch.manual_seed(0)
    model, real = vae.build().eval(), torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(real).latent_dist.mode()).sample
        vae.standardise(model, model.encode(real).latent_dist.mode() + torch.tensor([1.0, 0, -2, 3])[:, None, None])
        after = model.decode(model.encode(real).latent_dist.mode()).sample
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("interrupted_after", [1, 3])
def test_interrupted_training_ends_with_the_same_bytes(tmp_path, monkeypatch, interrupted_after):
    settings = dict(
        pictures=20, batch=4, learning_rate=0.01, warmup=2, average=0.9, seed=7, save_every=1,
        before={"pictures": 8, "seconds": 3, "losses": [[8, 0.9]]},
    )  # fmt: skip

    def loss(model, rng, generator):
        numbers = torch.from_numpy(rng.normal(size=(settings["batch"], 3))).float()
        return (model(numbers) - torch.randn(settings["batch"], 2, generator=generator)).square().mean()

    def run(folder, limits):
        monkeypatch.setattr(loop, "STATE", tmp_path / folder)
        for limit in limits:
            torch.manual_seed(1)
            model = loop.fit("small", torch.nn.Linear(3, 2), loss, settings, limit)
        return model.state_dict()["weight"], loop.progress("small", settings)

    whole, seen = run("whole", [float("inf")])
    pieces, also_seen = run("pieces", [-1.0] * interrupted_after + [float("inf")])
    assert torch.equal(whole, pieces) and seen["losses"] == also_seen["losses"]
    assert seen["pictures"] == 28 and [pictures for pictures, _ in seen["losses"]] == [8, 12, 16, 20, 24, 28]


def test_a_run_whose_losses_are_gone_goes_on_without_them(tmp_path, monkeypatch):
    settings = dict(pictures=3, batch=1, learning_rate=0.01, warmup=1, average=0.9, seed=7, save_every=1)
    monkeypatch.setattr(loop, "STATE", tmp_path)
    model = torch.nn.Linear(3, 2)
    for limit in (-1.0, float("inf")):
        loop.fit("small", model, lambda model, *_: model(torch.ones(3)).square().mean(), settings, limit)
        seen = loop.progress("small", settings)
        next(tmp_path.glob("small-*.csv")).unlink()
    assert seen["pictures"] == 3 and [pictures for pictures, _ in seen["losses"]] == [2, 3]
