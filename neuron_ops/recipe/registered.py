"""A recipe field whose value is a name from one of the lists in `neuron_ops.registry`.

What a registered module must hold belongs to its package. Checking a recipe imports none of them; building the JSON
schema imports all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from neuron_ops.registry import load


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """Write `format: Annotated[str, Registered(ROW_FORMATS)]`; an error and the JSON schema then list the names.

    A Literal would be a second list of the same names.
    """

    names: Mapping[str, str]
    described_by: str | None = None
    """Attribute of each registered module whose `describe()` tells editors what the name stands for."""

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = {"enumDescriptions": list(self._descriptions())} if self.described_by else {}
        return {**handler(schema), "enum": list(self.names), **described}

    def _descriptions(self) -> Iterator[str]:
        for name in self.names:
            yield getattr(load(self.names, name, "name"), str(self.described_by)).describe()

    def _check(self, name: str) -> str:
        if name not in self.names:
            raise PydanticCustomError("registered", "should be {names}", {"names": _one_of(list(self.names))})
        return name


def _one_of(names: list[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last
