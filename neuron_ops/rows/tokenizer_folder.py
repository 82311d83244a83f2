"""The tokenizer files of a model folder: tokenizer.json, the names of the special tokens, the chat template.

Reading these files like transformers belongs here; whether they are suitable for training belongs to `chat`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from neuron_ops.errors import InvalidInput

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """The files of one folder, read."""

    path: Path
    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]
    """Such as {"eos_token": "</s>"}: the tokens that the files name, whether or not the vocabulary has them."""
    config: Mapping[str, Any]  # Any: tokenizer_config.json has a hundred possible fields of every type


def open_tokenizer(folder: Path) -> TokenizerFolder:
    """Read the tokenizer of a model folder.

    Raises:
        InvalidInput: there is no tokenizer.json, or a file's content does not match its name.
    """
    config = read_json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(folder, config)
    return TokenizerFolder(folder, _load(folder / "tokenizer.json", special_tokens), special_tokens, config)


def published_template(opened: TokenizerFolder) -> tuple[str, str]:
    """The chat template of the folder, and the file that holds it.

    Raises:
        InvalidInput: the folder has no chat template.
    """
    file = opened.path / "chat_template.jinja"
    if file.is_file():
        return _read_template(file), str(file)
    template = opened.config.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise InvalidInput(
            f"{opened.path} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json. "
            "Set dataset.chat_template to llama3 if the vocabulary is Llama 3's, or add chat_template.jinja."
        )
    return template, str(opened.path / "tokenizer_config.json")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a model folder; empty if there is no such file.

    Raises:
        InvalidInput: the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON ({error}). Fetch it again.") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{file} must be a JSON object, but is a {type(value).__name__}. Fetch it again.")
    return value


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 ({error.reason} at byte {error.start}). Fetch it again.") from None


def _load(file: Path, special_tokens: Mapping[str, str]) -> Tokenizer:
    if not file.is_file():
        raise InvalidInput(
            f"{file.parent} has no tokenizer.json. Give a model folder with a fast tokenizer; "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` writes one from tokenizer.model."
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises nothing more precise
        raise InvalidInput(f"{file} is not a tokenizer ({error}). Fetch it again.") from error
    # Some tokenizers are published with the truncation of their last training run, which would silently cut rows.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    named = sorted({token for token in special_tokens.values() if tokenizer.token_to_id(token) is not None})
    # Like transformers, treat every named token as special, even if tokenizer.json lists it as an ordinary one.
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in named if token not in known])
    return tokenizer


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    named = {name: config.get(name) for name in SPECIAL_TOKEN_NAMES}
    if "added_tokens_decoder" not in config:
        # In the older layout, this file takes precedence.
        named.update({k: v for k, v in read_json(folder / "special_tokens_map.json").items() if k in named})
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    return {name: token for name, token in contents.items() if isinstance(token, str)}
