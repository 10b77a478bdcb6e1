"""Clips as lists of them hold them, params.yaml or another: where one is, what it shows, what it is to become."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern="^[a-z0-9-]+$")]  # a name becomes a folder and a word of a command


class Section(BaseModel):
    """A mapping of a YAML file: no other keys, no silent conversions (3 will do for 3.0), no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Section):
    """Where a clip's frames are: start, start + stride, ... of a video or a folder of frames."""

    path: Text
    start: Annotated[int, Field(ge=0)]
    stride: Count


class ClipEntry(Section):
    """One clip: where it is, what it shows, and what it is to become (name -> edit prompt)."""

    source: Source
    caption: Text
    edits: Annotated[dict[Name, Text], Field(min_length=1)]
