"""dolly's columns as conversations."""

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.conversation import Conversation, Message, Rejected
from neuron_ops.rows.formats import FORMATS, find_format
from neuron_ops.rows.reading import RawRow

ROW = {"instruction": "Name it.", "context": "", "response": "Ada", "category": "open_qa"}


def converted(**columns: object) -> Conversation | Rejected:
    return find_format("dolly")(RawRow("rows.jsonl:1", {**ROW, **columns}))


def test_instruction_and_response_become_a_question_and_its_answer():
    assert converted() == Conversation("rows.jsonl:1", (Message("user", "Name it."), Message("assistant", "Ada")))


def test_the_context_follows_the_instruction_after_a_blank_line():
    conversation = converted(context="Ada wrote it.")

    assert isinstance(conversation, Conversation)
    assert conversation.messages[0].content == "Name it.\n\nAda wrote it."


@pytest.mark.parametrize("context", ["", "  \n", None])
def test_a_blank_context_leaves_no_trace(context):
    assert converted(context=context) == converted()


def test_the_category_may_be_missing():
    row = RawRow("rows.jsonl:1", {column: ROW[column] for column in ("instruction", "context", "response")})

    assert find_format("dolly")(row) == converted()


@pytest.mark.parametrize("column", ["instruction", "response"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_row_without_question_or_answer_is_rejected_with_the_reason(column, text):
    assert converted(**{column: text}) == Rejected(f"empty {column}")


@pytest.mark.parametrize("column", ["instruction", "context", "response"])
def test_a_missing_column_is_an_error_that_names_file_line_and_column(column):
    row = RawRow("rows.jsonl:12", {name: text for name, text in ROW.items() if name != column})

    with pytest.raises(InvalidInput, match=rf"rows\.jsonl:12: column '{column}' is missing"):
        find_format("dolly")(row)


@pytest.mark.parametrize("column", ["instruction", "context", "response"])
def test_a_column_of_the_wrong_type_is_an_error(column):
    with pytest.raises(InvalidInput, match=rf"rows\.jsonl:1: column '{column}' must be text, but is a number \(5\)"):
        converted(**{column: 5})


def test_every_format_of_the_recipe_exists_and_no_other():
    named = DatasetSection.model_json_schema()["properties"]["format"]

    assert set(FORMATS) == set(named.get("enum", [named.get("const")]))


def test_an_unknown_format_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InvalidInput, match=r"no dataset\.format 'doly'. Known: dolly"):
        find_format("doly")
