"""The formats of raw rows: each turns one JSON object into one conversation.

A format is a file here and a line in FORMATS; its name is what `dataset.format` says. Reading files belongs to `rows`,
rendering to `chat_template`.
"""

from collections.abc import Callable

from neuron_ops.errors import InvalidInput
from neuron_ops.rows.conversation import Conversation, Rejected
from neuron_ops.rows.formats import dolly
from neuron_ops.rows.reading import RawRow

Format = Callable[[RawRow], Conversation | Rejected]

FORMATS: dict[str, Format] = {"dolly": dolly.to_conversation}


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        InvalidInput: there is none.
    """
    if name not in FORMATS:
        raise InvalidInput(f"There is no dataset.format {name!r}. Known: {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]
