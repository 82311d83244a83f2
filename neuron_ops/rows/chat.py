"""Conversations as token rows, through a model's tokenizer and chat template, and which of the tokens are learned.

The learned tokens are exactly those of the assistant's text and the token that ends its turn: a model that never sees
its own end of turn in the loss never learns to stop. `open_chat` finds every defect of a model folder that would spoil
training, before the first row. Rendering belongs to `chat_template`, files to `tokenizer_folder`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat_template import ChatTemplate, Span
from neuron_ops.rows.conversation import Conversation, Message
from neuron_ops.rows.special_tokens import (
    SpecialTokens,
    check_special_tokens,
    find_bos,
    find_end_of_turn,
    find_eos,
    find_pad,
)
from neuron_ops.rows.token_rows import IGNORED, TokenRow
from neuron_ops.rows.tokenizer_folder import open_tokenizer, published_template

LLAMA3_TEMPLATE = Path(__file__).parent / "formats" / "llama3.jinja"

_PROBE = Conversation("a first test", (Message("user", "Which word?"), Message("assistant", "Halcyon")))


class Chat:
    """A tokenizer and a template that fit together."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, special: SpecialTokens, system: tuple[Message, ...]
    ) -> None:
        """Use `open_chat`, which also checks the result."""
        self.tokenizer = tokenizer
        self.template = template
        self.special = special
        self.system = system
        """The turns before those of every conversation."""
        words = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        words += [special.end_of_turn.token, special.pad.token]
        self._special_word = re.compile("|".join(re.escape(word) for word in sorted(set(words), reverse=True)))

    def forged_token(self, conversation: Conversation) -> str | None:
        """A special token in the text of a turn, where it would end the turn or begin another; or None."""
        for message in conversation.messages:
            found = self._special_word.search(message.content)
            if found:
                return found.group()
        return None

    def prompt(self, conversation: Conversation) -> str:
        """The text from which a model generates the last answer."""
        return self.template.render((*self.system, *conversation.prompt), add_generation_prompt=True)

    def encode(self, conversations: Sequence[Conversation]) -> list[TokenRow]:
        """One token row per conversation.

        Raises:
            InvalidInput: the template refuses a conversation, or leaves nothing in it to learn.
        """
        rendered = [self._render(conversation) for conversation in conversations]
        # The template has written the beginning-of-text token already; the tokenizer must not add a second.
        encodings = self.tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
        rows = [_token_row(encoding, spans) for encoding, (_, spans) in zip(encodings, rendered, strict=True)]
        for row, conversation in zip(rows, conversations, strict=True):
            if self.special.end_of_turn.id not in row.labels:
                raise InvalidInput(
                    f"{conversation.where}: template {self.template.name} leaves no answer that ends with "
                    f"{self.special.end_of_turn.token!r} to be learned. Correct the template or the row."
                )
        return rows

    def _render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        messages = (*self.system, *conversation.messages)
        try:
            if not self.template.marks_answers:
                return self._render_by_prefix(messages)
            text, spans = self.template.render_with_answers(messages)
        except InvalidInput as error:
            raise InvalidInput(f"{conversation.where}: {error}") from None
        return text, [self._with_end_of_turn(text, span) for span in spans if span[0] < span[1]]

    def _render_by_prefix(self, messages: tuple[Message, ...]) -> tuple[str, list[Span]]:
        """Render without `{% generation %}`: an answer is the text after the prompt that asks for it."""
        text = self.template.render(messages)
        spans = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                start = len(_require_prefix(self.template, messages[:index], text))
                end = text.find(self.special.end_of_turn.token, start)
                if end >= 0:
                    spans.append((start, end + len(self.special.end_of_turn.token)))
        return text, spans

    def _with_end_of_turn(self, text: str, span: Span) -> Span:
        """Include the end-of-turn token: it must be learned, but many templates close `{% generation %}` before it."""
        token = self.special.end_of_turn.token
        end = text.find(token, span[0])
        if end >= span[1] and not text[span[1] : end].strip():
            return span[0], end + len(token)
        return span


def open_chat(folder: Path, section: DatasetSection) -> Chat:
    """The tokenizer of a model folder with the recipe's chat template, checked against each other.

    Raises:
        InvalidInput: something is missing, or would train a model that begins, ends or pads its turns wrongly.
    """
    opened = open_tokenizer(folder)
    if section.chat_template == "llama3":
        source, name = LLAMA3_TEMPLATE.read_text(encoding="utf-8"), "llama3"
    else:
        source, name = published_template(opened)
    bos, eos, pad = find_bos(opened), find_eos(opened), find_pad(opened, section.pad_token)
    template = ChatTemplate(source, name, {**opened.special_tokens, "pad_token": pad.token})
    end_of_turn = find_end_of_turn(opened.tokenizer, template, (*_system(section), *_PROBE.messages))
    special = SpecialTokens(bos, eos, pad, end_of_turn)
    check_special_tokens(opened, special)
    chat = Chat(opened.tokenizer, template, special, _system(section))
    _check_beginning(chat)
    return chat


def _check_beginning(chat: Chat) -> None:
    """Check that the text before an answer is the same in training and generation, with one beginning-of-text token."""
    row = chat.encode([_PROBE])[0]
    if chat.special.bos is not None and row.ids[:2].tolist() == [chat.special.bos.id] * 2:
        raise InvalidInput(
            f"Chat template {chat.template.name} writes {chat.special.bos.token!r} twice at the beginning. Correct it."
        )
    messages = (*chat.system, *_PROBE.messages)
    _require_prefix(chat.template, messages[:-1], chat.template.render(messages))


def _require_prefix(template: ChatTemplate, turns: Sequence[Message], text: str) -> str:
    """The prompt that asks for the turn after `turns`; the rendered conversation must begin with it."""
    prompt = template.render(turns, add_generation_prompt=True)
    if not text.startswith(prompt):
        same = next((at for at, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(text))
        raise InvalidInput(
            f"Chat template {template.name} asks for an answer with {prompt[same:][:80]!r} where the conversation has "
            f"{text[same:][:80]!r}: generation would use another prompt than training. Correct the template (its "
            "add_generation_prompt part), or choose another dataset.chat_template."
        )
    return prompt


def _system(section: DatasetSection) -> tuple[Message, ...]:
    return (Message("system", section.system_prompt),) if section.system_prompt else ()


def _token_row(encoding: Encoding, spans: Sequence[Span]) -> TokenRow:
    ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full_like(ids, IGNORED)
    for start, end in spans:
        first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
        if first is not None and last is not None:
            labels[first : last + 1] = ids[first : last + 1]
    labels[:1] = IGNORED
    return TokenRow(ids, labels)
