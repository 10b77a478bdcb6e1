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
    """The frames of a clip as 8-bit pictures: what is tuned on, compared with, and shown to peers and conditions."""
    source, clip = entry.source, params.clip
    needs = {"digest": digest_of_files(source.path), "start": source.start, "stride": source.stride}
    needs |= {"clip": clip.model_dump(exclude={"fps"}, mode="json")}

    def make(folder: Path) -> None:
        frames = read_clip(source.path, clip.num_frames, clip.size, source.start, source.stride, clip.fit)
        write_frames(folder, (frames + 1) / 2)

    return store.take("source", needs, (read_clip, write_frames), make)


def kept_frames(params: Params, folder: str | Path) -> Tensor:
    """Frames f 3 h w in [0, 1] in results/; InputError with the verb that makes them if they are not as wanted."""
    with reading(folder):
        frames = read_frames(folder)
        if len(frames) != params.clip.num_frames:
            raise ValueError(f"{len(frames)} frames where clip.num_frames is {params.clip.num_frames}")
    return frames
