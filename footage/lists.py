"""A user's own clips as a list that `clips` and `benchmark.clips` of params.yaml take."""

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import av
from pydantic import ValidationError
from ruamel.yaml import YAML

from measures.clips import LONGEST_NAME, ClipEntry
from tav.clip import PICTURES, read_clip
from tav.errors import InputError, one_line

ENDINGS = {".mp4", ".gif", ".webm", ".mov", ".mkv", ".avi", ".m4v"}


def list_clips(paths: Iterable[Path], num_frames: int, caption: Callable[[Path, int], str] | None = None) -> dict:
    """Clips and folders of clips as `clips` of params.yaml, each read once to see that it can be.

    A clip is a video, a GIF or a folder of frames. Its `num_frames` frames are spread over the whole clip, as the paper
    takes them. `caption` (clip, its number of frames -> text) writes the captions; without it a caption is the file's
    name in words. The one edit, a style, is a start: others are to be written beside it.
    """
    clips = {}
    for path in _find(paths):
        name, count = clip_name(path.stem if path.is_file() else path.name, clips), count_frames(path)
        stride = max(1, (count - 1) // max(1, num_frames - 1))
        if count < num_frames:
            raise InputError(
                f"{path} has {count} frames: leave it out, or ask for fewer with --frames (now {num_frames})"
            )
        text = caption(path, count) if caption else name.replace("-", " ")
        source = {"path": path.as_posix(), "start": 0, "stride": stride}
        clips[name] = {"source": source, "caption": text, "edits": {"style": f"{text}, cartoon style"}}
    return clips


def write_list(path: Path, clips: dict, comment: str) -> None:
    """Writes `clips` as YAML with a comment at the top; each is checked as params.yaml's are. Keeps no older file."""
    for name, clip in clips.items():
        try:
            ClipEntry.model_validate(clip)
        except ValidationError as error:
            raise InputError(f"{name} is no clip for a list ({one_line(error)}): leave it out") from None
    yaml = YAML()
    yaml.width = 4096  # a prompt is one line
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("".join(f"# {line}\n" for line in comment.splitlines()))
        yaml.dump({"clips": clips}, file)


def clip_name(text: str, taken: Collection[str] = ()) -> str:
    """`text` as a clip's name of a-z, 0-9 and -, with a number if that one is taken."""
    name = plain = re.sub("[^a-z0-9]+", "-", text.lower())[: LONGEST_NAME - 5].strip("-") or "clip"
    number = 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _find(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() and not _has_frames(path) else [path]
        clips = [clip for clip in inside if clip.suffix.lower() in ENDINGS or (clip.is_dir() and _has_frames(clip))]
        if not clips:
            raise InputError(f"{path} is no clip and holds none: give videos, GIFs, folders of frames, or their folder")
        found += clips
    return found


def _has_frames(folder: Path) -> bool:
    return any(file.suffix.lower() in PICTURES for file in folder.iterdir())


def count_frames(path: Path) -> int:
    """How many frames a clip has; InputError if it cannot be read."""
    read_clip(path, num_frames=1)  # says what is wrong with a file, if anything
    if path.is_dir():
        return sum(file.suffix.lower() in PICTURES for file in path.iterdir())
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return sum(1 for _ in container.decode(video=0))
    except av.FFmpegError as error:
        raise InputError(f"{path} breaks off ({error.strerror}): copy, download or convert it again") from error


def frame_rate(path: Path) -> float:
    """The frames a second of a video or GIF; 0 where nothing says it."""
    if path.is_dir():
        return 0.0
    with av.open(str(path), metadata_errors="replace") as container:
        return float(container.streams.video[0].average_rate or 0)
