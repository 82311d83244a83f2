"""The JSON schema of a recipe, for editors: every field with the string that stands under it in schema.py.

pydantic could read those strings itself, but does so whenever the classes are made: 36 of the 42 ms that importing
schema.py took, in every process, for one command that needs them.
"""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from neuron_ops.recipe import schema


def recipe_schema() -> dict[str, Any]:  # Any: JSON
    """JSON schema (draft 2020-12) of `Recipe`, with descriptions."""
    found = schema.Recipe.model_json_schema()
    for section, field, text in _documented():
        properties = (found if section == found["title"] else found["$defs"].get(section, {})).get("properties", {})
        if field in properties:
            properties[field]["description"] = text
    return found


def _documented() -> Iterator[tuple[str, str, str]]:
    """Class, field and docstring: a string that follows the field's declaration."""
    for made in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(made, ast.ClassDef):
            continue
        for declared, after in zip(made.body, made.body[1:], strict=False):
            if (
                isinstance(declared, ast.AnnAssign)
                and isinstance(declared.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                yield made.name, declared.target.id, inspect.cleandoc(after.value.value)
