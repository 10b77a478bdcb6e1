"""The stages that compare: what a variant changes, and what it takes from the full method."""

import shutil
from pathlib import Path

import pytest
import torch

from studies.__main__ import main
from studies.peers import Peers
from studies.settings import load_params
from tav.clip import read_frames
from tav.errors import InputError
from tests import tiny

ROOT = Path(__file__).parents[2]
SHIPPED = {"ablation", "full_ablation", "seeds", "peers"}
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
        assert main([verb]) == 0
    return workplace


def frames(variant, seed=33):
    return read_frames(Path("results/ablate") / variant / str(seed) / "square" / "object")


def count(kind: str) -> int:
    return len(list(Path(".pieces", kind).iterdir()))


def test_a_variant_shares_what_it_does_not_change_and_draws_something_else_where_it_does(full_method):
    assert main(["ablate"]) == 0
    assert torch.equal(frames("same"), read_frames("results/edit/square/object"))
    drawn = [frames(variant) for variant in VARIANTS]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert (count("weights"), count("noise"), count("posterior")) == (3, 3, 1)


def test_a_variant_more_makes_its_own_pieces_and_one_less_leaves_the_results(full_method, set_params):
    assert main(["ablate"]) == 0
    before, edits = count("weights"), count("frames")
    set_params({"ablation": VARIANTS | {"first": {"inflate": {"attention": "first"}}}})
    assert main(["ablate"]) == 0
    assert (count("weights") - before, count("frames") - edits) == (1, 2)
    set_params({"ablation": {"own": VARIANTS["own"]}})
    assert main(["ablate"]) == 0
    assert [path.name for path in Path("results/ablate").iterdir()] == ["own"]
    assert (count("weights") - before, count("frames") - edits) == (1, 2)


def test_a_variant_that_tunes_everything_is_kept_whole(full_method, set_params):
    set_params({"ablation": {"all": {"tune": {"tuned": "everything"}}}})
    assert main(["ablate"]) == 0
    drawn = frames("all")
    for edits in Path(".pieces/frames").iterdir():
        shutil.rmtree(edits)
    assert main(["ablate"]) == 0
    assert torch.equal(frames("all"), drawn)


def test_frames_in_another_order_are_tuned_on_and_some_steps_of_inversion_may_be_diffusion(full_method, set_params):
    set_params({"ablation": {"shuffled": {"tune": {"frames": "shuffled"}}}})
    set_params({"ablation.diffused": {"invert": {"diffused_steps": 1}}})
    before = {kind: count(kind) for kind in ("weights", "noise", "posterior")}
    assert main(["ablate"]) == 0
    assert {kind: count(kind) - of for kind, of in before.items()} == {"weights": 1, "noise": 2, "posterior": 0}
    drawn = [frames("shuffled"), frames("diffused"), read_frames("results/edit/square/object")]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_further_seeds_and_variants_run_only_if_asked(full_method, set_params):
    set_params({"ablation": {}})
    assert main(["ablate"]) == 0
    assert not list(Path("results/ablate").iterdir())
    set_params({"full": True})
    assert main(["ablate"]) == 0
    assert sorted(path.name for path in Path("results/ablate/more").iterdir()) == ["33", "34"]


def test_every_variant_seed_and_peer_that_is_shipped_runs(workplace, set_params):
    shipped = load_params(ROOT / "params.yaml").model_dump(mode="json", include=SHIPPED)
    for variant in (shipped["ablation"] | shipped["full_ablation"]).values():
        if "steps" in variant["tune"]:
            variant["tune"]["steps"] = min(variant["tune"]["steps"], 3)
    shipped["peers"]["text-to-video"]["model"] = str(tiny.save_motion_adapter(Path("models/text-to-video")))
    shipped["seeds"] = shipped["seeds"][:1]
    set_params({"invert.steps": 3})  # of which a variant diffuses two
    set_params(shipped | {"full": True, "clips.square.edits": {"object": "a circle is moving"}})
    assert main(["ablate"]) == main(["peers"]) == 0
    variants, seeds = shipped["ablation"] | shipped["full_ablation"], [33, *shipped["seeds"]]
    made = {f"ablate/{variant}/{seed}/square/object" for variant in variants for seed in seeds}
    made |= {f"peers/{peer}/square/object" for peer in shipped["peers"]}
    assert {path.parent for path in Path("results").rglob("00000.png")} == {Path("results", name) for name in made}
    assert {read_frames(Path("results", name)).shape for name in made} == {(4, 3, 32, 32)}


