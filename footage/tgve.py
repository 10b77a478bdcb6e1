"""LOVEU-TGVE-2023: its archive and table as released, its submission layout, and its scores.

The table is a CSV with the columns Video name, Our GT caption, Style Change Caption, Object ..., Background ... and
Multiple Changes Caption. The clips of a subset follow a row with its name alone ("DAVIS Videos:"). Frames are in
<subset>/480p_frames/<clip>/, and as videos in <subset>/480p_videos/<clip>.mp4.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from footage.fetch import unpack
from footage.lists import clip_name
from measures.evaluate import SQUARE
from measures.score import ClipScorer, PickScorer, frame_consistency, text_alignment
from tav.clip import read_frames
from tav.errors import InputError, one_line

TABLE = "LOVEU-TGVE-2023_Dataset.csv"
SUBSETS = {"davis": "DAVIS_480p", "youtube": "youtube_480p", "videvo": "videvo_480p"}
EDITS = {"style": "Style Change", "object": "Object Change", "background": "Background Change", "multiple": "Multiple"}


@dataclass(frozen=True)
class Row:
    """One clip of the table: its subset's folder, its own, its source caption and its edit prompts by their kind."""

    subset: str
    clip: str
    caption: str
    edits: dict[str, str]


def unpack_tgve(archive: Path, folder: Path) -> None:
    """Unpacks the table, the frames and the videos of the released archive to `folder`; what is there is kept."""
    if folder.is_dir():
        print(f"{folder} is there: delete it to unpack {archive} again")
        return
    unpack(archive, folder, _data_file)


def _data_file(member: PurePosixPath) -> PurePosixPath | None:
    """<anything>/DAVIS_480p/480p_frames/... -> DAVIS_480p/480p_frames/..., and the table to the top."""
    parts = member.parts
    if "__MACOSX" in parts or member.name.startswith("."):
        return None
    if member.suffix.lower() == ".csv":
        return PurePosixPath(TABLE)
    start = next((i for i, part in enumerate(parts) if part in SUBSETS.values()), len(parts))
    return (
        PurePosixPath(*parts[start:]) if parts[start + 1 : start + 2] in [("480p_frames",), ("480p_videos",)] else None
    )


def read_table(folder: Path) -> list[Row]:
    """The clips of the table in `folder` (or of a CSV). White space at the ends and doubled is taken out.

    A prompt that equals its caption is kept and warned of (released: the style of eiffel-flyover), an empty one is left
    out and warned of. Raises InputError if this is not the table.
    """
    path = folder if folder.suffix.lower() == ".csv" else folder / TABLE
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the unpacked archive of LOVEU-TGVE-2023, with its table")
    try:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except UnicodeDecodeError:  # as a spreadsheet program saves it
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="cp1252")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} cannot be read as a CSV ({one_line(error)}): download it again") from error
    columns = {key: _column(table, path, key, start) for key, start in _columns().items()}
    table = table[list(columns.values())].set_axis(list(columns), axis=1).map(lambda text: " ".join(text.split()))
    subset, rows = None, []
    for row in table.to_dict("records"):
        group = re.match("(davis|youtube|videvo) videos", row["clip"].lower())
        if group and not row["caption"]:
            subset = SUBSETS[group[1]]
        elif row["clip"]:
            rows.append(_row(path, subset, row))
    if not rows:
        raise InputError(f"{path} lists no clip: download it again")
    return rows


def _columns() -> dict[str, str]:
    return {"clip": "Video name", "caption": "Our GT caption"} | EDITS


def _column(table: pd.DataFrame, path: Path, key: str, start: str) -> str:
    """The column that begins so: the competition's page leaves out "Caption"."""
    found = [name for name in table if " ".join(name.split()).lower().startswith(start.lower())]
    if not found:
        raise InputError(f"{path} has no column {start} ...: give the table of LOVEU-TGVE-2023 ({TABLE})")
    return found[0]


def _row(path: Path, subset: str | None, row: dict[str, str]) -> Row:
    if subset is None:
        raise InputError(f"{path} lists {row['clip']} before a row such as 'DAVIS Videos:': download it again")
    if not re.fullmatch(r"\w[\w.-]*", row["clip"]) or not row["caption"]:
        raise InputError(f"{path}: {row['clip'][:80]!r} is no clip's name, or has no caption: download it again")
    for edit in EDITS:
        if row[edit] in ("", row["caption"]):
            fate = "is its caption (it is kept)" if row[edit] else "is empty (it is left out)"
            warnings.warn(f"{row['clip']}: the {edit} prompt {fate}", stacklevel=3)
    return Row(subset, row["clip"], row["caption"], {edit: row[edit] for edit in EDITS if row[edit]})


