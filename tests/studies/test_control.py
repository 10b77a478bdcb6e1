"""ControlNets and adapters over a clip, in the layouts of their Hub repositories with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from PIL import Image

from studies.control import control_clips, next_clip
from studies.settings import load_params
from studies.stages import invert_clip, load_model, tune_clip
from tav import load_pipeline, load_tuned
from tav.clip import read_frames
from tav.control import load_control, sample_controlled
from tav.errors import InputError
from tests import tiny
from tests.measures.test_conditions import Touches, save_depth_model

FRAMES = 4
OLD = {  # the keys of config.json in the Hub's repositories
    "adapter": """_class_name _diffusers_version adapter_type channels downscale_factor in_channels
        num_res_blocks""".split(),
    "controlnet": """_class_name _diffusers_version act_fn attention_head_dim block_out_channels class_embed_type
        conditioning_embedding_out_channels controlnet_conditioning_channel_order cross_attention_dim down_block_types
        downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps
        norm_num_groups num_class_embeds only_cross_attention projection_class_embeddings_input_dim
        resnet_time_scale_shift upcast_attention use_linear_projection""".split(),
}
BOTH = pytest.mark.parametrize("role", ["controlnet", "adapter"])


def make(role, awake=True, **config):
    """A control for the tiny UNet; a new ControlNet ends in zeros, which `awake` replaces. `config`: an adapter's."""
    torch.manual_seed(5)
    if role == "adapter":
        settings = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 4, "adapter_type": "full_adapter"}
        return T2IAdapter(**settings | config).eval()
    control = ControlNetModel.from_unet(tiny.unet(), conditioning_embedding_out_channels=(8, 16, 32)).eval()
    for parameter in control.parameters() if awake else ():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return control


def load(model, **inflation):
    pipe = load_pipeline(model, num_frames=FRAMES, **inflation)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return load(tiny_model)


@pytest.fixture
def noise():
    return torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def shown():
    return torch.rand(FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(4))


@BOTH
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_at_scale_zero_a_clip_is_what_the_pipeline_draws_without_control(pipe, noise, shown, role, guidance_scale):
    settings = {"guidance_scale": guidance_scale, "negative_prompt": "the"}
    drawn = sample_controlled(pipe, make(role), shown, "an and", noise, 3, **settings, scale=0.0)
    alone = pipe("an and", noise, 3, output_type="pt", **settings).frames[0]
    assert drawn.shape == (FRAMES, 3, 32, 32) and torch.equal(drawn, alone)


def test_a_new_controlnet_changes_nothing(pipe, noise, shown):
    drawn = sample_controlled(pipe, make("controlnet", awake=False), shown, "a", noise, 2)
    assert torch.equal(drawn, pipe("a", noise, 2, output_type="pt").frames[0])


@BOTH
def test_a_condition_that_is_taken_away_changes_the_clip(pipe, noise, shown, role):
    control = make(role)
    drawn, blank = (sample_controlled(pipe, control, c, "a", noise, 2) for c in (shown, torch.zeros_like(shown)))
    assert not torch.allclose(drawn, blank, atol=1e-3)
    assert torch.equal(drawn, sample_controlled(pipe, control, shown, "a", noise, 2))


@BOTH
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_each_frame_has_its_own_condition(tiny_model, shown, role, guidance_scale):
    """In a model whose frames do not see each other, frames from one noise change places as their conditions do."""
    pipe, control = load(tiny_model, norm="frame", attention="own", temporal=False), make(role)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).expand(FRAMES, -1, -1, -1)
    order = [0, 2, 1, 3]
    settings = {"prompt": "a", "noise": noise, "steps": 1, "guidance_scale": guidance_scale}
    drawn, swapped = (sample_controlled(pipe, control, given, **settings) for given in (shown, shown[order]))
    torch.testing.assert_close(swapped, drawn[order], atol=1e-6, rtol=0)
    assert ((swapped - drawn).abs().amax((1, 2, 3)) > 1e-5).tolist() == [False, True, True, False]


@BOTH
def test_the_condition_of_one_frame_reaches_the_others_through_the_clips_attention(pipe, noise, shown, role):
    control, other = make(role), shown.clone()
    other[0] = 0
    drawn, changed = (sample_controlled(pipe, control, c, "a", noise, 2) for c in (shown, other))
    assert ((drawn - changed).abs().amax((1, 2, 3)) > 1e-5).all()


