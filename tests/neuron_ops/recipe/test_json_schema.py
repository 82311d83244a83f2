"""The schema for editors: every field with its meaning and its limits."""

import json

from neuron_ops.recipe.json_schema import recipe_schema


def test_every_field_says_what_it_means() -> None:
    schema = recipe_schema()

    for section in (schema, *schema["$defs"].values()):
        silent = [name for name, field in section["properties"].items() if not field.get("description")]
        assert silent == [], section["title"]


def test_editors_get_a_schema_with_meanings_and_limits() -> None:
    schema = json.loads(json.dumps(recipe_schema()))

    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "base_model", "training"}
    training = schema["$defs"]["TrainingSection"]
    assert training["additionalProperties"] is False
    assert training["properties"]["learning_rate"]["exclusiveMinimum"] == 0.0
    assert "Peak learning rate" in training["properties"]["learning_rate"]["description"]
