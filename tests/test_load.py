"""Models in and out: layouts that load, and one line for those that do not."""

import json
import pickle
import shutil

import huggingface_hub.constants
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from tav import load_pipeline, tune
from tav.errors import InputError
from tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def refused(model, **inflation):
    with pytest.raises(InputError) as error:
        load_pipeline(model, **inflation)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("config", [{}, tiny.SD2], ids=["sd1", "sd2"])
def test_a_stable_diffusion_folder_loads_with_all_its_weights(tmp_path, config):
    tiny.save_model(tmp_path, "v_prediction", **config)
    pipe = load_pipeline(tmp_path, num_frames=4)
    assert type(pipe.unet) is UNet2DConditionModel
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.num_frames == 4
    weights = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(pipe.unet.state_dict()[name], weight) for name, weight in weights.items())


def test_a_model_is_loaded_in_the_asked_precision(folder):
    pipe = load_pipeline(folder, dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


def test_a_released_checkpoint_brings_its_own_temporal_attention():
    weights = torch.load(tiny.RELEASED / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    unet = load_pipeline(tiny.RELEASED, num_frames=6).unet
    assert unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(unet.state_dict()[name], weight) for name, weight in weights.items())


def test_a_released_checkpoint_loads_without_its_temporal_attention():
    unet = load_pipeline(tiny.RELEASED, num_frames=6, temporal=False).unet
    assert not any("temp" in name for name in unet.state_dict() if "attn" in name)


def test_a_pipeline_saved_after_tuning_is_the_same_when_loaded(folder, tmp_path):
    pipe = load_pipeline(folder, num_frames=4)
    list(tune(pipe, tiny.moving_square(), "a square", steps=2, learning_rate=1e-2))
    pipe.save_pretrained(tmp_path / "tuned")
    again = load_pipeline(tmp_path / "tuned", num_frames=4).unet.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in pipe.unet.state_dict().items())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_folder_without_one_of_its_parts_is_refused_by_name(folder, part):
    shutil.rmtree(folder / part)
    assert part in refused(folder)


def test_a_unet_without_weights_is_refused_by_file_name(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "diffusion_pytorch_model.safetensors" in refused(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in refused(folder)


def test_weights_of_another_config_are_refused(folder):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [16, 16]}))
    assert "do not fit their config" in refused(folder)


def test_a_missing_folder_is_refused(tmp_path):
    assert "there is no model folder" in refused(tmp_path / "nowhere")


def test_a_hub_id_without_a_network_is_refused(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "check name and network" in refused("someone/some-model")


def test_an_old_pickle_is_read_for_its_tensors_only(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "attacked"), "w"))

    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"conv_in.weight": Attack()}))
    refused(folder)
    assert not (tmp_path / "attacked").exists()
