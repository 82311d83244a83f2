"""dolly's columns as conversations."""

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.rows.conversation import Conversation, Message, Rejected
from neuron_ops.rows.formats import find_format
from neuron_ops.rows.reading import RawRow

ROW = {"instruction": "Name it.", "context": "", "response": "Ada", "category": "open_qa"}


def converted(**columns: object) -> Conversation | Rejected:
    return find_format("dolly").to_conversation(RawRow("rows.jsonl:1", {**ROW, **columns}))


def test_instruction_and_response_become_a_question_and_its_answer() -> None:
    assert converted() == Conversation("rows.jsonl:1", (Message("user", "Name it."), Message("assistant", "Ada")))


def test_the_context_follows_the_instruction_after_a_blank_line() -> None:
    conversation = converted(context="Ada wrote it.")

    assert isinstance(conversation, Conversation)
    assert conversation.messages[0].content == "Name it.\n\nAda wrote it."


@pytest.mark.parametrize("context", ["", "  \n", None])
def test_a_blank_context_leaves_no_trace(context: str | None) -> None:
    assert converted(context=context) == converted()


def test_the_category_may_be_missing() -> None:
    row = RawRow("rows.jsonl:1", {column: ROW[column] for column in ("instruction", "context", "response")})

    assert find_format("dolly").to_conversation(row) == converted()


@pytest.mark.parametrize("column", ["instruction", "response"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_row_without_question_or_answer_is_rejected_with_the_reason(column: str, text: str) -> None:
    assert converted(**{column: text}) == Rejected(f"empty {column}")


@pytest.mark.parametrize("column", ["instruction", "context", "response"])
def test_a_missing_column_is_an_error_that_names_file_line_and_column(column: str) -> None:
    row = RawRow("rows.jsonl:12", {name: text for name, text in ROW.items() if name != column})
    needed = "instruction, context, response"

    with pytest.raises(InvalidInput, match=rf"rows\.jsonl:12: column '{column}' is missing; .* needs {needed}"):
        find_format("dolly").to_conversation(row)


@pytest.mark.parametrize("column", ["instruction", "context", "response"])
def test_a_column_of_the_wrong_type_is_an_error(column: str) -> None:
    with pytest.raises(InvalidInput, match=rf"rows\.jsonl:1: column '{column}' must be text, but is a number \(5\)"):
        converted(**{column: 5})
