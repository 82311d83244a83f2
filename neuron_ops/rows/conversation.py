"""A raw row before tokenization: a conversation, or a reason to leave the row out.

The shape that every format produces and the chat template renders belongs here; reading columns belongs to `formats`,
rendering to `chat_template`.
"""

import json
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One raw row as turns; the last turn is the assistant's, and training learns it."""

    where: str
    """File and line of the raw row, for messages."""
    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every turn before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """Content of the last turn."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is left out and counted. Some are normal in data; only too many of them are an error."""

    reason: str


def canonical_bytes(messages: tuple[Message, ...]) -> bytes:
    """The same bytes for the same turns, wherever the row is; different lists of turns always differ in bytes."""
    return json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False).encode()