def tgve_clips(folder: Path) -> dict[str, dict]:
    """The benchmark as `clips` of params.yaml: its frame folders or, where there are none, its videos."""
    clips = {}
    for row in read_table(folder):
        places = [folder / row.subset / "480p_frames" / row.clip, folder / row.subset / f"480p_videos/{row.clip}.mp4"]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise InputError(f"{places[0]} does not exist, nor {places[1]}: unpack the whole archive again")
        source = {"path": place.as_posix(), "start": 0, "stride": 1}
        name = clip_name(row.clip, clips)
        clips[name] = {"source": source, "caption": row.caption, "edits": row.edits}
    return clips


def write_submission(folder: Path, table: Iterable[Row], edits: Mapping[tuple[str, str], Tensor]) -> None:
    """Writes edits as folder/<subset>/<clip>/<style, object, background or multiple>/00000.jpg, ... in 8 bits.

    `edits` maps (clip, edit) to frames f 3 h w in [0, 1]. Raises InputError for a clip or an edit not in the table.
    """
    subsets = {(clip_name(row.clip), edit): Path(row.subset, row.clip, edit) for row in table for edit in row.edits}
    for (clip, edit), frames in edits.items():
        if (clip, edit) not in subsets:
            raise InputError(f"LOVEU-TGVE-2023 has no edit {edit} of a clip {clip}: its edits are {', '.join(EDITS)}")
        place = folder / subsets[clip, edit]
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("*.jpg"):  # of a longer clip
            old.unlink()
        pictures = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(place / f"{index:05}.jpg", quality=95)


def read_submission(folder: Path, table: Iterable[Row]) -> Iterator[tuple[Row, str, Tensor]]:
    """Yields clip, edit and frames f 3 h w in [0, 1] of a submission, anyone's, one at a time.

    Warns of edits that are not there: a mean over the others is not the benchmark's. Raises InputError if none is.
    """
    pairs = [(row, edit) for row in table for edit in row.edits]
    there = [(row, edit) for row, edit in pairs if (folder / row.subset / row.clip / edit).is_dir()]
    if not there:
        raise InputError(f"{folder} holds no edit such as DAVIS_480p/<clip>/style/00000.jpg: give the submission's top")
    if len(there) < len(pairs):
        row, edit = next(pair for pair in pairs if pair not in there)
        warnings.warn(
            f"{folder} lacks {len(pairs) - len(there)} of {len(pairs)} edits, such as {row.subset}/{row.clip}/{edit}: "
            "its means are not the benchmark's",
            stacklevel=2,
        )
    for row, edit in there:
        try:
            yield row, edit, read_frames(folder / row.subset / row.clip / edit)
        except RuntimeError as error:
            raise InputError(f"{folder / row.subset / row.clip / edit} holds frames of several sizes") from error


def score_submission(folder: Path, table: list[Row], clip_model: str, pick_model: str, device: str) -> pd.DataFrame:
    """The three measures of the released script, a row per edit: subset, clip, edit, frames and the measures.

    frame consistency (x100), text alignment (x100) and, if `pick_model` is not empty, PickScore; see `measures.score`.
    """
    scorer = ClipScorer(clip_model, device, square=SQUARE)
    pick = PickScorer(pick_model, device, square=SQUARE) if pick_model else None
    rows = []
    for row, edit, frames in tqdm(read_submission(folder, table), "score", unit=" edits", disable=None):
        images, prompt = scorer.embed_frames(frames), row.edits[edit]
        scores = {"subset": row.subset, "clip": row.clip, "edit": edit, "frames": len(frames)}
        scores["frame consistency"] = frame_consistency(images)
        scores["text alignment"] = text_alignment(images, scorer.embed_prompt(prompt))
        if pick:
            scores["PickScore"] = pick.score(frames, prompt)
        rows.append(scores)
    return pd.DataFrame(rows)


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """Plain means over (clip, edit) pairs: of all (the benchmark's number), by subset and by kind of edit."""
    measures = [name for name in ("frame consistency", "text alignment", "PickScore") if name in scores]
    groups = {"all": scores} | dict(iter(scores.groupby("subset"))) | dict(iter(scores.groupby("edit")))
    return pd.DataFrame(
        [{"of": name, "pairs": len(group)} | group[measures].mean().to_dict() for name, group in groups.items()]
    )
