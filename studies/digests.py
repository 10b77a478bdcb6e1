"""What a run is made from, by digest: files, folders, and models that are folders or come from the Hub."""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

PIPELINE = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")  # the parts that we load


def digest_of_files(path: str | Path) -> str:
    """The digest of a file, or of the names and contents of all files of a folder; "" where there is nothing."""
    path = Path(path)
    if path.is_file():
        return _of_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return _joined([f"{file.relative_to(path).as_posix()} {_of_file(file)}" for file in files]) if files else ""


def digest_of_model(model: str) -> str:
    """The digest of a model that is a file or a folder, or the revision of one of the Hub.

    Of a folder with a whole pipeline only that pipeline counts: other models may lie in it. "" stays "".
    """
    folder = Path(model)
    if not model or not folder.exists():
        return _revision(model)
    if (folder / PIPELINE[0]).is_file():
        return _joined([f"{part} {digest_of_files(folder / part)}" for part in PIPELINE])
    return digest_of_files(folder)


def digest_of_truth(path: str) -> str:
    """The digest of the truth that lies beside a clip's file, in two files; "" where there is none."""
    digests = [digest_of_files(Path(path).with_suffix(end)) for end in (".json", ".masks.png")]
    return "".join(digests) if all(digests) else ""


def _joined(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _of_file(path: Path) -> str:
    seen = path.stat()
    return _of_seen(os.path.abspath(path), seen.st_size, seen.st_mtime_ns)


@cache
def _of_seen(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


@cache
def _revision(model: str) -> str:
    """The commit that a Hub id's files here are of, or else would be fetched at; its name where nobody can tell."""
    if model.count("/") != 1:
        return model
    from huggingface_hub import constants, errors, hf_hub_download

    from tav import hub  # which imports that

    known = Path(constants.HF_HUB_CACHE, f"models--{model.replace('/', '--')}", "refs/main")
    for file in ("model_index.json", "config.json"):  # of a pipeline, of another model
        if known.is_file():
            return known.read_text().strip()
        hub.unreachable()
        with suppress(OSError, errors.HFValidationError):  # loading it will say what is wrong
            hf_hub_download(model, file)
    return known.read_text().strip() if known.is_file() else model
