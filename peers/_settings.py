"""The types of the methods' own settings, as their signatures name them: what `pydantic` allows."""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Layer = Annotated[int, Field(ge=0)]
Model = Annotated[str, Field(min_length=1)]
