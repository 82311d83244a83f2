"""What is wrong with a recipe, in the words of the YAML that people write.

Finding and reading a recipe belongs to `file`, the names of fields in other projects to `foreign_names`.
"""

import difflib
from functools import cache

import yaml
from pydantic import BaseModel, ValidationError

from neuron_ops.recipe.schema import Recipe

Location = tuple[int | str, ...]

EXPECTED = {"model_type": "should be a section", "tuple_type": "should be a list"}
"""By pydantic's kind of error, what it calls an object or an array: it speaks of JSON, people write YAML."""


def explain(error: ValidationError) -> str:
    """Every mistake, one a line."""
    return "\n".join(
        f"  {_explain_one(tuple(detail['loc']), detail['type'], detail['msg'], detail['input'])}"
        for detail in error.errors()
    )


def explain_yaml(error: Exception) -> str:
    """Where a text stops being YAML, and why; without the name of a text that was read already."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {yaml_problem(error)}"
    return yaml_problem(error)


def yaml_problem(error: Exception) -> str:
    """Why a text is not YAML, without where."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.reason} (U+{error.character:04X} at character {error.position + 1})"
    problem = getattr(error, "problem", None) or str(error)
    return " ".join(problem.split())


def kind_of(value: object) -> str:
    """What a file holds instead of a mapping."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return show(value)
    return {list: "a list", str: "text", int: "a number", float: "a number"}.get(type(value), "something else")


def show(value: object) -> str:
    """A value as a recipe would have it: null, true, or ['q_proj', null]."""
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of a sentence: the known word that is most like this one, or a full stop."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "."


def _explain_one(location: Location, kind: str, message: str, value: object) -> str:
    from neuron_ops.recipe.foreign_names import renamed_value  # 2 CPU ms, for a recipe that is wrong

    where = ".".join(str(part) for part in location) or "recipe"
    if kind == "extra_forbidden":
        return f"{where}: {_unknown(location, value)}"
    if kind == "missing":
        return f"{where}: this field is required."
    reason = EXPECTED.get(kind) or message.removeprefix("Value error, ").removeprefix("Input ")
    renamed = renamed_value(where, value)
    called = f"; it is called {renamed!r}." if renamed else ""
    return f"{where}: {reason}" + ("" if isinstance(value, dict) else f" (got {show(value)})") + called


def _unknown(location: Location, value: object) -> str:
    from neuron_ops.recipe.foreign_names import where_it_is  # as above

    name, known = str(location[-1]), _fields_at(location[:-1])
    first, *beneath = name.split(".")
    if beneath and first in known:
        nested = "".join(f" with '{part}:' beneath it," for part in beneath).rstrip(",")
        return f"a file nests its sections; write '{first}:'{nested}."
    if (elsewhere := where_it_is(name, value)) is not None:
        return f"unknown field; {elsewhere}."
    return f"unknown field{did_you_mean(name, known)} Known here: {', '.join(known)}."


@cache
def _fields_at(location: Location) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
