"""Recipes as strict YAML (or JSON) files: finding, reading and overriding.

A misspelled key is an error that suggests the right name; it never falls back to a default. The values that a field may
hold belong to `schema`, the words about a wrong recipe to `mistakes`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.mistakes import did_you_mean, explain, explain_yaml, kind_of, yaml_problem
from neuron_ops.recipe.schema import Recipe

RECIPES = Path(__file__).parent / "shipped"


def load_recipe(name_or_path: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe by its shipped name or its file, then apply `{"training.learning_rate": 1e-4}`-like overrides.

    `name_or_path` may also be the recipe itself: JSON, or YAML of several lines, as in a ConfigMap.

    Raises:
        InvalidInput: no such recipe, not YAML, an unknown or missing field, a value out of range.
    """
    is_json = name_or_path.startswith("{")  # a pod has no file from its launcher
    is_text = is_json or "\n" in name_or_path
    path = Path("given as text") if is_text else _find(name_or_path)
    data = _parse(name_or_path, path, ".json" if is_json else ".yaml") if is_text else _read_file(path)
    for dotted, value in (overrides or {}).items():
        _override(data, dotted, value)
    # On JSON, pydantic's strict mode still takes lists for tuples and 1 for 1.0, and converts nothing else.
    try:
        return Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise InvalidInput(f"Recipe {path}:\n{explain(error)}") from None
    except (TypeError, ValueError) as error:  # from json.dumps: a YAML tag or alias made a value that JSON lacks
        raise InvalidInput(f"Recipe {path}: {error}. Use plain words, numbers, lists and mappings only.") from None


def shipped_recipes() -> list[str]:
    """Names of the recipes in this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def parse_value(text: str) -> object:
    """The value of a `--set key=value`, read like the YAML of a recipe.

    Raises:
        InvalidInput: not a YAML scalar or list.
    """
    try:
        return _parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        # Without the position: our message shows the text anyway.
        raise InvalidInput(
            f"{text!r} is not a YAML value ({yaml_problem(error)}). Quote it or write it as in a recipe."
        ) from None


def parse_overrides(pairs: list[str]) -> dict[str, object]:
    """`["training.max_steps=20"]` as `{"training.max_steps": 20}`.

    Raises:
        InvalidInput: a pair without `=`.
    """
    overrides: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInput(f"--set {pair!r} has no '='. Write it as section.field=value.")
        overrides[key.strip()] = parse_value(text)
    return overrides


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith((".yaml", ".yml", ".json")):
        path = Path(name_or_path)
        if not path.is_file():
            raise InvalidInput(f"Recipe file {name_or_path!r} does not exist. Check the path.")
        return path
    path = RECIPES / f"{name_or_path}.yaml"
    if name_or_path not in shipped_recipes():
        raise InvalidInput(
            f"There is no recipe {name_or_path!r}{did_you_mean(name_or_path, shipped_recipes())} "
            f"Shipped: {', '.join(shipped_recipes())}. A file of your own must end in .yaml."
        )
    return path


def _read_file(path: Path) -> dict[str, Any]:  # Any: what a file holds is unknown until the model has validated it
    try:
        return _parse(path.read_text(encoding="utf-8"), path, path.suffix)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Recipe {path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _parse(text: str, path: Path, suffix: str) -> dict[str, Any]:  # Any: as above
    # Not all JSON is YAML: a line separator within a string would be folded, and the address would change.
    kind, parse = ("JSON", _parse_json) if suffix == ".json" else ("YAML", _parse_yaml)
    try:
        data = parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"Recipe {path} is not valid {kind}: {explain_yaml(error)}.") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"Recipe {path} must be a mapping of sections, but is {kind_of(data)}.")
    return data


def _parse_json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return data


def _parse_yaml(text: str) -> object:
    return yaml.load(text, Loader=_StrictLoader)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads numbers as JSON does.

    So 2e-5 is a number, 0120 is not 80, 1:30 is not 90, and nothing is a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                problem = "a key must be a word (a value in braces or brackets needs quotes)"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_REPLACED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NUMBER_STARTS = list("-+0123456789.")
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$", re.ASCII), _NUMBER_STARTS
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?[eE][-+]?\d+|\d+\.\d*|\.\d+([eE][-+]?\d+)?)$", re.ASCII),
    _NUMBER_STARTS,
)


def _override(data: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    section: Any = data
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InvalidInput(f"Override {dotted!r}: {parent!r} is a value, not a section.")
    section[last] = value
