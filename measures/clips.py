"""Clips as lists of them hold them, params.yaml or another: where one is, what it shows, what it is to become."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

OF_A_CLIP = (
    "source",
    "reconstruction",
    "caption",
)  # what a clip's edits and variants are shown beside, under these names
LONGEST_NAME = 100  # so that folders and files that bear several names stay within the 255 bytes of a file system


def _name(name: str) -> str:
    """A name becomes a folder, and must not look like an option of a command."""
    if not re.fullmatch("[a-z0-9-]+", name):
        raise ValueError("names are made of a-z, 0-9 and -")
    if name.startswith("-") or len(name) > LONGEST_NAME:
        raise ValueError(f"names begin with a-z or 0-9, and have at most {LONGEST_NAME} characters")
    return name


def _beside_a_clip(name: str) -> str:
    if name in OF_A_CLIP:
        raise ValueError(f"the clip's own {name} is shown under it")
    return name


def place(path: str) -> str:
    """What may be a path has to be one that can be asked for."""
    longest = max(len(part.encode()) for part in path.split("/"))
    if "\0" in path or longest > 255 or len(path.encode()) > 1000:
        raise ValueError("a path or id of at most 1,000 characters, with at most 255 between two /")
    return path


Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Place = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(place)]  # a path or an id; "" is none
Needed = Annotated[Place, Field(min_length=1)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Name = Annotated[str, AfterValidator(_name)]
Shown = Annotated[Name, AfterValidator(_beside_a_clip)]  # of what is shown beside its clip


class Section(BaseModel):
    """A mapping of a YAML file: no other keys, no silent conversions (3 will do for 3.0), no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Section):
    """Where a clip's frames are: start, start + stride, ... of a video or a folder of frames."""

    path: Needed
    start: Whole
    stride: Count


class ClipEntry(Section):
    """One clip: where it is, what it shows, and what it is to become (name -> edit prompt)."""

    source: Source
    caption: Text
    edits: Annotated[dict[Shown, Text], Field(min_length=1)]

    @property
    def first_edit(self) -> str:
        """The prompt that previews of tuning show, and that stopping by measure watches."""
        return next(iter(self.edits.values()))
