import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageSequence

from measures.evidence import settled
from measures.protocol import Claim, answers
from publish import figures
from tav.clip import to_pictures


def frames(level, f=4, h=16, w=24):
    return torch.full((f, 3, h, w), level)


def test_frames_are_picked_evenly_and_with_both_ends():
    assert figures.pick_frames(8) == [0, 1, 3, 4, 6, 7]
    assert figures.pick_frames(32, 5) == [0, 8, 16, 23, 31]
    assert figures.pick_frames(3) == [0, 1, 2]
    assert figures.pick_frames(1) == [0]


def test_a_strip_shows_the_same_frames_of_every_row_with_labels_and_scores():
    rows = {"source": torch.rand(8, 3, 16, 24), "object: a dog": torch.rand(8, 3, 16, 24)}
    figure = figures.strip(rows, [0, 3, 7], {"object: a dog": "text 27.50"}, title="fox, seed 33")
    sheet = figure.axes[0].images[0].get_array()
    for y, row in enumerate(rows):
        for x, index in enumerate((0, 3, 7)):
            tile = sheet[y * 63 : y * 63 + 60, x * 93 : x * 93 + 90]
            assert np.array_equal(tile, np.asarray(tile_of(rows[row][index])))
    words = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert {"source", "object: a dog\ntext 27.50", "fox, seed 33", "frame 1", "frame 4", "frame 8"} <= set(words)


def tile_of(frame):
    return Image.fromarray(to_pictures(frame[None])[0]).resize((90, 60), Image.Resampling.LANCZOS)


def test_frames_are_drawn_in_their_own_proportions():
    figure = figures.strip({"wide": frames(0.5)}, [0, 1])
    box, sheet = figure.axes[0].get_position(), figure.axes[0].images[0].get_array()
    assert sheet.shape == (60, 2 * 90 + 3, 3)
    assert box.width * figure.get_figwidth() * 100 == pytest.approx(sheet.shape[1])
    assert box.height * figure.get_figheight() * 100 == pytest.approx(sheet.shape[0])


def test_the_style_is_the_same_whatever_the_caller_has_set(tmp_path):
    def draw():
        figures.show(figures.curve({"a": [3.0, 2.0, 1.0], "b": [2.0, 2.0, 2.0]}, window=2), tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    expected = draw()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert draw() == expected


def test_the_curve_is_the_running_mean_and_one_clip_has_no_band():
    axes = figures.curve({"only": [4.0, 2.0, 0.0]}, window=2).axes[0]
    assert axes.lines[-1].get_xydata().tolist() == [[2, 3], [3, 1]]
    assert not axes.collections
    assert figures.curve({"a": [1.0] * 3, "b": [2.0] * 3}, window=2).axes[0].collections


def test_clips_that_were_tuned_for_fewer_steps_end_earlier_and_count_until_then():
    axes = figures.curve({"long": [4.0] * 6, "short": [2.0] * 3}, window=2).axes[0]
    assert axes.lines[-1].get_xydata().tolist() == [[2, 3], [3, 3], [4, 4], [5, 4], [6, 4]]


def test_no_influence_is_white():
    values = np.tril(np.ones((4, 4)))
    shown = figures.influence({"causal": values, "all": np.ones((4, 4))}).axes[0].images[0].get_array()
    assert np.array_equal(shown.mask, values == 0)


def test_a_mean_without_an_interval_is_drawn_without_one():
    nan = float("nan")
    panel = figures.intervals({"text": {"edits": (27.0, 26.0, 28.0), "source": (20.0, nan, nan)}}).axes[0]
    assert [line.get_xdata().tolist() for line in panel.lines if len(line.get_xdata()) == 2] == [[26.0, 28.0]]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["edits", "source"]


def test_growth_draws_every_line_on_log_axes():
    axes = figures.growth([1, 2, 4], {"ST-Attn": [1, 2, 4], "full": [1, 4, 16]}).axes[0]
    assert len(axes.lines) == 2 and axes.get_xscale() == axes.get_yscale() == "log"


def test_an_animation_holds_every_frame_side_by_side_and_always_the_same_bytes():
    rows = {"source": torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 16, 24), "edit": frames(1.0, 5)}
    data = figures.animate(rows, fps=8)
    assert data == figures.animate(rows, fps=8)
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (2 * 24 + 2, 16) and picture.n_frames == 5 and picture.info["loop"] == 0
    means = [np.asarray(frame.convert("L"))[:, :24].mean() / 255 for frame in ImageSequence.Iterator(picture)]
    assert means == pytest.approx(torch.linspace(0, 1, 5).tolist(), abs=0.05)


