"""databricks-dolly-15k's columns: instruction, context, response and, not used, category."""

from neuron_ops.rows.conversation import Conversation, Message, Rejected
from neuron_ops.rows.reading import RawRow


def to_conversation(row: RawRow) -> Conversation | Rejected:
    """One question and its answer; the context follows the instruction after a blank line.

    Raises:
        InvalidInput: a column is missing or is not text.
    """
    instruction, context, response = row.text("instruction"), row.text_or_empty("context"), row.text("response")
    if not instruction.strip():
        return Rejected("empty instruction")
    if not response.strip():
        return Rejected("empty response")
    question = f"{instruction}\n\n{context}" if context.strip() else instruction
    return Conversation(row.where, (Message("user", question), Message("assistant", response)))
