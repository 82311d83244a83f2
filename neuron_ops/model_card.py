"""The README.md of a merged model: where it comes from, and what it was measured at.

The same inputs give the same bytes: nothing here tells the time or the machine. What a merge by hand knows of its
lineage belongs to weights/merge_card.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from neuron_ops.artifacts import Manifest
from neuron_ops.recipe import Recipe
from neuron_ops.run import Run
from neuron_ops.steps import RAW_DATASET

CARD = "README.md"
# Fields of the Hub's front matter that stay true of a model that was made from another.
INHERITED = ("license", "license_name", "license_link", "language")


def write_model_card(run: Run, folder: Path) -> None:
    """Write README.md with the Hub's front matter and the model's lineage."""
    recipe, base = run.recipe, run.require("base_model")
    settings = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_card(
        folder,
        title=f"{recipe.base_model.id.rsplit('/', 1)[-1]} fine-tuned on {run.version}",
        base_models=[recipe.base_model.id],
        inherited=inherited_fields(base.read(CARD) if base.has(CARD) else b""),
        rows=_lineage(run),
        more=f"\n## Recipe\n\n```yaml\n{settings}```\n",
    )


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


def _lineage(run: Run) -> list[tuple[str, str]]:
    recipe = run.recipe
    data = run.require("tokenized_dataset").manifest
    adapter = run.require("consolidated_weights").manifest
    lora = recipe.graph.lora
    toolchain = ", ".join(f"{name} {version}" for name, version in sorted(adapter.toolchain.items()))
    return [
        ("base model", f"{recipe.base_model.id}, {_version_of_base(recipe, run.require('base_model').manifest)}"),
        ("dataset version", f"{run.version}, digest {data.inputs[RAW_DATASET].digest}"),
        (
            "training rows",
            f"{data.metrics['training_rows']} ({data.metrics['supervised_share']:.1%} of tokens learned)",
        ),
        ("LoRA", f"r {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, {', '.join(lora.target_modules)}"),
        (
            "checkpoint",
            f"{adapter.metrics['checkpoint']}, held-out loss {adapter.metrics['eval_loss']:.4f}",
        ),
        ("tools", toolchain),
    ]


def _version_of_base(recipe: Recipe, base: Manifest) -> str:
    revision = recipe.base_model.revision
    return f"revision {revision}" if revision else f"files with digest {base.digest}"