@BOTH
def test_the_pipeline_is_left_as_it_was(pipe, noise, shown, role):
    before, timesteps = pipe("a", noise, 3, output_type="pt").frames, pipe.scheduler.timesteps
    sample_controlled(pipe, make(role), shown, "a", noise, 2)
    assert torch.equal(pipe.scheduler.timesteps, timesteps)
    assert torch.equal(pipe("a", noise, 3, output_type="pt").frames, before)


@BOTH
def test_a_saved_control_is_loaded_by_the_class_in_its_config(pipe, tmp_path, role):
    control = make(role)
    control.half().save_pretrained(tmp_path / "control")
    loaded = load_control(tmp_path / "control", pipe)
    assert type(loaded) is type(control) and loaded.dtype == pipe.unet.dtype and not loaded.training
    for parameter, saved in zip(loaded.parameters(), control.parameters(), strict=True):
        assert torch.equal(parameter, saved.float())


@BOTH
@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_a_hub_repository_of_an_old_release_is_loaded(pipe, noise, shown, tmp_path, role, weights):
    """lllyasviel/sd-controlnet-* were saved by diffusers 0.14, T2I-Adapters for SD 1.5 as .bin alone."""
    control = make(role)
    control.save_pretrained(tmp_path, safe_serialization=weights == "safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if key in OLD[role]} | {"_diffusers_version": "0.14.0.dev0"}
    assert set(config) == set(OLD[role])
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == [f".{weights}"]
    drawn = [sample_controlled(pipe, c, shown, "a", noise, 2) for c in (control, load_control(tmp_path, pipe))]
    assert torch.equal(*drawn)


@BOTH
def test_weights_that_would_run_code_are_not_loaded(pipe, tmp_path, role):
    make(role).save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Touches(tmp_path / "ran")}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load"):
        load_control(tmp_path, pipe)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_of_one_channel_sees_the_condition_in_grey(pipe, noise, shown, tmp_path):
    """As TencentARC/t2iadapter_canny_sd15v2; those of depth and openpose see three."""
    make("adapter", in_channels=1).save_pretrained(tmp_path)
    grey = load_control(tmp_path, pipe)
    drawn = sample_controlled(pipe, grey, shown, "a", noise, 2)
    same = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(sample_controlled(pipe, grey, same, "a", noise, 2), drawn, atol=1e-5, rtol=0)
    assert not torch.allclose(sample_controlled(pipe, grey, 1 - shown, "a", noise, 2), drawn, atol=1e-3)


