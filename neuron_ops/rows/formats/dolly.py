"""databricks-dolly-15k's rows: a question, its answer, and in some rows a text that the question is about."""

from neuron_ops.rows.conversation import Conversation, Message, Rejected
from neuron_ops.rows.formats import RowFormat
from neuron_ops.rows.reading import RawRow


def _convert(row: RawRow) -> Conversation | Rejected:
    """One question and its answer; the context follows the instruction after a blank line."""
    instruction, context, response = row.text("instruction"), row.text_or_empty("context"), row.text("response")
    if not instruction.strip():
        return Rejected("empty instruction")
    if not response.strip():
        return Rejected("empty response")
    question = f"{instruction}\n\n{context}" if context.strip() else instruction
    return Conversation(row.where, (Message("user", question), Message("assistant", response)))


FORMAT = RowFormat(
    summary="databricks-dolly-15k's rows: one question, with or without a text that it is about, and its answer.",
    columns=("instruction", "context", "response"),
    optional_columns=("category",),
    convert=_convert,
)
