"""A field of a recipe whose values are the names in a registry. What the names stand for belongs to their room."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class NameIn:
    """`Annotated[str, NameIn(BACKENDS)]`: asked whenever a recipe is read, so what is registered later counts too."""

    registry: Mapping[str, str]

    def check(self, name: str) -> str:
        """The name, if it is registered.

        Raises:
            ValueError: it is not; the names that are stand in it.
        """
        if name not in self.registry:
            *others, last = map(repr, self.registry)
            raise ValueError(f"should be {' or '.join(filter(None, (', '.join(others), last)))}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # Any: a type
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.registry)}
