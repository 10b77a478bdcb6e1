"""The benchmarks at full size, run on a tiny model: rows are there, a rerun goes on, computed numbers are marked."""

import open_clip
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionControlNetPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks import expected, full_size, memory

TINY = {
    "unet": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
    },
    "vae": {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 2, "layers_per_block": 1},
    "text_encoder": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "model"
    full_size.save_model(folder, TINY)
    return folder


@pytest.fixture
def results(workplace, monkeypatch):
    monkeypatch.setattr(full_size, "RESULTS", workplace / "benchmarks")
    return workplace / "benchmarks"


def arguments(saved, *more):
    return ["--folder", str(saved), "--device", "cpu", *more]


def test_the_architecture_is_that_of_stable_diffusion_v1_4():
    with torch.device("meta"):
        parts = [
            UNet2DConditionModel(**full_size.V1_4["unet"]),
            AutoencoderKL(**full_size.V1_4["vae"]),
            CLIPTextModel(CLIPTextConfig(**full_size.V1_4["text_encoder"])),
        ]
    millions = [round(sum(weight.numel() for weight in part.parameters()) / 1e6, 2) for part in parts]
    assert millions == [859.52, 83.65, 123.06]


def test_the_tokenizer_is_clips_own():
    tokenizer = full_size.build_tokenizer()
    for prompt in ("a man is skiing on top of the Mont-Blanc!", "un café, 123 pandas", ""):
        assert tokenizer(prompt, padding="max_length").input_ids[: len(tokenizer(prompt).input_ids)] == [
            token for token in open_clip.tokenize(prompt)[0].tolist() if token
        ]
    assert len(tokenizer) == 49408


