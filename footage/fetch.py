"""Downloads that resume and are checked, archives that are unpacked safely, and the two sets of clips fetched so."""

import hashlib
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from tav.errors import InputError, one_line

VIDEOS = Path("footage/videos")
STATE = Path(".state/footage")  # outside of what DVC hashes and deletes, so that an interrupted download is kept
DAMAGED = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)
TIMEOUT = 30  # seconds without a byte

# The released demo clips, and their sha256 as of commit 7d4a89a.
DEMO = "https://raw.githubusercontent.com/showlab/Tune-A-Video/main/data"
DEMO_CLIPS = {
    "car-turn": "c78fbefb136da43fc14982dbcd4e9cc7929001e37c913a74cec7643d1b290191",
    "man-skiing": "042e9c4d9360101846e0babbf408c426175c674ec163951fa527a37ee2660b2d",
    "man-surfing": "9d152d216fe31567d1601d050f76a391b25ec8e168340b864db1d65b4a07c58e",
    "rabbit-watermelon": "af04b48471b675e7ec765cf8b026749b5f82dcd4acdfaf4806db63f677214853",
}
# DAVIS publishes no checksum: this one is of TensorFlow Datasets (video/davis/checksums.tsv), for 832,766,765 bytes.
DAVIS = "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip"
DAVIS_SHA256 = "e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492"


def fetch_demo(mirror: str | None = None) -> None:
    """The four released demo clips in footage/videos/demo; those that are there and whole are kept.

    `mirror` is another folder or URL with the same files.
    """
    for name, sha256 in DEMO_CLIPS.items():
        fetch(f"{mirror or DEMO}/{name}.mp4", VIDEOS / "demo" / f"{name}.mp4", sha256)


def fetch_davis(mirror: str | None = None, sha256: str = DAVIS_SHA256) -> None:
    """The 90 clips of DAVIS 2017 (train and val, 480p) as folders of frames in footage/videos/davis.

    `mirror` is another URL of the archive, or the archive on this disk. A downloaded archive is deleted once it is
    unpacked. A folder that is there is whole, because it is renamed into its place.
    """
    folder = VIDEOS / "davis"
    if folder.is_dir():
        print(f"{folder} is there: delete it to fetch it again")
        return
    local = mirror is not None and Path(mirror).is_file()
    archive = Path(mirror) if local else STATE / "DAVIS-2017-trainval-480p.zip"
    fetch(mirror or DAVIS, archive, sha256)
    unpack(archive, folder, _davis_frame)
    if not local:
        archive.unlink()


def _davis_frame(member: PurePosixPath) -> PurePosixPath | None:
    """DAVIS/JPEGImages/480p/<clip>/<number>.jpg -> <clip>/<number>.jpg."""
    is_frame = member.match("DAVIS/JPEGImages/480p/*/*.jpg") and len(member.parts) == 5
    return PurePosixPath(*member.parts[3:]) if is_frame else None


def fetch(url: str, path: Path, sha256: str) -> None:
    """Downloads `url` (or copies it, if it is a path) to `path`, unless a file with that sha256 is there.

    What has arrived of an interrupted download is kept in .state/footage, and the next call goes on from there. Raises
    InputError, and leaves nothing at `path`, if there is no network, no such file, or if its sha256 is another.
    """
    if path.is_file() and _sha256(path) == sha256:
        return
    partial = STATE / f"{path.name}-{sha256[:16]}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if Path(url).is_file():
        shutil.copyfile(url, partial)
    else:
        _download(url, partial)
    if (found := _sha256(partial)) != sha256:
        partial.unlink()
        raise InputError(
            f"{url} has the sha256 {found[:16]}..., not {sha256[:16]}...: run this again; if it stays so, the file has "
            "changed there, and --from takes another URL or a copy that you have"
        )
    shutil.move(partial, path)  # the two may be on different disks


def _download(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    # identity: a compressed answer could not be resumed
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send: the checksum tells whether it is all
                return
            answer.raise_for_status()
            if answer.status_code != 206:  # a server that cannot resume sends everything
                have = 0
            length = answer.headers.get("Content-Length", "")
            total = have + int(length) if length.isdigit() else None
            bar = tqdm(desc=partial.name.rsplit("-", 1)[0], total=total, initial=have, unit="B", unit_scale=True,
                       disable=_quiet())  # fmt: skip
            with bar, partial.open("ab" if have else "wb") as file:
                for chunk in answer.iter_content(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
    except requests.HTTPError as error:
        raise InputError(
            f"{url} answers {error.response.status_code} {error.response.reason}: try later, or give another "
            "URL or a copy with --from"
        ) from error
    except (requests.RequestException, ValueError) as error:
        kept = partial.stat().st_size if partial.exists() else 0
        what = f"broke off after {kept:,} bytes, which are kept" if kept else "cannot be reached"
        raise InputError(
            f"{url} {what} ({_reason(error)}): check the network and run this again, or give a copy with --from"
        ) from error


def _reason(error: Exception) -> str:
    """The name of the innermost cause, which says more than the chain of addresses around it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}"[:120] if str(error) else type(error).__name__


def _quiet() -> bool | None:
    return bool(os.environ.get("TQDM_DISABLE")) or None  # None: tqdm shows a bar on a terminal only


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], PurePosixPath | None]) -> None:
    """Unpacks a zip archive to `folder`, which appears when all is there.

    `wanted` gives a member's place within the folder, or None. Links and names that lead out of the folder are refused
    with InputError; so is an archive that is damaged, locked or packed in another way than Python knows, holds nothing
    that is wanted, or needs more disk than is free.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an unpacking that was interrupted
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as zipped:
            files = [(wanted(_member(archive, info)), info) for info in zipped.infolist() if not info.is_dir()]
            files = [(partial / place, info) for place, info in files if place and place.name]  # "." names no file
            if not files:
                raise InputError(f"{archive} holds nothing that is looked for: is it the archive that is meant?")
            needed, free = sum(info.file_size for _, info in files), shutil.disk_usage(folder.parent).free
            if needed > free:
                raise InputError(
                    f"{archive} unpacks to {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of disk are free: make room"
                )
            for place, info in tqdm(files, f"unpack {archive.name}", disable=_quiet()):
                place.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(info) as source, place.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except DAMAGED as error:
        raise InputError(f"{archive} is damaged or no zip archive ({one_line(error)}): download it again") from error
    except RuntimeError as error:  # a password, or a method of packing that Python does not know
        raise InputError(f"{archive} cannot be unpacked ({one_line(error)}): pack it anew, with no password") from error
    partial.rename(folder)


def _member(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    leads_out = name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1])
    if leads_out or stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{archive} holds {info.filename}, which is a link or leads out of its folder: do not use it")
    return name
