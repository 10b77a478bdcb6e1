"""Scores at paper scale: PickScore, a CLIP of its own for frame accuracy, and the published rows beside ours."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from measures.score import ClipScorer, PickScorer
from measures.tables import Stored, gains, over_clips, trivial
from studies.scores import Scores
from studies.settings import load_params
from tav.clip import write_frames
from tav.errors import InputError
from tests.tiny import RELEASED
from tests.tiny_clip import save_clip

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PUBLISHED = Path(__file__).parents[2] / "measures/published.csv"


def save_processor(folder: Path) -> Path:
    side = {"height": 32, "width": 32}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
    CLIPProcessor(pictures, CLIPTokenizer.from_pretrained(RELEASED / "tokenizer")).save_pretrained(folder)
    return folder


def save_pick(folder: Path, seed: int = 0) -> Path:
    """A PickScore of random weights, without a processor, as transformers saves one."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": 519, "bos_token_id": 517, "eos_token_id": 518, "pad_token_id": 518}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=tower | words | {"max_position_embeddings": 77, "projection_dim": 8},
        vision_config=tower | {"image_size": 32, "patch_size": 16, "projection_dim": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pick(tmp_path_factory):
    folder = save_pick(tmp_path_factory.mktemp("pick"))
    save_processor(folder)
    return folder


@pytest.fixture
def frames():
    return torch.rand(3, 3, 40, 64, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def test_pickscore_is_the_scaled_cosine_of_the_two_projections_in_the_mean_over_frames(pick, frames):
    model, processor = CLIPModel.from_pretrained(pick), CLIPProcessor.from_pretrained(pick, backend="pil")
    pictures = [Image.fromarray(frame) for frame in (frames * 255).byte().permute(0, 2, 3, 1).numpy()]
    inputs = processor(text="a fox running", images=pictures, return_tensors="pt")
    small = [picture.resize((51, 32), Image.Resampling.BICUBIC).crop((9, 0, 41, 32)) for picture in pictures]
    mean, std = torch.tensor([CLIP_MEAN, CLIP_STD])[:, :, None, None]
    by_hand = (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255 - mean) / std
    assert torch.allclose(inputs["pixel_values"], by_hand, atol=1e-5)
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(inputs["pixel_values"]).pooler_output)
        said = model.text_projection(model.text_model(inputs["input_ids"]).pooler_output)
        scores = model.logit_scale.exp() * torch.cosine_similarity(seen, said)
    assert PickScorer(pick).score(frames, "a fox running") == pytest.approx(float(scores.mean()), abs=1e-4)
    assert scores.std() > 0  # the mean is over frames that differ


def test_pickscore_reads_a_prompt_of_77_tokens_and_no_more(pick, frames):
    scorer = PickScorer(str(pick))
    assert scorer.score(frames, " ".join(["a"] * 75)) == scorer.score(frames, " ".join(["a"] * 75 + ["fox"]))
    assert scorer.score(frames, " ".join(["a"] * 74)) != scorer.score(frames, " ".join(["a"] * 74 + ["fox"]))


def test_the_square_of_tgve_shows_pickscore_what_its_crop_would_cut(pick):
    marked = torch.zeros(1, 3, 32, 96)
    marked[..., :16] = 1  # outside the centre crop
    plain, square = PickScorer(pick), PickScorer(pick, square=480)
    assert plain.score(marked, "a fox") == plain.score(torch.zeros_like(marked), "a fox")
    assert square.score(marked, "a fox") != square.score(torch.zeros_like(marked), "a fox")


def test_weights_without_a_processor_use_that_of_their_base(pick, frames, tmp_path, monkeypatch):
    monkeypatch.setattr("measures.score.PICK_PROCESSOR", str(save_processor(tmp_path / "base")))
    bare = save_pick(tmp_path / "bare")
    assert PickScorer(bare).score(frames, "a fox") == PickScorer(pick).score(frames, "a fox")


def test_a_pickscore_with_parts_missing_is_refused_in_one_line(pick, tmp_path, monkeypatch):
    monkeypatch.setattr("measures.score.PICK_PROCESSOR", str(tmp_path / "no-processor"))
    shutil.copytree(pick, tmp_path / "empty")
    (tmp_path / "empty/model.safetensors").unlink()
    save_pick(tmp_path / "bare")
    shutil.copytree(pick, tmp_path / "mute")
    (tmp_path / "mute/tokenizer.json").unlink()
    for folder in ("empty", "bare", "mute", "nowhere/at/all"):
        with pytest.raises(InputError, match="cannot load PickScore .*: check score.pick_model") as caught:
            PickScorer(tmp_path / folder)
        assert "\n" not in str(caught.value)


def test_weights_of_another_kind_are_no_pickscore(pick, tmp_path):
    shutil.copytree(pick, tmp_path / "half")
    weights = CLIPModel.from_pretrained(pick).state_dict()
    CLIPModel.from_pretrained(pick).save_pretrained(tmp_path / "half", state_dict=dict(list(weights.items())[:5]))
    with pytest.raises(InputError, match="weights are missing"):
        PickScorer(tmp_path / "half")


@pytest.fixture
def evaluated(workplace, set_params, pick):
    save_clip(Path("clip"))
    set_params({"score.clip_model": "clip"})
    source, edit = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    write_frames("results/tune/square/source", source)
    return {"edit": {("square", "object"): edit, ("square", "place"): source}}


def test_pickscore_and_a_clip_for_accuracy_add_to_the_table_and_change_nothing_else(evaluated, set_params, pick):
    plain = Scores(load_params()).table(evaluated)
    other = save_clip(Path("other"))
    weights = load_file(other / "open_clip_model.safetensors")
    save_file({name: -w for name, w in weights.items()}, other / "open_clip_model.safetensors")
    set_params({"score.accuracy_model": "other", "score.pick_model": str(pick)})
    scorer = Scores(load_params())
    table = scorer.table(evaluated)
    assert [name for name in table if name != "PickScore"] == list(plain)
    changed = ["frame accuracy", "PickScore"]
    pd.testing.assert_frame_equal(table.drop(columns=changed), plain.drop(columns="frame accuracy"), check_exact=True)
    frames, entry = evaluated["edit"]["square", "object"], load_params().clips["square"]
    scores = ClipScorer(other).score(frames, entry.edits["object"], entry.caption)
    assert table["frame accuracy"][0] == scores["frame accuracy"]
    assert table["PickScore"][0] == PickScorer(pick).score(frames, entry.edits["object"])


def test_what_needs_a_judge_or_truth_is_said_to_stay_open(evaluated, set_params):
    assert Scores(load_params()).unread().startswith("`score.judge` names no judge: edit success")
    judge = Path(__file__).parents[2] / "models/miniature/judge"
    if judge.exists():
        set_params({"score.judge": str(judge)})
        scorer = Scores(load_params())
        assert scorer.unread().startswith("No truth lies beside square: there edit success")
        assert "edit success" not in scorer.table(evaluated)


def test_wide_frames_are_scored_without_truth(evaluated, set_params):
    for truth in ("square.json", "square.masks.png"):
        Path(truth).touch()
    judge = Path(__file__).parents[2] / "models/miniature/judge"
    set_params({"clip.size": [16, 32], "score.judge": str(judge) if judge.exists() else ""})
    source, edit = torch.rand(2, 4, 3, 16, 32)
    write_frames("results/tune/square/source", source)
    scorer = Scores(load_params())
    assert "motion correlation" not in scorer.table({"edit": {("square", "object"): edit}})
    assert not judge.exists() or scorer.unread().startswith("Truth is of square frames: here edit success")


def test_with_the_clip_of_tgve_frames_are_resized_as_its_script_does(evaluated, set_params, pick, monkeypatch):
    """But not for frame accuracy, which is FateZero's."""
    set_params({"score.pick_model": str(pick), "score.accuracy_model": str(save_clip(Path("other")))})
    plain = Scores(load_params()).evaluator
    assert (plain.scorer.square, plain.pick.square, plain.accuracy.square) == (None, None, None)
    monkeypatch.setattr("measures.evaluate.TGVE", "clip")
    tgve = Scores(load_params()).evaluator
    assert (tgve.scorer.square, tgve.pick.square, tgve.accuracy.square) == (480, 480, None)


def test_no_edits_make_an_empty_table_with_its_keys(evaluated):
    table = Scores(load_params()).table({"edit": {}})
    assert list(table) == ["method", "clip", "edit"]
    assert all(math.isnan(value) for value in over_clips(table, "text alignment")[:3])


def test_an_interval_does_not_leave_what_its_measure_can_be():
    shares = {"method": ["a"] * 4 + ["b"] * 4, "clip": ["1", "2", "3", "4"] * 2, "edit": "x"}
    shares = pd.DataFrame(shares | {"edit success": [1, 1, 1, 0.2, 0, 0, 0, 0.6], "warp error": [1, 1, 1, 0.2] * 2})
    mean, low, high = over_clips(shares[shares.method == "a"], "edit success")[:3]
    assert 0 <= low < mean < high == 1
    assert over_clips(shares[shares.method == "a"], "warp error").high > 1  # which knows no most
    assert gains(shares, "edit success", "a", "b").high == 1
    assert gains(shares, "edit success", "b", "a").low == -1


def test_stored_edits_are_read_when_they_are_asked_for_and_score_as_frames_do(evaluated):
    for (clip, edit), frames in evaluated["edit"].items():
        write_frames(Path("results/edit") / clip / edit, frames)
    folders = {pair: Path("results/edit", *pair) for pair in evaluated["edit"]}
    stored = Stored(folders | {("square", "lost"): Path("no")})
    assert ("square", "lost") in stored and len(stored) == 3  # and nothing was read
    del stored["square", "lost"]
    scorer = Scores(load_params())
    source = scorer.source("square")
    frames = {pair: (frames * 255).round() / 255 for pair, frames in evaluated["edit"].items()}
    for methods in ({"edit": stored} | trivial(stored, lambda _: source), {"edit": frames}):
        table = scorer.table(methods)
        assert table["method"].nunique() == len(methods) and len(table) == 2 * len(methods)
    pd.testing.assert_frame_equal(scorer.table({"edit": stored}), table)


def test_every_published_row_has_a_number_and_a_source_and_stands_once():
    rows = pd.read_csv(PUBLISHED)
    assert list(rows) == ["set", "metric", "method", "value", "source"]
    assert rows.notna().all(axis=None) and rows["value"].dtype == float
    assert not rows.duplicated(["set", "metric", "method"]).any()
    ours = rows[rows["method"] == "Tune-A-Video"]
    assert set(ours["set"]) == set(rows["set"])  # every set is there for Tune-A-Video's sake
    cosines = rows[rows["metric"].str.startswith("frame consistency")]["value"]
    assert cosines.between(50, 100).all()  # all on the scale of 100
