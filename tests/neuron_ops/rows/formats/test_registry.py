"""A row format is one file and one line: what follows from the line, from the recipe to the finished dataset."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_ops import registry
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.json_schema import recipe_schema
from neuron_ops.recipe.schema import Recipe
from neuron_ops.rows.formats import RowFormat, find_format
from neuron_ops.steps import fetch, prepare, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

NAME = "question_answer"

MakeDataset = Callable[[Recipe, list[dict[str, str]]], Artifact]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line."""
    monkeypatch.setitem(registry.ROW_FORMATS, NAME, f"tests.neuron_ops.rows.formats.{NAME}")


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Run the steps `fetch` and `prepare` over a dataset version with these rows."""

    def make(recipe: Recipe, rows: list[dict[str, str]]) -> Artifact:
        (tmp_path / "delivery").mkdir()
        (tmp_path / "delivery" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        raw = RawDatasets(str(tmp_path / "raw"))
        raw.land("v1", tmp_path / "delivery")
        lineage = Lineage(recipe, ArtifactStore(str(tmp_path / "store")), raw, "v1")
        for verb, build in {"fetch": fetch.build, "prepare": prepare.build}.items():
            program.make(BY_VERB[verb], lineage, build)
        return lineage.require("tokenized_dataset")

    return make


@pytest.mark.usefixtures("registered")
def test_a_registered_format_prepares_a_dataset(make_dataset: MakeDataset) -> None:
    recipe = load_recipe("tiny_llama_cpu", {"dataset.format": NAME, "dataset.max_rejected_fraction": 0.1})
    rows = [{"question": f"What follows {number}?", "answer": str(number + 1)} for number in range(60)]

    dataset = make_dataset(recipe, [*rows, {"question": "And then?", "answer": ""}])

    report = json.loads(dataset.read("report.json"))
    assert (report["rows_read"], report["rows_kept"], report["rejected"]) == (61, 60, {"no answer": 1})
    prompt = json.loads(dataset.read("holdout_prompts.jsonl").splitlines()[0])
    assert prompt["messages"][-1]["content"].startswith("What follows")


@pytest.mark.usefixtures("registered")
def test_rows_without_its_columns_are_refused_with_what_it_needs(make_dataset: MakeDataset) -> None:
    recipe = load_recipe("tiny_llama_cpu", {"dataset.format": NAME})

    with pytest.raises(InvalidInput, match=r"rows\.jsonl:1: column 'question' is missing; .* needs question, answer"):
        make_dataset(recipe, [{"prompt": "?", "answer": "!"}])


@pytest.mark.usefixtures("registered")
def test_a_registered_format_is_in_messages_and_in_the_schema() -> None:
    field = recipe_schema()["$defs"]["DatasetSection"]["properties"]["format"]

    assert field["enum"][-1] == NAME
    assert field["enumDescriptions"][-1] == "A question and its answer. Columns: question, answer."
    with pytest.raises(InvalidInput, match=rf"dataset\.format: should be 'dolly' or '{NAME}' \(got 'sharegpt'\)"):
        load_recipe("tiny_llama_cpu", {"dataset.format": "sharegpt"})


@pytest.mark.parametrize("name", registry.ROW_FORMATS)
def test_every_line_of_the_registry_leads_to_a_format(name: str) -> None:
    found = find_format(name)

    assert isinstance(found, RowFormat)
    assert found.summary.endswith(".")
    assert found.columns


def test_a_format_that_is_not_registered_is_an_error_that_lists_those_that_are() -> None:
    with pytest.raises(InvalidInput, match=r"dataset\.format is 'doly', but there is only 'dolly'"):
        find_format("doly")
