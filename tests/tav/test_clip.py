"""Clips in and out: which frames are read, that no shape is distorted, and what is said of unreadable files."""

import re
import struct

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from tav.clip import frame_size, read_clip, read_frames, write_clip, write_frames
from tav.errors import InputError, NumericalError


def grey_steps(frames=10, h=32, w=48):
    """Frame i is of one grey, i / 10, so that a frame can be told after any compression."""
    return torch.arange(frames)[:, None, None, None].div(10).expand(frames, 3, h, w)


def disc(h, w, radius=10):
    """One frame with a white disc in the middle."""
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    return ((y**2 + x**2).sqrt() < radius).float().expand(1, 3, h, w)


def steps(clip):
    """Which frames of `grey_steps` these are."""
    return ((clip.mean((1, 2, 3)) + 1) * 5).round().int().tolist()


def extent(clip):
    """Height and width, in pixels, of what is bright in the first frame."""
    bright = clip[0, 0] > 0
    return bright.any(1).sum().item(), bright.any(0).sum().item()


def write_video(path, codec, frames, aspect=None, pix_fmt="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[-2:], pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for frame in (frames * 255).byte().permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def video(tmp_path):
    write_clip(tmp_path / "steps.mp4", grey_steps())
    return tmp_path / "steps.mp4"


def refusal(*args, **settings):
    with pytest.raises(InputError) as caught:
        read_clip(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_clip_is_frames_of_the_size_asked_for_between_minus_one_and_one(video):
    clip = read_clip(video, num_frames=4, size=(16, 24))
    assert clip.shape == (4, 3, 16, 24) and clip.dtype == torch.float32
    assert read_clip(video, num_frames=4, size=16).shape == (4, 3, 16, 16)
    assert -1 <= clip.min() < -0.95 and clip.max() <= 1


def test_start_and_stride_choose_the_frames(video):
    assert steps(read_clip(video, num_frames=4, size=16)) == [0, 1, 2, 3]
    assert steps(read_clip(video, num_frames=3, size=16, start=2, stride=3)) == [2, 5, 8]


@pytest.mark.parametrize("name, codec, pix_fmt", [("a.webm", "libvpx-vp9", "yuv420p"), ("a.gif", "gif", "rgb8")])
def test_other_kinds_of_video_are_read_alike(tmp_path, name, codec, pix_fmt):
    if codec == "gif":
        pictures = [Image.fromarray((f * 255).byte().permute(1, 2, 0).numpy()) for f in grey_steps()]
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    else:
        write_video(tmp_path / name, codec, grey_steps(), pix_fmt=pix_fmt)
    assert steps(read_clip(tmp_path / name, num_frames=4, size=16, stride=2)) == [0, 2, 4, 6]


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path):
    for index, picture in enumerate((grey_steps() * 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(tmp_path / f"frame{index + 5}.png")  # 5 ... 14
    (tmp_path / "notes.txt").write_text("no frame")
    assert steps(read_clip(tmp_path, num_frames=10, size=16)) == list(range(10))


def test_nothing_is_decoded_after_the_last_frame_that_is_needed(tmp_path):
    write_frames(tmp_path, grey_steps(4))
    (tmp_path / "00003.png").write_bytes(b"broken")
    assert len(read_clip(tmp_path, num_frames=3, size=16)) == 3
    assert "00003.png cannot be read as a picture" in refusal(tmp_path, num_frames=4, size=16)


@pytest.mark.parametrize("fit, scale", [("crop", 1.0), ("letterbox", 0.5)])
@pytest.mark.parametrize("h, w", [(32, 64), (64, 32)])
def test_neither_crop_nor_letterbox_turns_a_disc_into_an_ellipse(tmp_path, fit, scale, h, w):
    write_frames(tmp_path, disc(h, w))
    clip = read_clip(tmp_path, num_frames=1, size=32, fit=fit)
    height, width = extent(clip)
    assert height == width == pytest.approx(20 * scale, abs=1)


def test_a_letterbox_has_black_bars_and_keeps_everything(tmp_path):
    write_frames(tmp_path, torch.ones(1, 3, 32, 64))
    clip = read_clip(tmp_path, num_frames=1, size=32, fit="letterbox")
    assert clip[0, :, :8].max() == clip[0, :, -8:].max() == -1
    assert clip[0, :, 8:-8].min() == 1
    assert "fit is 'stretch': choose one of crop, letterbox" == refusal(tmp_path, fit="stretch")


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path):
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    write_frames(tmp_path, stripes)
    assert read_clip(tmp_path, num_frames=1, size=16).abs().max() < 0.1


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    write_video(tmp_path / "wide.mp4", "libx264", disc(64, 64), aspect=2)
    height, width = extent(read_clip(tmp_path / "wide.mp4", num_frames=1, size=(64, 128)))
    assert width == pytest.approx(2 * height, abs=2)


def test_a_clip_that_was_filmed_upright_stands_upright(tmp_path):
    lying = torch.zeros(1, 3, 32, 64)
    lying[:, :, :, 48:] = 1  # bright on the right
    write_clip(tmp_path / "lying.mp4", lying)
    data = (tmp_path / "lying.mp4").read_bytes()
    straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)  # as phones write it
    assert data.count(straight) == 2  # of the movie and of its track, the second of which counts
    (tmp_path / "upright.mp4").write_bytes(clockwise.join(data.rsplit(straight, 1)))
    clip = read_clip(tmp_path / "upright.mp4", num_frames=1, size=(64, 32))
    assert frame_size(tmp_path / "upright.mp4") == (64, 32)
    assert clip[0, :, 52:].min() > 0.9 and clip[0, :, :44].max() < -0.9  # bright at the bottom


def test_too_few_frames_are_counted_and_what_would_fit_is_said(video):
    assert refusal(video, num_frames=12, size=16) == (
        f"{video} has 10 frames, but 12 frames from 0 on in steps of 1 need 12: set num_frames to at most 10"
    )
    words = refusal(video, num_frames=4, size=16, start=2, stride=3)
    assert words.endswith("set num_frames to at most 3 or stride to at most 2 or start to at most 0")
    for settings in ({"num_frames": 3, "start": 2, "stride": 3}, {"num_frames": 4, "start": 2, "stride": 2}):
        assert len(read_clip(video, size=16, **settings)) == settings["num_frames"]
    assert len(read_clip(video, num_frames=4, size=16, start=0, stride=3)) == 4
    assert refusal(video, num_frames=4, size=16, start=10).endswith("set start below 10")


def test_files_that_are_no_whole_video_are_refused_in_one_line(tmp_path, video):
    whole, bad = video.read_bytes(), tmp_path / "bad.mp4"
    assert refusal(tmp_path / "none.mp4").startswith(f"{tmp_path}/none.mp4 does not exist: give the path of")
    bad.write_bytes(b"")
    assert refusal(bad) == f"{bad} is empty: copy or download it again"
    for data in (b"a text " * 99, whole[:200], whole[: len(whole) // 2]):
        bad.write_bytes(data)
        assert re.search("cannot be read as a video .* convert it again|is no video, or not a whole one", refusal(bad))
    bad.write_bytes(whole[:-30])
    assert "breaks off after" in refusal(bad, num_frames=10, size=16)
    (tmp_path / "empty").mkdir()
    assert "holds no frames: put pictures there" in refusal(tmp_path / "empty")


def test_a_video_whose_title_is_not_utf_8_is_read(tmp_path, video):
    with av.open(str(video)) as untitled, av.open(str(tmp_path / "a.mp4"), "w") as titled:
        stream = titled.add_stream_from_template(untitled.streams.video[0])
        titled.metadata["title"] = "cafe"
        for packet in untitled.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                titled.mux(packet)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes().replace(b"cafe", "café".encode("latin-1")))
    assert torch.equal(read_clip(tmp_path / "a.mp4", num_frames=4), read_clip(video, num_frames=4))


def test_pictures_that_are_broken_in_any_way_are_refused_in_one_line(tmp_path):
    picture, bad = Image.new("RGB", (24, 24)), tmp_path / "00000.png"
    picture.save(bad)
    whole = bad.read_bytes()
    huge = struct.pack(">II", 1 << 16, 1 << 16)  # a decompression bomb
    short = struct.pack(">I", 4) + b"IHDR" + bytes(8)
    for data in (whole[:50], whole[:16] + huge + whole[24:], whole[:8] + short, b"no picture"):
        bad.write_bytes(data)
        assert refusal(tmp_path, num_frames=1).startswith(f"{bad} cannot be read as a picture")
    bad.unlink()
    orientation = Image.Exif()
    orientation[274] = 6
    picture.save(tmp_path / "00000.webp", exif=orientation)
    data = (tmp_path / "00000.webp").read_bytes()
    (tmp_path / "00000.webp").write_bytes(data.replace(b"MM\0*", b"MM?*"))  # of its orientation
    assert "00000.webp cannot be read as a picture" in refusal(tmp_path, num_frames=1)


def test_a_sound_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "is no video" in refusal(tmp_path / "sound.wav")


def test_frames_come_back_as_they_were_written_to_eight_bits(tmp_path):
    frames = torch.rand(3, 3, 8, 10)
    write_frames(tmp_path / "frames", frames)
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert (read_frames(tmp_path / "frames") - frames).abs().max() <= 0.5 / 255 + 1e-6


def test_frames_that_are_not_finite_are_refused_before_any_is_written(tmp_path):
    frames = torch.rand(3, 3, 8, 8)
    for value in (float("nan"), float("inf")):
        frames[2, 0, 0, 0] = value
        with pytest.raises(NumericalError, match="a clip left the finite numbers"):
            write_frames(tmp_path / "frames", frames)
    assert not (tmp_path / "frames").exists()


def test_a_written_clip_plays_in_browsers_and_has_the_same_bytes_each_time(tmp_path):
    coarse = torch.rand(3, 3, 11, 13, generator=torch.Generator().manual_seed(0))
    clip, written = interpolate(coarse, (193, 191), mode="bilinear"), set()
    for _ in range(12):
        write_clip(tmp_path / "a.mp4", clip, fps=7.5)
        written.add((tmp_path / "a.mp4").read_bytes())
    (data,) = written
    assert data.index(b"moov") < data.index(b"mdat")  # it starts before it has arrived
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 3)
        assert (stream.height, stream.width, float(stream.average_rate)) == (194, 192, 7.5)


def test_frames_of_an_earlier_longer_clip_are_not_read_again(tmp_path):
    write_frames(tmp_path, torch.zeros(5, 3, 8, 8))
    write_frames(tmp_path, torch.ones(3, 3, 8, 8))
    assert torch.equal(read_frames(tmp_path), torch.ones(3, 3, 8, 8))
