import json
import math

import numpy as np
import pytest
import torch

from measures.evidence import Interval, bootstrap, decide, evidence, write_metrics
from measures.score import ClipScorer, frame_accuracy, frame_consistency, psnr, text_alignment
from tav.errors import InputError
from tests.tiny_clip import save_clip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_equal_frames_are_fully_consistent():
    frame = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(0)), dim=0)
    assert frame_consistency(frame.repeat(5, 1)) == pytest.approx(100, abs=1e-4)


def test_consistency_is_over_all_pairs_and_not_only_neighbours():
    assert frame_consistency(torch.eye(4)) == 0
    there_and_back = torch.eye(2)[[0, 1, 0]]  # neighbours are orthogonal, the ends are equal: 1 of 3 pairs
    assert frame_consistency(there_and_back) == pytest.approx(100 / 3)
    assert math.isnan(frame_consistency(torch.eye(4)[:1]))


def test_text_alignment_is_the_mean_cosine():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert text_alignment(images, torch.tensor([1.0, 0.0])) == pytest.approx(100 * (1 + 0 + 0.6) / 3)
    assert text_alignment(images[:1], torch.tensor([-1.0, 0.0])) == pytest.approx(-100)


def test_frame_accuracy_counts_the_frames_nearer_to_the_edit():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.5**0.5, 0.5**0.5]])
    assert frame_accuracy(images, edit=torch.tensor([0.0, 1.0]), source=torch.tensor([1.0, 0.0])) == 50


def test_psnr_of_a_known_error():
    source = torch.full((2, 3, 4, 4), 0.5)
    assert psnr(source + 0.1, source) == pytest.approx(20, abs=1e-4)
    assert psnr(source, source) == math.inf


def test_the_interval_resamples_clips_and_keeps_their_edits_together():
    values = {"a": [1.0, 1.0, 1.0], "b": [3.0]}
    interval = bootstrap(values)
    assert interval.mean == 1.5  # the plain mean over all edits
    wider = math.sqrt(2) * 12.7062 / 1.95996  # two clips: Student's t with one degree of freedom
    assert interval.low == pytest.approx(1.5 - wider * 0.5, abs=1e-3)  # whole clips: either one may be drawn twice,
    assert interval.high == pytest.approx(1.5 + wider * 1.5, abs=1e-3)  # which gives means of 1 and of 3
    assert bootstrap(values) == interval
    assert bootstrap({str(clip): [2.0, 2.0] for clip in range(5)}) == Interval(2.0, 2.0, 2.0, 5)


def test_an_interval_of_eight_clips_holds_the_truth_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        interval = bootstrap({str(clip): [value] for clip, value in enumerate(rng.normal(size=8))}, draws=500)
        held += interval.low <= 0 <= interval.high
    assert 0.91 <= held / 300 <= 0.99


def test_one_clip_has_a_mean_and_no_interval():
    interval = bootstrap({"only": [1.0, 2.0]})
    assert interval.mean == 1.5 and math.isnan(interval.low) and math.isnan(interval.high)
    assert f"{interval:.2f}" == "1.50" and f"{Interval(1, 0.5, 2):.1f}" == "1.0 (0.5 to 2.0)"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (1.0, "holds"),
        (-1.0, "fails"),
        (Interval(1, 0.5, 2), "holds"),
        (Interval(-1, -2, -0.5), "fails"),
        (Interval(1, -1, 3), "undecided"),
        (Interval(1, math.nan, math.nan), "undecided"),
        (Interval(0, 0, 0), "undecided"),  # touches the bound: no evidence of a gain
        (Interval(0, 0, 1), "holds"),
        (Interval(1, 1, 1), "holds"),
        (Interval(-1, -1, -1), "fails"),
        (math.nan, "undecided"),
        (None, "undecided"),
    ],
)
def test_a_verdict_follows_the_value_and_its_interval(value, verdict):
    row = decide("edits follow their prompt", "gain", value, at_least=0)
    assert row["verdict"] == verdict
    assert row["expected"] == "at least 0"
    assert evidence(row).startswith(f"**{verdict.capitalize()}:** edits follow their prompt.")
    json.dumps(row, allow_nan=False)


def test_metrics_are_written_as_they_are_read(tmp_path):
    rows = {"gain": decide("more", "gain", 1 / 3, at_least=0.3, at_most=0.4, unit="dB")}
    write_metrics(tmp_path / "new" / "metrics.json", rows)
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == rows
    assert rows["gain"]["expected"] == "0.3 to 0.4 dB"


def test_a_scorer_embeds_frames_and_prompts_of_any_shape(clip_folder):
    scorer = ClipScorer(clip_folder)
    frames = torch.rand(3, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    images, text = scorer.embed_frames(frames), scorer.embed_prompt("a fox running")
    assert images.shape == (3, 16) and text.shape == (16,)
    assert torch.allclose(images.norm(dim=-1), torch.ones(3)) and images.dtype == torch.float32
    assert torch.equal(images, ClipScorer(str(clip_folder)).embed_frames(frames))


def test_the_square_of_tgve_keeps_what_the_crop_would_cut(clip_folder):
    frames = torch.zeros(1, 3, 32, 96)
    marked = frames.clone()
    marked[..., :16] = 1  # outside the centre crop
    plain, square = ClipScorer(clip_folder), ClipScorer(clip_folder, square=480)
    assert torch.equal(plain.embed_frames(frames), plain.embed_frames(marked))
    assert not torch.allclose(square.embed_frames(frames), square.embed_frames(marked))


def test_a_prompt_too_long_for_clip_is_warned_of_with_what_is_cut(clip_folder, recwarn):
    scorer = ClipScorer(clip_folder)
    scorer.embed_prompt(" ".join(["fox"] * 14))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="'running fast' is cut"):
        scorer.embed_prompt(" ".join(["fox"] * 14) + " running fast")


@pytest.mark.parametrize("model", ["ViT-L-14/unheard-of", "no-such-folder"])
def test_a_clip_model_that_does_not_exist_is_refused(model):
    with pytest.raises(InputError, match="no CLIP model"):
        ClipScorer(model)


def test_a_clip_folder_with_parts_missing_is_refused(clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises(InputError, match="cannot load the CLIP model"):
        ClipScorer(tmp_path)
    with pytest.raises(InputError, match="cannot load the CLIP model"):
        ClipScorer(tmp_path.parent)
