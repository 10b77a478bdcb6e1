"""Clips in and out: videos and folders of frames become tensors (f, 3, h, w), and tensors become files to look at."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageOps

from tav.errors import InputError, check_finite

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# what Pillow raises for a file that is cut off, damaged, of something else, or would take gigabytes
NO_PICTURE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)
FITS = {"crop": max, "letterbox": min}  # which of the two scales, by height and by width


def read_clip(path, num_frames=8, size=64, start=0, stride=1, fit="crop") -> torch.Tensor:
    """Reads the frames start, start + stride, ... of a video, a GIF or a folder of frames as (f, 3, h, w) in [-1, 1].

    size is the side of a square, or (h, w), in pixels. fit says what becomes of another shape: "crop" fills the frame
    and cuts off what is outside, "letterbox" keeps everything between black bars; neither distorts. Decoding ends with
    the last frame that is needed. Raises InputError where the file cannot be read or holds too few frames.
    """
    if fit not in FITS:
        raise InputError(f"fit is {fit!r}: choose one of {', '.join(FITS)}")
    path, size = Path(path), (size, size) if isinstance(size, int) else tuple(size)
    wanted = range(start, start + num_frames * stride, stride)
    frames, count = [], 0
    for count, frame in enumerate(_decode(path), 1):
        if count - 1 in wanted:
            picture, aspect = frame()
            frames.append(fit_pictures(picture[None], size, fit, aspect)[0] * 2 - 1)
        if len(frames) == num_frames:
            return torch.stack(frames)
    raise InputError(_too_short(path, count, num_frames, start, stride))


def frame_size(path) -> tuple[int, int]:
    """Height and width in pixels of a clip's first frame, upright; raises InputError as `read_clip` does."""
    for frame in _decode(Path(path)):
        return tuple(frame()[0].shape[-2:])
    raise InputError(_too_short(Path(path), 0, 1, 0, 1))


def write_clip(path, frames, fps=8) -> None:
    """Writes frames (f, 3, h, w) in [0, 1] as an H.264 mp4 that browsers play; an odd side gains a repeated line."""
    h, w = frames.shape[-2:]
    frames = F.pad(frames, (0, w % 2, 0, h % 2), mode="replicate")
    # faststart: playable before it has arrived; one thread and no mbtree: the same bytes every time
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate, options = Fraction(fps).limit_denominator(1001), {"crf": "16", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = w + w % 2, h + h % 2, "yuv420p"
        for picture in to_pictures(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_frames(folder, frames) -> None:
    """Writes frames (f, 3, h, w) in [0, 1] as folder/00000.png, 00001.png, ...; takes away what is there of others.

    Raises NumericalError, and writes nothing, if a frame is not finite.
    """
    check_finite("a clip", frames)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{'[0-9]' * 5}.png"):
        old.unlink()
    for index, picture in enumerate(to_pictures(frames)):
        Image.fromarray(picture).save(folder / f"{index:05}.png")


def read_frames(folder) -> torch.Tensor:
    """Reads what `write_frames` wrote: (f, 3, h, w) in [0, 1]."""
    return torch.stack([frame()[0] for frame in _decode_folder(Path(folder))])


def to_pictures(frames: torch.Tensor) -> np.ndarray:
    """Frames (f, 3, h, w) in [0, 1] as 8-bit pictures, (f, h, w, 3) uint8."""
    pictures = (frames.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return rearrange(pictures, "f c h w -> f h w c").contiguous().numpy()


def fit_pictures(pictures: torch.Tensor, size: tuple[int, int], fit: str = "crop", aspect: float = 1) -> torch.Tensor:
    """Pictures (f, 3, h, w), whose pixels are `aspect` times as wide as high, at another size; `fit` as in `read_clip`.

    Black is 0. Nothing is resampled that has the size already.
    """
    h, w = pictures.shape[-2:]
    scale = FITS[fit](size[0] / h, size[1] / (w * aspect))
    inner = max(1, round(h * scale)), max(1, round(w * aspect * scale))
    if inner != (h, w):
        pictures = F.interpolate(pictures, inner, mode="bilinear", antialias=True, align_corners=False)
    top, left = (inner[0] - size[0]) // 2, (inner[1] - size[1]) // 2
    bottom, right = inner[0] - size[0] - top, inner[1] - size[1] - left
    return F.pad(pictures, (-left, -right, -top, -bottom))  # a negative pad cuts


def _decode(path: Path) -> Iterator:
    """Yields per frame a function that gives (picture, pixel aspect): what is passed over is not converted."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give the path of a video, a GIF or a folder of frames")
    if path.is_dir():
        yield from _decode_folder(path)
    elif path.stat().st_size == 0:
        raise InputError(f"{path} is empty: copy or download it again")
    else:
        yield from _decode_video(path)


def _decode_folder(folder: Path) -> Iterator:
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES]
    if not pictures:
        raise InputError(f"{folder} holds no frames: put pictures there ({', '.join(sorted(PICTURES))})")
    for picture in sorted(pictures, key=lambda p: (len(p.stem), p.stem)):  # 10.png comes after 9.png
        yield lambda picture=picture: (open_picture(picture), 1.0)


def open_picture(path: Path) -> torch.Tensor:
    """A picture, upright, as (3, h, w) in [0, 1]; InputError if it is none."""
    try:
        return _to_tensor(np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))
    except NO_PICTURE as error:
        raise InputError(f"{path} cannot be read as a picture: replace it or take it out of its folder") from error


def _decode_video(path: Path) -> Iterator:
    count, promised = 0, 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:  # a title may be in any encoding
            if not container.streams.video:
                raise InputError(f"{path} is no video, or not a whole one: give a video, a GIF or a folder of frames")
            stream = container.streams.video[0]
            stream.thread_type, promised = "AUTO", stream.frames
            for count, frame in enumerate(container.decode(stream), 1):  # noqa: B007
                yield lambda frame=frame: (_upright(frame), float(stream.sample_aspect_ratio or 1))
    except av.FFmpegError as error:
        what = f"breaks off after {count} frames" if count else "cannot be read as a video"
        raise InputError(f"{path} {what} ({error.strerror}): copy, download or convert it again") from error
    if count < promised:
        raise InputError(f"{path} breaks off after {count} of its {promised} frames: copy it again or use earlier ones")


def _upright(frame: av.VideoFrame) -> torch.Tensor:
    """The picture turned as its recorder asks players to: ffmpeg counts the angle counter-clockwise, as rot90 does."""
    return torch.rot90(_to_tensor(frame.to_ndarray(format="rgb24")), round(frame.rotation / 90), (1, 2))


def _too_short(path: Path, count: int, num_frames: int, start: int, stride: int) -> str:
    needed = start + (num_frames - 1) * stride + 1
    message = f"{path} has {count} frames, but {num_frames} frames from {start} on in steps of {stride} need {needed}"
    left = count - start
    if left <= 0:
        return f"{message}: set start below {count}"
    choices = [f"num_frames to at most {(left - 1) // stride + 1}"]
    if stride > 1 and left >= num_frames > 1:
        choices.append(f"stride to at most {(left - 1) // (num_frames - 1)}")
    if count >= needed - start:
        choices.append(f"start to at most {count - (needed - start)}")
    return f"{message}: set {' or '.join(choices)}"


def _to_tensor(picture: np.ndarray) -> torch.Tensor:
    return rearrange(torch.from_numpy(picture), "h w c -> c h w").float() / 255
