"""The README.md of a merged model, with the Hub's front matter. The rows of its lineage are whoever merges' to give.

The same inputs give the same bytes: nothing here tells the time or the machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
# Fields of the Hub's front matter that stay true of a model that was made from another.
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
    """Licence and language from the front matter of the base's card; nothing where it has none that can be read."""
    text = card.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    start, _, rest = text.partition("---\n")
    front, closed, _ = rest.partition("\n---")
    try:
        fields = yaml.safe_load(front) if closed and not start.strip() else None
    except yaml.YAMLError:
        return {}
    return {name: fields[name] for name in INHERITED if name in fields} if isinstance(fields, dict) else {}