def test_a_control_that_cannot_be_used_is_refused_in_one_line(pipe, tiny_model, tmp_path):
    make("adapter").save_pretrained(tmp_path / "broken")
    (tmp_path / "broken/diffusion_pytorch_model.safetensors").unlink()
    make("adapter", channels=[16, 64]).save_pretrained(tmp_path / "wide")
    sd2 = ControlNetModel.from_unet(tiny.unet(cross_attention_dim=64), conditioning_embedding_out_channels=(8, 16, 32))
    sd2.save_pretrained(tmp_path / "sd2")
    for folder, message in (
        (tmp_path / "none", "cannot load .*none"),
        (tmp_path / "broken", "cannot load .*broken"),
        (tiny_model / "unet", "cannot load .*unet"),
        (tmp_path / "wide", r"widths \[16, 64\], not \[16, 32\]"),
        (tmp_path / "sd2", "text of width 64, not 32"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            load_control(folder, pipe)
        assert "\n" not in str(refused.value)


@pytest.fixture
def tuned(workplace, set_params):
    """Two tuned clips, of which `known` has its truth beside it, and a control of each kind."""
    Path("known.mp4").write_bytes(Path("square.mp4").read_bytes())
    things = [[[(10 + 3 * index) / 32, 14 / 32, 12 / 32, 0.0]] for index in range(6)]
    names = {"object": "square", "style": "flat", "place": "grey", "count": 1}
    Path("known.json").write_text(json.dumps(names | {"frames": things}))
    sheet = np.concatenate((tiny.moving_square(6)[:, 0] > 0).numpy(), axis=1) * np.uint8(255)
    Image.fromarray(sheet).save("known.masks.png")
    params = load_params()
    clip = params.clips["square"].model_dump(mode="json")
    known = clip | {"source": clip["source"] | {"path": "known.mp4"}, "edits": {"place": "a square in the sea"}}
    for kind, role in (("edges", "controlnet"), ("mask", "controlnet"), ("pose", "adapter")):
        make(role).save_pretrained(Path("models") / kind)
    set_params({"clips": {"square": clip, "known": known}})
    set_params({"control": {kind: f"models/{kind}" for kind in ("edges", "mask", "pose")}})
    params = load_params()
    for name in params.clips:
        tune_clip(params, name)
    invert_clip(params, "known")
    return params


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_clips_are_sampled_under_their_own_and_the_next_clips_conditions(tuned):
    with pytest.raises(InputError, match="invert square"):  # interrupted after the first clip
        control_clips(tuned)
    done = next(Path(".state/control").glob("*/edges/own/known/place"))
    marker = (done / "00001.png").read_bytes()
    (done / "00000.png").write_bytes(marker)
    invert_clip(tuned, "square")
    control_clips(tuned)
    folders = {str(path.parent) for path in files("results/control")}
    own = {f"{kind}/own/known/place" for kind in tuned.control} | {"edges/own/square/object", "edges/own/square/place"}
    other = {"edges/other/known/place"} | {f"{kind}/other/square/object" for kind in tuned.control}
    without = {"none/other/known/place", "none/other/square/object"}
    drawn = {f"{kind}/condition/known" for kind in tuned.control} | {"edges/condition/square"}
    assert folders == own | other | without | drawn
    first = files("results/control")
    assert len(first) == FRAMES * len(folders) and not list(Path(".state/control").iterdir())
    assert first[Path("edges/own/known/place/00000.png")] == marker  # what was drawn is not drawn again

    control_clips(tuned)
    again = files("results/control")
    assert {path for path in first if again[path] != first[path]} == {Path("edges/own/known/place/00000.png")}

    pipe = load_model(tuned)
    pipe.set_progress_bar_config(disable=True)
    load_tuned(pipe, "results/tune/square/tuned.safetensors")
    random = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(tuned.tune.seed))
    settings = {"guidance_scale": tuned.edit.guidance_scale, "negative_prompt": tuned.edit.negative_prompt}
    task = tuned.clips["square"].edits["object"], random, tuned.edit.steps
    shown = read_frames("results/control/pose/condition/known")
    led = sample_controlled(pipe, load_control("models/pose", pipe), shown, *task, **settings)
    free = pipe(*task, output_type="pt", **settings).frames[0]
    for kind, expected in (("pose", led), ("none", free)):
        written = read_frames(f"results/control/{kind}/other/square/object")
        torch.testing.assert_close(written, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert not torch.allclose(led, free, atol=1e-2)


def test_the_last_clip_is_followed_by_the_first(tuned):
    assert next_clip(tuned, "square") == "known" and next_clip(tuned, "known") == "square"


def test_what_is_drawn_from_frames_needs_no_truth(tuned, set_params):
    save_depth_model(Path("models/dpt"))
    make("adapter", in_channels=1).save_pretrained("models/canny")
    set_params({"control": {"depth": "models/edges", "edges": "models/canny", "mask": "models/mask"}})
    set_params({"conditions.depth": "models/dpt", "clips": {"square": tuned.clips["square"].model_dump(mode="json")}})
    invert_clip(tuned, "square")
    control_clips(load_params())
    folders = {str(path.parent) for path in files("results/control")}
    drawn = {f"{kind}/{rest}" for kind in ("depth", "edges") for rest in ("own/square/object", "own/square/place")}
    assert folders == drawn | {"depth/condition/square", "edges/condition/square"}
    assert read_frames("results/control/depth/condition/square").max() == 1


def test_an_unknown_kind_is_refused_before_anything_is_drawn(tuned, set_params):
    set_params({"control": {"canny": "models/edges"}})
    with pytest.raises(InputError, match="no control of kind canny: use edges, depth, openpose, mask or pose"):
        control_clips(load_params())
    assert not Path(".state/control").exists() and not Path("results/control").exists()
