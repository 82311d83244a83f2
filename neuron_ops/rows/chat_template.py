"""A chat template, rendered as transformers renders it, without importing transformers (and with it torch: 2 CPU s).

Compiling and rendering Jinja, and the positions of the answers in the rendered text, belong here; token ids belong to
`chat`. There is one deliberate difference: `strftime_now` is not defined. A template that prints today's date would
make different rows from the same data every day; templates that test for it, such as Llama 3.1's, use a fixed date.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neuron_ops.errors import InvalidInput
from neuron_ops.rows.conversation import Message

Span = tuple[int, int]
"""First character and the one after the last, in the rendered text."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """A compiled template with the special tokens that it may write."""

    def __init__(self, source: str, name: str, special_tokens: Mapping[str, str]) -> None:
        """Compile the template.

        Raises:
            InvalidInput: the source is not a Jinja template.
        """
        self.source = source
        self.name = name
        self.marks_answers = _GENERATION_TAG.search(source) is not None
        """Whether the template itself marks the text that the assistant generates."""
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        tag = environment.extensions[_GenerationTag.identifier]
        assert isinstance(tag, _GenerationTag), "the environment was made with it"
        self._tag = tag
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise InvalidInput(f"Chat template {name}, line {error.lineno}: {error.message}. Correct it.") from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of the turns; with `add_generation_prompt`, also the opening of the assistant's next turn.

        Raises:
            InvalidInput: the template refuses these turns.
        """
        return self.render_with_answers(messages, add_generation_prompt)[0]

    def render_with_answers(
        self, messages: Sequence[Message], add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """The text of the turns, and the spans inside `{% generation %}`.

        Raises:
            InvalidInput: the template refuses these turns.
        """
        blocks: list[str] = []
        spans = self._tag.start_recording()
        try:
            for block in self._template.generate(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            ):
                blocks.append(block)
                self._tag.num_characters += len(block)
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise InvalidInput(
                f"Chat template {self.name} cannot render the turns {roles}: {error}. Give turns that it accepts "
                "(some take no system message: leave dataset.system_prompt empty), or another dataset.chat_template."
            ) from None
        return "".join(blocks), spans


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: renders its content and records its position in the text.

    Jinja yields the rendered text block by block, so the characters before a tag are those of the blocks so far.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it on the instance

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.start_recording()

    def start_recording(self) -> list[Span]:
        """Start a new list of spans, which fills while the template renders."""
        self.num_characters = 0
        self._spans: list[Span] = []
        return self._spans

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_record"), [], [], body).set_lineno(line)

    def _record(self, caller: Callable[[], str]) -> str:
        text = caller()
        self._spans.append((self.num_characters, self.num_characters + len(text)))
        return text


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes: Jinja's own filter adds them, but models were not trained on them."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
