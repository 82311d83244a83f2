"""`--set section.field=value`: read as the YAML of a recipe, and as strict."""

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe, parse_overrides, parse_value
from tests.neuron_ops.recipe.conftest import TINY, Write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("-1", -1),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        ("true", True),
        ("null", None),
        ("", None),
        ("<|pad|>", "<|pad|>"),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("2026-11-01", "2026-11-01"),
        ("0120", "0120"),
        ("1:30", "1:30"),
    ],
)
def test_an_override_is_read_as_the_yaml_of_a_recipe(text: str, value: object) -> None:
    found = parse_value(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[", "{{x}}", "a: b: c", "!!python/none x"])
def test_an_override_that_is_no_yaml_is_shown(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a YAML value"):
        parse_value(text)


def test_overrides_are_pairs() -> None:
    assert parse_overrides(["training.max_steps=20", "dataset.system_prompt=a=b"]) == {
        "training.max_steps": 20,
        "dataset.system_prompt": "a=b",
    }
    with pytest.raises(InvalidInput, match=r"'training\.max_steps' has no '='"):
        parse_overrides(["training.max_steps"])


def test_overrides_reach_any_depth_and_sections_that_the_file_left_out(write: Write) -> None:
    recipe = load_recipe(
        write(TINY),
        {"training.max_steps": 20, "graph.lora.r": 4, "graph.lora.target_modules": ["o_proj"], "name": "other"},
    )

    assert recipe.training.max_steps == 20
    assert recipe.graph.lora.r == 4
    assert recipe.graph.lora.target_modules == ("o_proj",)
    assert recipe.name == "other"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("training.lerning_rate", 1.0, "did you mean 'learning_rate'"),
        ("training.max_steps", "20", r"training\.max_steps: should be a valid integer \(got '20'\)"),
        ("training.learning_rate", float("inf"), "should be a finite number"),
        ("training.max_steps.x", 1, "'max_steps' is a value, not a section"),
        ("graph", 1, "graph: should be a section"),
        ("no.such.thing", 1, "no: unknown field"),
        ("", 1, "unknown field"),
        ("training.seed", object(), "not JSON serializable"),
    ],
)
def test_a_wrong_override_is_named(write: Write, key: str, value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_recipe(write(TINY), {key: value})
