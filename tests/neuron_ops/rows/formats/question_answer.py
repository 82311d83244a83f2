"""A row format as anybody would add one: this file, and a line in the registry."""

from neuron_ops.rows.conversation import Conversation, Message, Rejected
from neuron_ops.rows.formats import RowFormat
from neuron_ops.rows.reading import RawRow


def _convert(row: RawRow) -> Conversation | Rejected:
    if not row.text("answer"):
        return Rejected("no answer")
    return Conversation(row.where, (Message("user", row.text("question")), Message("assistant", row.text("answer"))))


FORMAT = RowFormat("A question and its answer.", ("question", "answer"), (), _convert)
