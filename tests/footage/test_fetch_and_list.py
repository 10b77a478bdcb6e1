"""Footage from the network and the user's own: downloads, archives, lists, and the stages that fetch."""

import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import av
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from footage import fetch
from footage.__main__ import main
from footage.lists import clip_name, list_clips
from measures.clips import LONGEST_NAME, ClipEntry
from tav.clip import read_clip, write_clip, write_frames
from tav.errors import InputError
from tests import tiny

ROOT = Path(__file__).parents[2]
DATA = np.random.default_rng(0).bytes(600_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; `cut` breaks an answer off after so many bytes, `ranges` says whether it resumes."""

    files, cut, ranges, asked = {}, None, True, []

    def do_GET(self):
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.asked.append((name, wanted))
        if name not in self.files:
            return self.send_error(404)
        data, start = self.files[name], 0
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name, value in {"files": {}, "cut": None, "ranges": True, "asked": []}.items():
        monkeypatch.setattr(Server, name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        Server.url = f"http://127.0.0.1:{running.server_port}"
        yield Server
        running.shutdown()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command sets its own


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 0, 0)).save(buffer, "jpeg")
    return buffer.getvalue()


def refusal(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    words = capsys.readouterr().err
    assert words.startswith("error: ") and words.count("\n") == 1
    return words


def test_a_file_is_fetched_once_and_checked(server):
    server.files["a.mp4"] = DATA
    for _ in range(2):
        fetch.fetch(f"{server.url}/a.mp4", Path("clips/a.mp4"), sha256(DATA))
    assert Path("clips/a.mp4").read_bytes() == DATA
    assert server.asked == [("a.mp4", None)]
    assert not list(Path(".state").rglob("*.partial"))


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_was_cut_goes_on_where_it_broke_off(server, resumes):
    server.files["a.mp4"], server.cut, server.ranges = DATA, 400_000, resumes
    with pytest.raises(InputError, match="broke off after .* bytes, which are kept .*: check the network and run"):
        fetch.fetch(f"{server.url}/a.mp4", Path("a.mp4"), sha256(DATA))
    assert not Path("a.mp4").exists()
    (partial,) = Path(".state").rglob("*.partial")
    kept = partial.stat().st_size
    assert 0 < kept <= 400_000
    server.cut = None
    fetch.fetch(f"{server.url}/a.mp4", Path("a.mp4"), sha256(DATA))
    assert server.asked[-1] == ("a.mp4", f"bytes={kept}-")
    assert Path("a.mp4").read_bytes() == DATA


def test_a_download_that_had_just_arrived_asks_for_nothing_more(server):
    server.files["a.mp4"] = DATA
    partial = Path(f".state/footage/a.mp4-{sha256(DATA)[:16]}.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA)
    fetch.fetch(f"{server.url}/a.mp4", Path("a.mp4"), sha256(DATA))
    assert Path("a.mp4").read_bytes() == DATA


def test_another_checksum_is_refused_and_leaves_nothing(server):
    server.files["a.mp4"] = DATA
    with pytest.raises(InputError, match="has the sha256 .*: run this again") as caught:
        fetch.fetch(f"{server.url}/a.mp4", Path("a.mp4"), sha256(b"other"))
    assert "\n" not in str(caught.value)
    assert not Path("a.mp4").exists() and not list(Path(".state").rglob("*.partial"))


def test_a_missing_file_and_a_missing_server_give_one_line(server, capsys):
    assert "answers 404 Not Found: try later" in refusal(capsys, "demo", "--from", server.url)
    assert "cannot be reached (ConnectionRefusedError" in refusal(capsys, "demo", "--from", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(capsys, "demo", "--from", "no/such/folder")


def test_the_demo_clips_are_those_of_the_released_repository(server, monkeypatch):
    assert list(fetch.DEMO_CLIPS) == ["car-turn", "man-skiing", "man-surfing", "rabbit-watermelon"]
    monkeypatch.setattr(fetch, "DEMO_CLIPS", {"a": sha256(DATA), "b": sha256(b"b")})
    server.files |= {"a.mp4": DATA, "b.mp4": b"b"}
    assert main(["demo", "--from", server.url]) == 0
    assert Path("footage/videos/demo/a.mp4").read_bytes() == DATA
    assert Path("footage/videos/demo/b.mp4").read_bytes() == b"b"
    Path("footage/videos/demo/b.mp4").write_bytes(b"damaged")
    server.asked.clear()
    assert main(["demo", "--from", server.url]) == 0
    assert server.asked == [("b.mp4", None)]


def davis_archive() -> bytes:
    frames = {f"DAVIS/JPEGImages/480p/{clip}/{i:05}.jpg": picture(40 * i) for clip in ("bear", "bus") for i in range(3)}
    others = {"DAVIS/Annotations/480p/bear/00000.png": b"", "DAVIS/README.md": b"", "DAVIS/JPEGImages/480p/bear/": b""}
    return zipped(frames | others | {"__MACOSX/DAVIS/JPEGImages/480p/bear/00000.jpg": b""})


def test_davis_becomes_one_folder_of_frames_per_clip(server):
    archive = server.files["davis.zip"] = davis_archive()
    fetch.fetch_davis(f"{server.url}/davis.zip", sha256(archive))
    files = sorted(str(path.relative_to("footage/videos")) for path in Path("footage/videos").rglob("*.*"))
    assert files == [f"davis/{clip}/{i:05}.jpg" for clip in ("bear", "bus") for i in range(3)]
    assert read_clip("footage/videos/davis/bus", 3, 16).shape == (3, 3, 16, 16)
    assert not list(Path(".state").rglob("*.zip"))
    server.files.clear()
    fetch.fetch_davis(f"{server.url}/davis.zip", sha256(archive))  # is there: nothing is asked for


def test_a_davis_archive_that_is_here_is_used_and_kept():
    Path("mine.zip").write_bytes(davis_archive())
    fetch.fetch_davis("mine.zip", sha256(davis_archive()))
    assert Path("footage/videos/davis/bear/00002.jpg").exists() and Path("mine.zip").exists()


def keep(member: PurePosixPath) -> PurePosixPath:
    return member


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "/tmp/a.jpg", "..\\a.jpg", "C:/a.jpg"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    Path("a.zip").write_bytes(zipped({"fine.jpg": b"", name: b"evil"}))
    with pytest.raises(InputError, match="leads out of its folder"):
        fetch.unpack(Path("a.zip"), Path("deep/folder"), keep)
    assert not list(Path("deep").rglob("*.jpg")) and not list(Path().glob("*.jpg"))


def test_a_link_in_an_archive_is_refused():
    link = zipfile.ZipInfo("frames")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(InputError, match="which is a link"):
        fetch.unpack(Path("a.zip"), Path("folder"), keep)


@pytest.mark.parametrize(
    "place, change, words",
    [
        (6, 1, "cannot be unpacked .*password.*: pack it anew, with no password"),  # the flag of an encrypted file
        (8, 99, "cannot be unpacked .*method is not supported"),
        (8, zipfile.ZIP_LZMA, "is damaged or no zip archive"),
        (8, zipfile.ZIP_DEFLATED, "is damaged or no zip archive"),
    ],
)
def test_an_archive_with_a_password_or_of_another_method_is_refused_in_one_line(place, change, words):
    packed = bytearray(zipped({"a/0.jpg": DATA}))
    packed[place] = packed[packed.index(b"PK\1\2") + place + 2] = change
    Path("a.zip").write_bytes(packed)
    with pytest.raises(InputError, match=words):
        fetch.unpack(Path("a.zip"), Path("folder"), keep)
    assert not Path("folder").exists()


def test_entries_that_name_no_file_are_passed_over():
    Path("a.zip").write_bytes(zipped({".": b"", "a/./0.jpg": DATA}))
    fetch.unpack(Path("a.zip"), Path("folder"), keep)
    assert [path.name for path in Path("folder").rglob("*.*")] == ["0.jpg"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_archive_is_refused_and_its_folder_does_not_appear(damage):
    whole = zipped({"a/0.jpg": DATA})
    broken = {
        "cut": whole[:300_000],
        "flipped": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        "text": b"<html>quota exceeded</html>",
        "empty": zipped({}),
    }
    Path("a.zip").write_bytes(broken[damage])
    with pytest.raises(InputError, match="damaged or no zip archive|holds nothing"):
        fetch.unpack(Path("a.zip"), Path("folder"), keep)
    assert not Path("folder").exists()
    Path("a.zip").write_bytes(whole)
    fetch.unpack(Path("a.zip"), Path("folder"), keep)  # what was left behind is no hindrance
    assert Path("folder/a/0.jpg").read_bytes() == DATA


def test_the_davis_list_has_42_clips_and_140_different_prompts():
    text = (ROOT / "footage/davis.yaml").read_text()
    assert "not its list" in text.splitlines()[0]
    clips = YAML(typ="safe").load(text)["clips"]
    entries = [ClipEntry.model_validate(entry) for entry in clips.values()]
    prompts = [prompt for entry in entries for prompt in entry.edits.values()]
    assert (len(entries), len(prompts), len(set(prompts))) == (42, 140, 140)
    for name, entry in zip(clips, entries, strict=True):
        assert entry.source.path == f"footage/videos/davis/{name}"
        assert list(entry.edits)[:3] == ["object", "background", "style"]
        assert entry.caption not in entry.edits.values()


@pytest.fixture
def own():
    """A folder with an mp4, a GIF, a webm and a folder of frames, each the same moving square of 10 frames."""
    frames = (tiny.moving_square(10) + 1) / 2
    folder = Path("own")
    write_frames(folder / "My Frames", frames)
    write_clip(folder / "my_clip.mp4", frames)
    pictures = [Image.fromarray((frame.permute(1, 2, 0) * 255).byte().numpy()) for frame in frames]
    pictures[0].save(folder / "my clip.gif", save_all=True, append_images=pictures[1:], duration=125)
    with av.open(str(folder / "Web.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=8)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    (folder / "notes.txt").write_text("no clip")
    return folder


def test_every_kind_of_clip_is_listed_and_read(own):
    clips = list_clips([own], num_frames=4)
    assert list(clips) == ["my-frames", "web", "my-clip", "my-clip-2"]
    for clip in clips.values():
        entry = ClipEntry.model_validate(clip)
        assert entry.source.stride == 3  # frames 0, 3, 6, 9 of 10
        assert read_clip(entry.source.path, 4, 32, 0, entry.source.stride).shape == (4, 3, 32, 32)
    assert clips["my-clip"]["caption"] == "my clip"


def test_the_command_writes_a_list_that_stands_in_params_yaml_and_keeps_one_that_is_there(own, capsys):
    assert main(["list", str(own / "my_clip.mp4"), str(own), "--frames", "4", "--out", "lists/own.yaml"]) == 0
    clips = YAML(typ="safe").load(Path("lists/own.yaml"))["clips"]
    assert list(clips) == ["my-clip", "my-frames", "web", "my-clip-2", "my-clip-3"]
    assert Path("lists/own.yaml").read_text().startswith("# Set benchmark.clips to this file")
    assert "is there, and may hold edits" in refusal(capsys, "list", str(own), "--out", "lists/own.yaml")


def test_what_cannot_be_listed_is_said_in_one_line(own, capsys):
    Path("broken.mp4").write_bytes(b"no video")
    Path("empty").mkdir()
    assert "own/My Frames has 10 frames" in refusal(capsys, "list", str(own))
    assert "cannot be read as a video" in refusal(capsys, "list", "broken.mp4")
    assert "empty is no clip and holds none" in refusal(capsys, "list", "empty")
    assert "nowhere is no clip and holds none" in refusal(capsys, "list", "nowhere")
    assert "--frames is 0" in refusal(capsys, "list", str(own), "--frames", "0")
    assert "`python -m footage --help`" in refusal(capsys, "listen")


def test_a_name_made_of_a_files_name_has_the_letters_of_a_folder():
    assert clip_name("../My Clip (1)") == "my-clip-1"
    assert clip_name("猫") == "clip"
    assert clip_name("a", {"a", "a-2"}) == "a-3"
    assert len(clip_name(300 * "a", {clip_name(300 * "a")})) <= LONGEST_NAME


def test_dvc_fetches_the_clips_that_a_stage_depends_on_and_no_others(server, monkeypatch):
    """With the repository's own footage/dvc.yaml, whose command is given a server on this machine."""
    shutil.copytree(ROOT / "footage", "footage", ignore=shutil.ignore_patterns("__pycache__", "videos"))
    Path("tav").mkdir()
    Path("tav/__init__.py").touch()  # fetching takes no more of it than this
    shutil.copy(ROOT / "tav/errors.py", "tav")
    fetching = Path("footage/fetch.py")
    text = fetching.read_text().replace(fetch.DEMO_CLIPS["car-turn"], sha256(DATA))
    for name in ("man-skiing", "man-surfing", "rabbit-watermelon"):
        text = text.replace(fetch.DEMO_CLIPS[name], sha256(b"b"))
    fetching.write_text(text.replace(fetch.DEMO, server.url))
    server.files |= {f"{name}.mp4": b"b" for name in fetch.DEMO_CLIPS} | {"car-turn.mp4": DATA}
    stage = {"cmd": "wc -c footage/videos/demo/car-turn.mp4 > size", "outs": ["size"]}
    YAML().dump({"stages": {"size": stage | {"deps": ["footage/videos/demo/car-turn.mp4"]}}}, Path("dvc.yaml"))
    python = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{python}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", "")

    def repro() -> subprocess.CompletedProcess:
        return subprocess.run(["dvc", "repro"], capture_output=True, text=True)

    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    server.cut = 300_000
    failed = repro()
    assert failed.returncode and failed.stderr.count("error: ") == 1 and "which are kept" in failed.stderr
    server.cut = None
    assert repro().returncode == 0
    assert server.asked[1][1].startswith("bytes=")
    assert Path("size").read_text().split()[0] == str(len(DATA))
    assert not Path("footage/videos/davis").exists()
    assert "up to date" in repro().stdout
    listed = subprocess.run(["git", "status", "--short", "-uall", "footage"], capture_output=True, text=True).stdout
    assert "videos" not in listed
