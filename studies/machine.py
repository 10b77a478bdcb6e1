"""What this machine has for a command: its device, its cores, and whether somebody watches."""

import os

import torch

from studies.settings import Params
from tav.errors import InputError

GPUS = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}


def chosen_device(params: Params) -> str:
    """The device that params.yaml asks for, a GPU of NVIDIA or Apple or the CPU; InputError if it is not there."""
    there = [gpu for gpu, can_be_used in GPUS.items() if can_be_used()]
    if params.device in GPUS and params.device not in there:
        raise InputError(f"device is {params.device}, but no GPU can be used: set device to auto or cpu in params.yaml")
    return [*there, "cpu"][0] if params.device == "auto" else params.device


def process_count(params: Params) -> int:
    """How many processes make pieces at once: one on a GPU, else as many as params.yaml says."""
    if chosen_device(params) != "cpu":
        return 1
    return cores() if params.processes == "auto" else params.processes


def cores() -> int:
    """The cores that this process may use; all of them where the system does not say, as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bars() -> dict:
    """What tqdm takes: bars on a terminal only, none where the environment asks for it, in the row that it names.

    tqdm itself reads the environment once, when it is imported, which may be before a fork gets its own.
    """
    row = os.environ.get("TQDM_POSITION")
    return {"disable": bool(os.environ.get("TQDM_DISABLE")) or None, "position": int(row) if row else None}