def test_large_frames_are_reduced_in_an_animation():
    assert Image.open(io.BytesIO(figures.animate({"a": frames(0.5, 2, 512, 256)}))).size == (64, 128)


@pytest.mark.parametrize("name", ["chart.png", "frames.jpg"])
def test_what_is_shown_is_what_is_written(name, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figures.show(figures.strip({"source": frames(0.3)}, [0, 2]), tmp_path / "figures" / name)
    assert shown[0].data == (tmp_path / "figures" / name).read_bytes()
    assert Image.open(tmp_path / "figures" / name).size[0] > 200


def test_a_shown_animation_is_written_and_captioned(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figures.show_animation({"a <b>": frames(0.3)}, tmp_path / "figures" / "a.webp")
    assert Image.open(tmp_path / "figures" / "a.webp").n_frames >= 1
    assert "a &lt;b&gt;" in shown[0].data and "data:image/webp;base64," in shown[0].data


def test_a_verdict_is_drawn_from_every_clip_with_its_interval_and_its_words():
    claim = Claim("ST-Attn makes frames agree", "edit success", "ours", "theirs", smallest=0.05)
    rows = [(m, f"clip {c}", "place", c / 10 + (m == "ours") * 0.2) for m in ("ours", "theirs") for c in range(5)]
    tables = {"5 clips": pd.DataFrame(rows, columns=["method", "clip", "edit", "edit success"])}
    asked = {"more": claim}
    figure = figures.verdicts(asked, tables, settled(answers(asked, tables)))
    (axes,) = figure.axes
    words = [text.get_text() for text in axes.texts]
    assert "ST-Attn makes frames agree" in words
    assert any(word.endswith("n = 5") for word in words)
    dots = axes.lines[0].get_xdata()
    assert len(dots) == 5 and np.allclose(dots, 0.2)


def test_a_shown_verdict_is_an_svg_too_of_the_same_bytes_each_time_and_none_where_nothing_has_a_value(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(figures, "display", lambda shown: None)
    rows = [(m, f"clip {c}", "place", c / 10 + (m == "ours") * 0.2) for m in ("ours", "theirs") for c in range(5)]
    tables = {"5 clips": pd.DataFrame(rows, columns=["method", "clip", "edit", "edit success"])}
    asked = {"more": Claim("ours is better", "edit success", "ours", "theirs")}
    found = settled(answers(asked, tables))
    for folder in ("one", "two"):
        figures.show_verdicts(asked, tables, found, tmp_path / folder / "evidence.png")
    svg = (tmp_path / "one/evidence.svg").read_bytes()
    assert svg.startswith(b"<?xml") and svg == (tmp_path / "two/evidence.svg").read_bytes()
    figures.show_verdicts(asked, {}, {"more": {"value": None}}, tmp_path / "three/evidence.png")
    assert not (tmp_path / "three").exists()


def test_a_course_has_a_panel_per_measure_and_its_band_is_the_interval():
    seen = {0: (0.2, 0.1, 0.3), 120: (0.5, 0.4, 0.6), 480: (0.7, 0.6, 0.8)}
    panels = {"motion": {"seen": seen, "unseen": {at: (0, 0, 0) for at in seen}}, "success": {"": {0: (1, 1, 1)}}}
    first, second = figures.course(panels, "title", "steps").axes
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["seen", "unseen"]
    assert first.lines[1].get_ydata().tolist() == [0, 0, 0] and second.get_legend() is None
    assert [label.get_text() for label in first.get_xticklabels()] == ["0", "120", "480"]
    assert first.lines[0].get_ydata().tolist() == [0.2, 0.5, 0.7] and second.get_title(loc="left") == "success"


def test_a_frontier_joins_the_tries_that_no_other_of_the_method_beats_in_both():
    ours = [(0.2, 0.9), (0.5, 0.8), (0.4, 0.7), (0.6, 0.3), (0.5, 0.6)]
    rows = [("ours", *try_) for try_ in ours] + [("theirs", 0.1, 0.1)]
    tries = pd.DataFrame(rows, columns=["method", "motion", "success"])
    figure = figures.frontiers(tries, ["motion"], "success", "ours")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["ours"].get_xydata().tolist() == [[0.6, 0.3], [0.5, 0.8], [0.2, 0.9]]
    assert lines["ours"].get_color() == figures.INK and lines["theirs"].get_xydata().tolist() == [[0.1, 0.1]]
