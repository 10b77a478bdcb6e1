"""LOVEU-TGVE-2023 with a tiny tree in the released layout: its table and defects, submissions, and their scores."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from footage.__main__ import main
from footage.tgve import EDITS, means, read_submission, read_table, score_submission, tgve_clips, write_submission
from measures.clips import ClipEntry
from measures.score import ClipScorer, PickScorer, frame_consistency
from tav.clip import read_frames, write_clip, write_frames
from tav.errors import InputError
from tests import tiny
from tests.studies.test_scores import save_pick, save_processor
from tests.tiny_clip import save_clip

HEADER = "Video name,Our GT caption,Style Change Caption,Object Change Caption,Background Change Caption,"
HEADER += "Multiple Changes Caption ,Notes"
TABLE = f"""{HEADER}
DAVIS Videos:,,,,,,
stunt,A man rides.,"A man rides, cartoon style. ",A bear  rides.,A man rides on Mars.,"A bear rides, on Mars.",x
,,,,,,
Youtube Videos:,,,,,,
eiffel-flyover ,A tower.,A tower. ,A needle.,A tower at night.,A needle at night.,
,,,,,,
Videvo Videos:,,,,,,
Swans,Swans swim.,Swans swim in oil.,Ducks swim.,,Ducks swim in milk.,
"""
PLACES = {"DAVIS_480p": "stunt", "youtube_480p": "eiffel-flyover", "videvo_480p": "Swans"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command sets its own


@pytest.fixture
def data():
    """The unpacked archive, in whose last subset there are videos only."""
    folder = Path("loveu-tgve-2023")
    frames = (tiny.moving_square(4) + 1) / 2
    for subset, clip in PLACES.items():
        (folder / subset / "480p_videos").mkdir(parents=True)
        write_clip(folder / subset / "480p_videos" / f"{clip}.mp4", frames)
        if clip != "Swans":
            place = folder / subset / "480p_frames" / clip
            place.mkdir(parents=True)
            for index, frame in enumerate((frames * 255).byte().permute(0, 2, 3, 1).numpy()):
                Image.fromarray(frame).save(place / f"{index:05}.jpg")
    (folder / "LOVEU-TGVE-2023_Dataset.csv").write_text(TABLE)
    return folder


@pytest.fixture
def table(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_table(data)


@pytest.mark.parametrize("content", [TABLE.encode("utf-16"), b"\x81\x8d\xff", b"", b'a,"b\n'])
def test_a_table_in_another_encoding_or_broken_is_refused_in_one_line(data, content):
    (data / "LOVEU-TGVE-2023_Dataset.csv").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a CSV|has no column") as caught:
        read_table(data)
    assert "\n" not in str(caught.value)


def test_the_table_is_read_by_its_groups_and_its_white_space_taken_out(table):
    assert [(row.subset, row.clip) for row in table] == list(PLACES.items())
    assert table[0].edits["style"] == "A man rides, cartoon style."
    assert table[0].edits["object"] == "A bear rides."
    assert list(table[0].edits) == list(EDITS)


def test_a_prompt_that_is_its_caption_is_kept_and_an_empty_one_left_out_with_a_warning(data):
    with pytest.warns(UserWarning) as caught:
        rows = read_table(data)
    assert [str(warning.message) for warning in caught] == [
        "eiffel-flyover: the style prompt is its caption (it is kept)",
        "Swans: the background prompt is empty (it is left out)",
    ]
    assert rows[1].edits["style"] == rows[1].caption
    assert list(rows[2].edits) == ["style", "object", "multiple"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_saved_by_a_spreadsheet_reads_the_same(data, table):
    path = data / "LOVEU-TGVE-2023_Dataset.csv"
    text = TABLE.replace("Swans swim.", "Swan’s swim.")
    for encoding in ("utf-8-sig", "cp1252"):
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        rows = read_table(data)
        assert rows[2].caption == "Swan’s swim." and rows[:2] == table[:2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Style Change Caption", "Stil", "has no column Style Change"),
        ("DAVIS Videos:", "", "lists stunt before a row such as 'DAVIS Videos:'"),
        ("stunt", "../../stunt", "is no clip's name"),
        ("A man rides.", "", "or has no caption"),
        (TABLE, HEADER, "lists no clip"),
        (TABLE, "", "cannot be read as a CSV"),
    ],
)
def test_a_table_that_is_another_is_refused_in_one_line(data, old, new, message):
    (data / "LOVEU-TGVE-2023_Dataset.csv").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_table(data)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_benchmark_becomes_a_list_of_clips_with_frames_or_else_videos(data):
    clips = tgve_clips(data)
    entries = {name: ClipEntry.model_validate(clip) for name, clip in clips.items()}
    assert [entry.source.path for entry in entries.values()] == [
        "loveu-tgve-2023/DAVIS_480p/480p_frames/stunt",
        "loveu-tgve-2023/youtube_480p/480p_frames/eiffel-flyover",
        "loveu-tgve-2023/videvo_480p/480p_videos/Swans.mp4",
    ]
    assert list(entries) == ["stunt", "eiffel-flyover", "swans"]
    (data / "videvo_480p/480p_videos/Swans.mp4").unlink()
    with pytest.raises(InputError, match="unpack the whole archive again"):
        tgve_clips(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_released_archive_is_unpacked_and_listed_by_one_command(data, capsys):
    with zipfile.ZipFile("loveu.zip", "w") as archive:
        for path in data.rglob("*.*"):
            archive.write(path)
        archive.writestr("__MACOSX/loveu-tgve-2023/DAVIS_480p/480p_frames/stunt/._00000.jpg", b"")
        archive.writestr("loveu-tgve-2023/notes.py", b"")
    assert main(["tgve", "loveu.zip"]) == 0
    assert "3 clips, 11 edits" in capsys.readouterr().out
    clips = YAML(typ="safe").load(Path("footage/videos/tgve.yaml"))["clips"]
    assert clips["stunt"]["source"]["path"] == "footage/videos/tgve/DAVIS_480p/480p_frames/stunt"
    assert len(read_frames(clips["stunt"]["source"]["path"])) == 4
    names = {path.name for path in Path("footage/videos/tgve").rglob("*.*")}
    assert names == {f"{i:05}.jpg" for i in range(4)} | {f"{clip}.mp4" for clip in PLACES.values()} | {
        "LOVEU-TGVE-2023_Dataset.csv"
    }
    assert main(["tgve", str(data), "--out", "here.yaml"]) == 0  # a folder is used where it is
    assert main(["tgve", "--out", "again.yaml"]) == 0  # what was unpacked before
    assert main(["tgve", "none.zip"]) == 2
    assert "none.zip does not exist: https://github.com/showlab/loveu-tgve-2023" in capsys.readouterr().err


def test_a_clip_of_the_table_without_any_edit_is_said_in_one_line(data, capsys):
    (data / "LOVEU-TGVE-2023_Dataset.csv").write_text(f"{HEADER}\nDAVIS Videos:,,,,,,\nstunt,A man rides.,,,,,\n")
    assert main(["tgve", str(data)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: stunt is no clip for a list (") and said[-1].endswith("): leave it out")
    assert all(line.startswith("warning: ") for line in said[:-1])


def some_edits(table) -> dict:
    generator = torch.Generator().manual_seed(0)
    pairs = [(row.clip.lower(), edit) for row in table for edit in row.edits]
    return {pair: torch.rand(3, 3, 1, 1, generator=generator).expand(3, 3, 32, 48).contiguous() for pair in pairs}


def test_a_submission_has_the_competitions_layout_and_is_read_back(table):
    edits = some_edits(table)
    write_submission(Path("ours"), table, edits)
    assert sorted(str(path) for path in Path("ours/DAVIS_480p").rglob("*.jpg")) == sorted(
        f"ours/DAVIS_480p/stunt/{edit}/{i:05}.jpg" for edit in EDITS for i in range(3)
    )
    read = list(read_submission(Path("ours"), table))
    assert [(row.clip.lower(), edit) for row, edit, _ in read] == list(edits)
    for row, edit, frames in read:
        assert (frames - edits[row.clip.lower(), edit]).abs().max() < 0.03  # JPEG
    write_submission(Path("ours"), table, {("stunt", "style"): edits["stunt", "style"][:2]})
    assert len(list(Path("ours/DAVIS_480p/stunt/style").iterdir())) == 2
    with pytest.raises(InputError, match="no edit place of a clip stunt"):
        write_submission(Path("ours"), table, {("stunt", "place"): edits["stunt", "style"]})


def test_an_incomplete_submission_is_read_with_a_warning_and_an_empty_one_refused(table):
    edits = some_edits(table)
    write_submission(Path("ours"), table, {pair: edits[pair] for pair in edits if pair[0] != "stunt"})
    with pytest.warns(UserWarning, match="lacks 4 of 11 edits, such as DAVIS_480p/stunt/style"):
        assert len(list(read_submission(Path("ours"), table))) == 7
    with pytest.raises(InputError, match="holds no edit such as"):
        next(read_submission(Path("nowhere"), table))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("ours/videvo_480p/Swans/object/00001.jpg")
    with pytest.raises(InputError, match="frames of several sizes"), pytest.warns(UserWarning):
        list(read_submission(Path("ours"), table))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_clip(folder / "clip")
    save_processor(save_pick(folder / "pick"))
    return folder


def test_scores_are_those_of_the_squared_frames_and_their_means_are_plain(table, models):
    write_submission(Path("ours"), table, some_edits(table))
    scores = score_submission(Path("ours"), table, str(models / "clip"), str(models / "pick"), "cpu")
    assert len(scores) == 11
    frames = read_frames("ours/DAVIS_480p/stunt/object")
    scorer = ClipScorer(models / "clip", "cpu", square=480)
    row = scores[(scores["clip"] == "stunt") & (scores["edit"] == "object")].iloc[0]
    assert row["frame consistency"] == frame_consistency(scorer.embed_frames(frames))
    cosines = scorer.embed_frames(frames) @ scorer.embed_prompt("A bear rides.")
    assert row["text alignment"] == pytest.approx(100 * float(cosines.mean()), abs=1e-4)
    assert row["PickScore"] == PickScorer(models / "pick", "cpu", square=480).score(frames, "A bear rides.")
    summary = means(scores).set_index("of")
    assert summary["pairs"].to_dict() == {
        **{"all": 11, "DAVIS_480p": 4, "videvo_480p": 3, "youtube_480p": 4},
        **{"background": 2, "multiple": 3, "object": 3, "style": 3},
    }
    assert summary.loc["all", "PickScore"] == pytest.approx(scores["PickScore"].mean())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_edits_of_the_pipeline_are_submitted_and_scored_by_two_commands(data, table, models, capsys):
    write_frames("results/edit/swans/object", torch.rand(3, 3, 32, 32))
    write_frames("results/edit/stunt/style", torch.rand(3, 3, 32, 32))
    assert main(["submit", "results/edit", "ours", "--data", str(data)]) == 0
    assert "ours: 2 of 11 edits" in capsys.readouterr().out
    options = ["--clip-model", str(models / "clip"), "--pick-model", "", "--device", "cpu", "--out", "out/ours.csv"]
    with pytest.warns(UserWarning, match="ours lacks 9 of 11 edits"):
        assert main(["score", "ours", "--data", str(data), *options]) == 0
    assert "PickScore" not in capsys.readouterr().out
    rows = pd.read_csv("out/ours.csv")
    assert rows[["subset", "clip", "edit", "frames"]].values.tolist() == [
        ["DAVIS_480p", "stunt", "style", 3],
        ["videvo_480p", "Swans", "object", 3],
    ]
    assert pd.read_csv("out/ours-means.csv")["pairs"][0] == 2
    assert main(["submit", "nothing", "ours", "--data", str(data)]) == 2
    assert main(["score", "ours", "--data", "nowhere"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: nowhere/LOVEU-TGVE-2023_Dataset.csv does not")
