"""The training loop: a run in sittings is the run in one."""

import pytest
import torch
from diffusers import AutoencoderKL

from miniature import fit

SETTINGS = {"pictures": 28, "batch": 4, "learning_rate": 0.02, "warmup": 2, "average": 0.9, "seed": 7, "save_every": 2}


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    into, out = (torch.nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8))
    return torch.nn.Sequential(into, torch.nn.SiLU(), out)


def loss(model, rng, generator):
    numbers = torch.from_numpy(rng.normal(size=(4, 3, 6, 6))).float()
    noise = torch.randn(numbers.shape, generator=generator)
    return (model(numbers + 0.1 * noise) - numbers.repeat(1, 3, 1, 1)[:, :8]).square().mean()


def test_a_run_in_sittings_has_the_bytes_of_one(tmp_path, monkeypatch):
    def run(folder, limits):
        monkeypatch.setattr(fit, "STATE", tmp_path / folder)
        for limit in limits:
            trained = fit.fit("small", model(), loss, SETTINGS, limit)
        return trained.state_dict(), fit.progress("small", SETTINGS)["pictures"]

    (whole, seen), (sittings, same) = run("whole", [float("inf")]), run("sittings", [-1.0] * 3 + [float("inf")])
    assert all(torch.equal(whole[name], sittings[name]) for name in whole)
    assert not torch.equal(whole["0.weight"], model()[0].weight) and seen == same == 28


def test_what_is_published_replaces_what_was_there_and_does_not_say_from_where_it_was_loaded(tmp_path):
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "from")
    published = tmp_path / "vae"
    for _ in range(2):
        with fit.replacing(published) as new:
            AutoencoderKL.from_pretrained(tmp_path / "from").save_pretrained(new)
    assert [path.name for path in tmp_path.iterdir() if path.name != "from"] == ["vae"]
    assert str(tmp_path) not in (published / "config.json").read_text()
    assert AutoencoderKL.from_pretrained(published).config.norm_num_groups == 2
    with pytest.raises(KeyboardInterrupt), fit.replacing(published):
        raise KeyboardInterrupt
    assert AutoencoderKL.from_pretrained(published).config.norm_num_groups == 2
