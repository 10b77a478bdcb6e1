"""The clips that everything is made from: their frames, read as params.yaml says."""

from pathlib import Path

from torch import Tensor

from measures.clips import ClipEntry
from studies.digests import digest_of_files
from studies.results import reading
from studies.settings import Params
from studies.store import Piece, Store
from tav.clip import read_clip, read_frames, write_frames


def source_frames(params: Params, entry: ClipEntry, store: Store) -> Piece:
    """The frames of a clip as pictures: what it is compared with, and what peers and conditions are shown."""

    def make(folder: Path) -> None:
        write_frames(folder, (read_source(params, entry) + 1) / 2)

    return store.take("source", needs_of_source(params, entry), (read_source, write_frames), make)


def read_source(params: Params, entry: ClipEntry) -> Tensor:
    """The frames of a clip, f 3 h w in [-1, 1]."""
    source, clip = entry.source, params.clip
    return read_clip(source.path, clip.num_frames, clip.size, source.start, source.stride, clip.fit)


def kept_frames(params: Params, folder: str | Path) -> Tensor:
    """Frames f 3 h w in [0, 1] in results/; InputError with the verb that makes them if they are not as wanted."""
    with reading(folder):
        frames = read_frames(folder)
        if len(frames) != params.clip.num_frames:
            raise ValueError(f"{len(frames)} frames where clip.num_frames is {params.clip.num_frames}")
    return frames


def needs_of_source(params: Params, entry: ClipEntry) -> dict:
    """What the frames of a clip depend on."""
    source = {"digest": digest_of_files(entry.source.path), "start": entry.source.start, "stride": entry.source.stride}
    return source | {"clip": params.clip.model_dump(exclude={"fps"}, mode="json")}
