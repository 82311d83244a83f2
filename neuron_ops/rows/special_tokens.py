"""The four special tokens that training and generation need, found and checked before the first row.

The tokens that begin a text, end a text, pad and end a turn belong here, with all known mistakes of published
tokenizers about them. Reading the files belongs to `tokenizer_folder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from neuron_ops.errors import InvalidInput
from neuron_ops.models.config import CONFIG, read_config
from neuron_ops.rows.chat_template import ChatTemplate
from neuron_ops.rows.conversation import Message
from neuron_ops.rows.tokenizer_folder import TokenizerFolder


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token with a meaning of its own."""

    token: str
    id: int


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens that begin, end and pad a row, and end a turn."""

    bos: SpecialToken | None
    """Begins every row; None for models without one."""
    eos: SpecialToken
    pad: SpecialToken
    end_of_turn: SpecialToken
    """Ends the assistant's turn, and so a generated answer. It is often, but not always, the same as eos."""


def find_bos(opened: TokenizerFolder) -> SpecialToken | None:
    """The token that begins a text; None if the model has none.

    Raises:
        InvalidInput: the token is named but not in the vocabulary.
    """
    name = opened.special_tokens.get("bos_token")
    return None if name is None else _in_vocabulary(opened, name, "bos_token of the tokenizer")


def find_eos(opened: TokenizerFolder) -> SpecialToken:
    """The token that ends a text.

    Raises:
        InvalidInput: no token is named, or it is not in the vocabulary.
    """
    name = opened.special_tokens.get("eos_token")
    if name is None:
        raise InvalidInput(
            f"The tokenizer in {opened.path} names no eos_token, so nothing would ever end a text. "
            "Name one in tokenizer_config.json."
        )
    return _in_vocabulary(opened, name, "eos_token of the tokenizer")


def find_pad(opened: TokenizerFolder, named_in_recipe: str | None) -> SpecialToken:
    """The token that pads a sequence: the recipe's, or otherwise the tokenizer's own.

    Raises:
        InvalidInput: neither names a token, or it is not in the vocabulary.
    """
    if named_in_recipe is not None:
        return _in_vocabulary(opened, named_in_recipe, "dataset.pad_token")
    name = opened.special_tokens.get("pad_token")
    if name is None:
        raise InvalidInput(
            f"The tokenizer in {opened.path} names no pad_token. Set dataset.pad_token to a token that no text "
            f"contains{_candidates(opened.tokenizer)}."
        )
    return _in_vocabulary(opened, name, "pad_token of the tokenizer")


def find_end_of_turn(tokenizer: Tokenizer, template: ChatTemplate, probe: Sequence[Message]) -> SpecialToken:
    """The token that the template writes after the last answer of the probe.

    Raises:
        InvalidInput: the template leaves out the answer, or ends it with no token or more than one.
    """
    answer = probe[-1].content
    _, found, rest = template.render(probe).rpartition(answer)
    if not found:
        raise InvalidInput(
            f"Chat template {template.name} leaves out what the assistant says. Choose another dataset.chat_template."
        )
    end_of_turn = rest.strip()
    if not end_of_turn:
        raise InvalidInput(
            f"Chat template {template.name} ends the assistant's turn with nothing, so the model could not learn to "
            "stop. Correct the template, or choose another dataset.chat_template."
        )
    first = tokenizer.encode(end_of_turn, add_special_tokens=False).ids[0]
    added = tokenizer.get_added_tokens_decoder().get(first)
    if added is None:
        raise InvalidInput(
            f"Chat template {template.name} ends the assistant's turn with {end_of_turn!r}, which is not a single "
            "token of this tokenizer. Choose a dataset.chat_template whose special tokens are in the vocabulary."
        )
    return SpecialToken(added.content, first)


def check_special_tokens(opened: TokenizerFolder, special: SpecialTokens) -> None:
    """Refuse a pad token that must be in the loss, and tokens for which the model has no embedding.

    Raises:
        InvalidInput: there is such a token, or the model is not supported.
        CorruptArtifact: the model's config.json is not JSON.
    """
    for name, other in (("eos_token", special.eos), ("end-of-turn token", special.end_of_turn)):
        if special.pad.id == other.id:
            raise InvalidInput(
                f"The pad token {special.pad.token!r} in {opened.path} is also its {name}: padding is left out of the "
                "loss, so a mask by token would hide every ending and the model would never learn to stop. "
                f"Set dataset.pad_token to a token of its own{_candidates(opened.tokenizer)}."
            )
    config = opened.path / CONFIG
    # A folder with a tokenizer but no model is enough to tokenize.
    rows = read_config(opened.path).get("vocab_size") if config.is_file() else None
    for token in (special.bos, special.eos, special.pad, special.end_of_turn):
        if token is not None and isinstance(rows, int) and token.id >= rows:
            raise InvalidInput(
                f"Token {token.token!r} has id {token.id}, but {config} gives the model {rows} embeddings "
                f"(vocab_size). Choose a token below{_candidates(opened.tokenizer)}."
            )


def _in_vocabulary(opened: TokenizerFolder, name: str, what: str) -> SpecialToken:
    number = opened.tokenizer.token_to_id(name)
    if number is None:
        raise InvalidInput(
            f"{what} is {name!r}, which is not in the vocabulary of {opened.path / 'tokenizer.json'}. "
            f"Name a token that is{_candidates(opened.tokenizer)}."
        )
    return SpecialToken(name, number)


def _candidates(tokenizer: Tokenizer) -> str:
    """A hint of suitable tokens: padding tokens first, then the vocabulary's reserved ones; empty if there are none."""
    added = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    wanted = [token for token in added if "pad" in token.lower()] + [token for token in added if "reserved" in token]
    return f", such as {' or '.join(wanted[:2])}" if wanted else ""
