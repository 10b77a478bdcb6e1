"""Models in and out: layouts that load, and one line for those that do not."""

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tav import load_pipeline, tune, tuned_parameters
from tav.errors import InputError
from tav.model import inflate
from tests import tiny

IMAGE = {"attention": "own", "temporal": False, "norm": "frame"}


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


def same_weights(pipe, other):
    parts = ("unet", "vae", "text_encoder")
    pairs = [(getattr(pipe, part).state_dict(), getattr(other, part).state_dict()) for part in parts]
    return all(torch.equal(second[name], weight) for first, second in pairs for name, weight in first.items())


def test_a_dreambooth_checkpoint_of_2022_is_the_same_model(folder, saved):
    """Only .bin files, a config of few keys, and by their old names the VAE's attention and a buffer of the text."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = folder / part / f"{name}.safetensors"
        weights = load_file(path)
        path.unlink()
        if part == "vae":
            for new, before in old.items():
                weights = {key.replace(new, before): tensor for key, tensor in weights.items()}
        if part == "text_encoder":
            weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
            name = "pytorch_model"
        torch.save(weights, path.with_name(f"{name}.bin"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    kept = ("_class_name", "sample_size", "block_out_channels", "layers_per_block", "norm_num_groups")
    kept += ("attention_head_dim", "cross_attention_dim", "down_block_types", "up_block_types")
    (folder / "unet" / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    assert same_weights(load_pipeline(folder), load_pipeline(saved))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "30KB"}], ids=["whole", "sharded"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_load_whole_or_in_shards_and_in_full_or_half_precision(saved, tmp_path, variant, shards):
    stock = StableDiffusionPipeline.from_pretrained(saved, safety_checker=None)
    if variant:
        stock.to(dtype=torch.float16)
    stock.save_pretrained(tmp_path, variant=variant, **shards)
    assert any("index" in path.name for path in (tmp_path / "unet").iterdir()) == bool(shards)
    assert any("fp16" in path.name for path in (tmp_path / "unet").iterdir()) == bool(variant)
    pipe, weights = load_pipeline(tmp_path, **IMAGE), load_pipeline(saved, **IMAGE).unet.state_dict()
    assert pipe.unet.dtype == torch.float32
    for name, weight in pipe.unet.state_dict().items():
        assert torch.equal(weight, weights[name].to(stock.dtype).float())


def test_shards_that_lie_outside_of_their_folder_or_are_missing_are_refused(saved, folder, tmp_path):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for shard, why in (("../../secret.safetensors", "outside of its folder"), ("gone.safetensors", "gone.safetensors")):
        weights.unlink(missing_ok=True)
        index = {"weight_map": {"conv_in.weight": shard}}
        weights.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
        assert why in refused(folder)


TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OF_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture(scope="module")
def adapted(saved, tmp_path_factory):
    """An image pipeline with LoRA layers of its UNet and text encoder, and the files that hold them."""
    folder = tmp_path_factory.mktemp("lora")
    pipe = StableDiffusionPipeline.from_pretrained(saved, safety_checker=None)
    torch.manual_seed(2)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=TARGETS))
    pipe.text_encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=OF_TEXT))
    layers = get_peft_model_state_dict(pipe.unet), get_peft_model_state_dict(pipe.text_encoder)
    pipe.save_lora_weights(folder, *layers)
    kohya = {}
    for part, state in (("lora_unet_", layers[0]), ("lora_te_text_model_", layers[1])):
        for name, weight in state.items():
            layer, which = name.removesuffix(".weight").rsplit(".", 1)
            layer = part + layer.replace(".", "_")
            kohya[f"{layer}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = weight
            kohya[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(kohya, folder / "kohya.safetensors")
    return pipe, folder


@pytest.mark.parametrize("name", ["", "pytorch_lora_weights.safetensors", "kohya.safetensors"])
def test_a_lora_is_merged_into_the_image_model_which_keeps_its_names(saved, adapted, name):
    stock, folder = adapted
    pipe = load_pipeline(saved, 2, **IMAGE, lora=folder / name)
    plain = load_pipeline(saved, 2, **IMAGE)
    latents, time, text = torch.randn(2, 4, 8, 8), torch.tensor(300), torch.randn(2, 7, tiny.TEXT_WIDTH)
    tokens = torch.arange(7)[None]
    with torch.no_grad():
        wanted, got, before = (model.unet(latents, time, text).sample for model in (stock, pipe, plain))
        read = [model.text_encoder(tokens)[0] for model in (stock, pipe, plain)]
    assert torch.allclose(got, wanted, atol=1e-5) and not torch.allclose(before, wanted, atol=1e-2)
    assert torch.allclose(read[1], read[0], atol=1e-5) and not torch.allclose(read[2], read[0], atol=1e-2)
    assert pipe.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert pipe.text_encoder.state_dict().keys() == plain.text_encoder.state_dict().keys()


def test_a_model_with_a_lora_is_tuned_as_any_other(saved, adapted):
    pipe = load_pipeline(saved, 4, lora=adapted[1])
    assert tuned_parameters(pipe.unet).keys() == tuned_parameters(load_pipeline(saved, 4).unet).keys()
    assert len(list(tune(pipe, tiny.moving_square(), "a square", steps=2, learning_rate=1e-3))) == 2


def test_a_lora_that_cannot_be_merged_is_refused_in_one_line(saved, adapted, tmp_path):
    weights = load_file(adapted[1] / "pytorch_lora_weights.safetensors")
    torch.save(weights, tmp_path / "pickle.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "nothing.safetensors")
    wide = {name: weight.repeat(1, 3) if "lora_A" in name else weight for name, weight in weights.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    more = weights | {f"unet.gone.to_q.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}
    save_file(more, tmp_path / "more.safetensors")
    whys = {"pickle.bin": "no safetensors file", "wide.safetensors": "size mismatch", "more.safetensors": "of its"}
    for name in (
        "pickle.bin",
        "broken.safetensors",
        "empty",
        "nothing.safetensors",
        "wide.safetensors",
        "more.safetensors",
    ):
        message = refused(saved, lora=tmp_path / name)
        assert "cannot load the LoRA" in message and whys.get(name, "") in message


def test_an_image_model_of_version_1_4_has_the_papers_number_of_parameters():
    config = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        before = sum(parameter.numel() for parameter in unet.parameters())
        inflate(unet, 24)
    after = sum(parameter.numel() for parameter in unet.parameters())
    trained = sum(parameter.numel() for parameter in tuned_parameters(unet).values())
    assert [round(count / 1e6, 1) for count in (before, after, trained)] == [859.5, 909.1, 74.4]


def test_a_misspelt_setting_is_a_mistake_in_the_call_and_fetches_nothing(folder):
    with pytest.raises(TypeError, match="num_framse"):
        load_pipeline(folder, num_framse=8)


def test_running_out_of_memory_while_loading_is_not_called_a_broken_model(folder, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("tav.pipeline.AutoencoderKL.from_pretrained", full)
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        load_pipeline(folder)
    assert not isinstance(caught.value, InputError)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone shows what is mapped")
def test_no_page_of_the_unets_file_stays_in_memory(folder):
    pipe = load_pipeline(folder)
    assert str(folder / "unet") not in Path("/proc/self/maps").read_text()
    assert pipe.unet.num_frames == 8
