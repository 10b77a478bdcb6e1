"""ControlNets and adapters over a clip, in the layouts of their Hub repositories with random weights."""

import json

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter

from tav import load_pipeline
from tav.control import load_control, sample_controlled
from tav.errors import InputError
from tests import tiny
from tests.measures.test_conditions import Touches

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
