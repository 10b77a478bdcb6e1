"""The stages that compare: what a variant changes, and what it takes from the full method."""

from pathlib import Path

import pytest
import torch

from studies.__main__ import main
from studies.ablation import ablate
from studies.peers import baseline
from studies.settings import load_params
from tav.clip import read_frames
from tav.errors import InputError

VARIANTS = {
    "same": {},
    "no-tuning": {"tune": {"steps": 0}},
    "random-noise": {"edit": {"noise": "random"}},
    "own": {"inflate": {"attention": "own"}},
}


@pytest.fixture
def full_method(workplace, set_params):
    """The folder of a run whose clip is tuned, inverted and edited, with variants to compare."""
    set_params({"ablation": VARIANTS, "full_ablation": {"more": {"tune": {"steps": 2}}}, "seeds": [34]})
    for verb in ("tune", "invert", "edit"):
        assert main([verb, "square"]) == 0
    return workplace


def frames(variant, seed=33):
    edit = next(iter(load_params().clips["square"].edits))
    return read_frames(Path("results/ablate") / variant / str(seed) / "square" / edit)


def test_a_variant_that_changes_nothing_draws_what_the_full_method_draws(full_method):
    ablate(load_params(), "same")
    edit = next(iter(load_params().clips["square"].edits))
    assert torch.equal(frames("same"), read_frames(f"results/edit/square/{edit}"))


def test_every_variant_draws_something_else(full_method):
    drawn = []
    for variant in VARIANTS:
        ablate(load_params(), variant)
        drawn.append(frames(variant))
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert not list(Path(".state").rglob("*.safetensors"))


def test_further_seeds_and_variants_run_only_if_asked(full_method, set_params):
    assert main(["ablate-full"]) == 0
    assert not list(Path("results/ablate-full").iterdir())
    set_params({"full": True})
    assert main(["ablate-full"]) == 0
    assert sorted(path.name for path in Path("results/ablate-full/more").iterdir()) == ["33", "34"]


def test_an_unknown_variant_is_refused_with_those_there_are(full_method):
    with pytest.raises(InputError, match="has no variant slow: its ablation has no-tuning, own"):
        ablate(load_params(), "slow")


def test_a_peer_edits_every_clip_by_its_own_settings_and_tunes_nothing(full_method, set_params):
    drawn = {}
    for scale in (1.5, 4.0):
        set_params({"baselines": {"per-frame": {"guidance_scale": scale}}})
        assert main(["baseline", "per-frame"]) == 0
        folder = Path("results/baseline/per-frame/square")
        drawn[scale] = {path.name: read_frames(path) for path in folder.iterdir()}
    assert set(drawn[4.0]) == set(load_params().clips["square"].edits)
    assert drawn[4.0]["object"].shape == (4, 3, 32, 32)
    assert not torch.equal(drawn[1.5]["object"], drawn[4.0]["object"])


def test_a_peer_or_a_setting_of_it_that_is_unknown_is_refused_with_those_there_are(full_method, set_params):
    set_params({"baselines": {"magic": {}, "sdedit": {"strenght": 0.5}}})
    with pytest.raises(InputError, match="baselines has no method magic: there are per-frame, sdedit"):
        baseline(load_params(), "magic")
    with pytest.raises(InputError, match="baselines.sdedit takes guidance_scale, strength, not strenght"):
        baseline(load_params(), "sdedit")
