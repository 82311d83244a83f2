"""The JSON schema of a recipe, for editors: every field with the docstring under it in its section.

pydantic could read those strings itself, but it would do so in every process, whenever the classes are created: 36 of
the 42 ms that importing schema.py took. Only one command needs them.
"""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from neuron_ops.recipe.schema import Recipe


def recipe_schema() -> dict[str, Any]:  # Any: JSON
    """JSON schema (draft 2020-12) of `Recipe`, with descriptions."""
    found = Recipe.model_json_schema()
    for section in _sections(Recipe):
        properties = (found if section is Recipe else found["$defs"][section.__name__])["properties"]
        for field, text in _documented(section):
            properties[field]["description"] = text
    return found


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model itself and every section within it."""
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _sections(field.annotation)


def _documented(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Field and docstring: a string that follows the field's declaration."""
    (made,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(made, ast.ClassDef)
    for declared, after in zip(made.body, made.body[1:], strict=False):
        if (
            isinstance(declared, ast.AnnAssign)
            and isinstance(declared.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            yield declared.target.id, inspect.cleandoc(after.value.value)
