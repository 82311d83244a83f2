"""What every section of a recipe is made of; the sections themselves belong to `schema` and `graph`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Frozen, strict, closed: what every section shares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