def test_a_new_prompt_is_sampled_and_nothing_else(full_method, set_params):
    set_params({"peers": {"per-frame": {}, "sdedit": {}}})
    for verb in ("ablate", "peers"):
        assert main([verb]) == 0
    before = {kind: count(kind) for kind in ("source", "posterior", "weights", "noise", "frames", "peer")}
    set_params({"clips.square.edits.style": "a drawing of a square"})
    for verb in ("tune", "invert", "edit", "ablate", "peers"):
        assert main([verb]) == 0
    after = {kind: count(kind) - number for kind, number in before.items()}
    assert after == {"source": 0, "posterior": 0, "weights": 0, "noise": 0, "frames": 4, "peer": 2}


def test_a_setting_that_is_put_back_makes_nothing(full_method, set_params):
    before = {path: path.stat().st_mtime_ns for path in Path(".pieces").rglob("*.safetensors")}
    former = load_params().tune.learning_rate
    set_params({"tune.learning_rate": 0.5})
    assert main(["tune"]) == 0
    set_params({"tune.learning_rate": former})
    assert main(["tune"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before and count("weights") == 2


def test_a_peer_edits_every_clip_by_its_own_settings_and_tunes_nothing(full_method, set_params):
    drawn = {}
    for scale in (1.5, 4.0):
        set_params({"peers": {"per-frame": {"guidance_scale": scale}}})
        assert main(["peers"]) == 0
        folder = Path("results/peers/per-frame/square")
        drawn[scale] = {path.name: read_frames(path) for path in folder.iterdir()}
    assert set(drawn[4.0]) == set(load_params().clips["square"].edits)
    assert drawn[4.0]["object"].shape == (4, 3, 32, 32)
    assert not torch.equal(drawn[1.5]["object"], drawn[4.0]["object"])


def test_a_peer_or_a_setting_of_it_that_is_unknown_is_refused_with_those_there_are(workplace, set_params):
    set_params({"peers": {"magic": {}}})
    with pytest.raises(InputError, match="peers has no method magic: there are per-frame, sdedit"):
        Peers(load_params())
    set_params({"peers": {"sdedit": {"strenght": 0.5}}})
    with pytest.raises(InputError, match="peers.sdedit takes guidance_scale, strength, not strenght"):
        Peers(load_params())


@pytest.mark.parametrize(
    "peer, settings, words",
    [
        ("sdedit", {"strength": "x"}, "peers.sdedit.strength is 'x': it must be a number"),
        ("sdedit", {"strength": 1.5}, "peers.sdedit.strength is 1.5: it must be less than or equal to 1"),
        ("sdedit", {"guidance_scale": None}, "peers.sdedit.guidance_scale is None: it must be a number"),
        ("per-frame", {"captioned_inversion": 1}, "captioned_inversion is 1: it must be true or false"),
        ("plug-and-play", {"layer": 1.5}, "peers.plug-and-play.layer is 1.5: it must be a whole number"),
        ("plug-and-play", {"feature_share": -1}, "it must be greater than or equal to 0"),
        ("tokenflow", {"keyframe_interval": 0}, "it must be greater than or equal to 1"),
        ("fatezero", {"threshold": 2}, "peers.fatezero.threshold is 2: it must be less than or equal to 1"),
        ("text-to-video", {"model": 3}, "peers.text-to-video.model is 3: it must be a text"),
    ],
)
def test_settings_of_peers_are_typed_as_those_of_the_method(workplace, set_params, capsys, peer, settings, words):
    set_params({"peers": {peer: settings}})
    assert main(["inputs"]) == 0  # which notes a peer's model, if it is one
    assert main(["peers"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not Path(".pieces").exists()
