"""The README.md of a merged model, with the Hub's front matter. The caller gives the rows of its lineage.

The same inputs give the same bytes: the card names no time and no machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
# Fields of the Hub's front matter that are still true for a model made from another one.
INHERITED = ("license", "license_name", "license_link", "language")


def write_card(
    folder: Path,
    *,
    title: str,
    base_models: Sequence[str],
    inherited: dict[str, Any],  # Any: YAML of the base's card
    rows: Sequence[tuple[str, str]],
    more: str = "",
) -> None:
    """Write the card of any merged model; `rows` are its lineage."""
    named = {"base_model": base_models[0] if len(base_models) == 1 else list(base_models)} if base_models else {}
    fields = {
        **inherited,
        **named,
        **({"base_model_relation": "finetune"} if named else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "merged"],
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    (folder / CARD).write_text(
        f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n\n# {title}\n\n"
        "The adapter is merged into the base's weights; tokenizer and every untouched weight are the base's, byte for "
        f"byte. The base model's licence applies.\n\n| | |\n|---|---|\n{table}\n{more}",
        encoding="utf-8",
    )


def inherited_fields(card: bytes) -> dict[str, Any]:  # Any: YAML of the base's card
    """Licence and language from the front matter of the base's card; empty if it has none that can be read."""
    text = card.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    start, _, rest = text.partition("---\n")
    front, closed, _ = rest.partition("\n---")
    try:
        fields = yaml.safe_load(front) if closed and not start.strip() else None
    except yaml.YAMLError:
        return {}
    return {name: fields[name] for name in INHERITED if name in fields} if isinstance(fields, dict) else {}