def test_the_model_is_saved_as_the_hub_has_it_and_another_folder_is_not_touched(saved, tmp_path):
    files = {str(path.relative_to(saved)): path.stat().st_mtime_ns for path in saved.rglob("*") if path.is_file()}
    weights = {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"}
    weights |= {"text_encoder/model.safetensors", "controlnet/diffusion_pytorch_model.safetensors"}
    assert weights | {"model_index.json", "scheduler/scheduler_config.json"} <= files.keys()
    full_size.save_model(saved, TINY)
    assert files == {name: (saved / name).stat().st_mtime_ns for name in files}
    stock = StableDiffusionControlNetPipeline.from_pretrained(
        saved, controlnet=full_size.ControlNetModel.from_pretrained(saved / "controlnet"), safety_checker=None
    )
    assert stock.scheduler.config.beta_end == 0.012 and type(stock.scheduler).__name__ == "PNDMScheduler"
    (tmp_path / "kept.txt").write_text("")
    with pytest.raises(full_size.InputError, match="holds something that is no model"):
        full_size.save_model(tmp_path, TINY)
    assert (tmp_path / "kept.txt").exists()


def test_every_step_has_a_row_and_an_interrupted_run_goes_on(saved, results, capsys):
    def run():
        how = ("--frames", "2", "--size", "32", "--steps", "2", "--modes", "low-memory")
        return full_size.main(["square.mp4", *arguments(saved, *how)])

    (saved / "controlnet").rename(saved / "away")
    assert run() == 2
    assert "controlnet" in capsys.readouterr().err
    (file,) = results.glob("full-size-*.csv")
    before = file.read_text()
    (saved / "away").rename(saved / "controlnet")
    assert run() == 0
    rows = pd.read_csv(file)
    assert list(rows["step"]) == list(full_size.STEPS)
    assert file.read_text().startswith(before)
    assert (rows["clip"] == "square").all() and (rows["million parameters"] > 0).all()
    assert (rows["seconds"] > 0).all() and (rows["peak GB"] > 0).all()
    assert (rows["peak GB"][1:] >= rows["held GB"][1:]).all()
    assert not list(saved.glob("run/*"))
    complete = file.read_bytes()
    assert run() == 0 and file.read_bytes() == complete
    capsys.readouterr()


def test_memory_is_measured_once_and_its_table_marks_what_is_computed(saved, results, capsys):
    measure = arguments(saved, "--modes", "float32", "--points", "1x32", "2x32", "4x32")
    assert memory.main(measure) == 0
    (file,) = results.glob("memory-*.csv")
    rows, written = pd.read_csv(file), file.read_bytes()
    assert list(rows["step"]) == ["tuning", "sampling"] * 3 and (rows["peak GB"] >= rows["held GB"]).all()
    assert memory.main(measure) == 0 and file.read_bytes() == written
    capsys.readouterr()
    assert memory.main(["--device", "cpu", "--table"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[6].strip() for line in printed[2:7]] == ["measured"] * 3 + ["**computed**"] * 2
    assert "leaves out" in printed[-1] and torch.__version__ in printed[-1]


def grown(*points, mode="float32"):
    """Rows of a memory of 2 + 3e-6 x frames x pixels, and half of that when sampling."""
    return [
        {"backend": "cuda", "device": "a GPU", "torch": "2", "frames": frames, "size": size, "mode": mode, "step": step}
        | {"peak GB": (2 + 3e-6 * frames * size**2) * factor}
        for frames, size in points
        for step, factor in (("tuning", 1), ("sampling", 0.5))
    ]


def test_what_is_computed_lies_on_the_line_and_gives_way_to_what_is_measured():
    table = memory.table(pd.DataFrame(grown((2, 128), (4, 128), (4, 256))))
    assert "| 4 | 256x256 | float32 | 2.8 | 1.4 | measured |" in table
    assert "| 24 | 512x512 | float32 | 20.9 | 10.4 | **computed** |" in table
    assert "| 32 | 512x512 | float32 | 27.2 | 13.6 | **computed** |" in table
    table = memory.table(pd.DataFrame(grown((2, 128), (4, 128), (24, 512))))
    assert "| 24 | 512x512 | float32 | 20.9 | 10.4 | measured |" in table and table.count("| 24 |") == 1


def test_two_points_make_no_line():
    assert "computed" not in memory.table(pd.DataFrame(grown((2, 128), (4, 128)))).split("\n", 1)[1]


def ask_for_too_much():
    return torch.empty(2**60, dtype=torch.uint8)


def test_a_row_without_numbers_says_that_memory_did_not_suffice(tmp_path):
    rows = pd.DataFrame(grown((2, 128), (4, 128), (4, 256), (32, 512)))
    rows.loc[6, "peak GB"] = None
    rows.to_csv(tmp_path / "rows.csv", index=False)
    key = rows.drop(columns="peak GB").iloc[0].to_dict() | {"frames": 24, "size": 512}
    full_size.once(tmp_path / "rows.csv", key, False, ask_for_too_much)
    table = memory.table(pd.read_csv(tmp_path / "rows.csv"))
    assert "| 24 | 512x512 | float32 | - | - | measured |" in table
    assert "| 32 | 512x512 | float32 | - | 13.6 | measured |" in table


def test_what_is_measured_again_replaces_its_row(tmp_path):
    for numbers, again in (([1, 2], False), ([5], False), ([3, 4, 6], True)):
        for frames in (2, 4):
            row = full_size.once(tmp_path / "rows.csv", {"frames": frames}, again, count, numbers)
    assert row["peak GB"] == 3
    assert pd.read_csv(tmp_path / "rows.csv").to_dict("list") == {"frames": [2, 4], "peak GB": [3, 3]}


def count(numbers):
    return {"peak GB": len(numbers)}


def test_input_that_cannot_be_used_ends_with_one_line(saved, results, capsys):
    for script, words, reason in (
        (full_size, ["no.mp4", "--size", "32"], "no.mp4 does not exist"),
        (full_size, ["square.mp4", "--size", "36"], "no multiple of the VAE's factor"),
        (full_size, ["square.mp4", "--size", "32", "--frames", "99"], "has 6 frames, but 99 frames"),
        (memory, ["--points", "24-512"], "such as 24x512, not 24-512"),
        (memory, ["--table", "nowhere.csv"], "nowhere.csv does not exist"),
    ):
        assert script.main(arguments(saved, *words)) == 2
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and reason in error


def test_what_is_computed_follows_from_the_measured_rows():
    """And from counted operations, at the speed that the paper's own time means."""
    kept = pd.read_csv(expected.RESULTS / "expected.csv")
    rows = pd.read_csv(next(expected.RESULTS.glob("memory-*.csv")))
    pd.testing.assert_frame_equal(expected.compute(rows), kept)
