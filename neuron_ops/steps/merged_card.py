"""The model card that the step `merge` writes: the model's lineage, from the manifests of its inputs.

The card of a merge by hand, which has no manifests, belongs to weights/merge_card.
"""

from pathlib import Path

import yaml

from neuron_ops.models.card import CARD, inherited_fields, write_card
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import RAW_DATASET
from neuron_ops.store.manifest import Manifest


def write_model_card(lineage: Lineage, folder: Path) -> None:
    """Write README.md with the Hub's front matter and the model's lineage."""
    recipe, base = lineage.recipe, lineage.require("base_model")
    settings = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_card(
        folder,
        title=f"{recipe.base_model.id.rsplit('/', 1)[-1]} fine-tuned on {lineage.version}",
        base_models=[recipe.base_model.id],
        inherited=inherited_fields(base.read(CARD) if base.has(CARD) else b""),
        rows=_rows(lineage),
        more=f"\n## Recipe\n\n```yaml\n{settings}```\n",
    )


def _rows(lineage: Lineage) -> list[tuple[str, str]]:
    recipe = lineage.recipe
    data = lineage.require("tokenized_dataset").manifest
    adapter = lineage.require("consolidated_weights").manifest
    lora = recipe.graph.lora
    toolchain = ", ".join(f"{name} {version}" for name, version in sorted(adapter.toolchain.items()))
    return [
        ("base model", f"{recipe.base_model.id}, {_version_of_base(recipe, lineage.require('base_model').manifest)}"),
        ("dataset version", f"{lineage.version}, digest {data.inputs[RAW_DATASET].digest}"),
        (
            "training rows",
            f"{data.metrics['training_rows']} ({data.metrics['supervised_share']:.1%} of tokens learned)",
        ),
        (
            "LoRA",
            f"r {lora.r}, alpha {lora.lora_alpha:g}, dropout {lora.lora_dropout:g}, {', '.join(lora.target_modules)}",
        ),
        (
            "checkpoint",
            f"{adapter.metrics['checkpoint']}, held-out loss {adapter.metrics['eval_loss']:.4f}",
        ),
        ("tools", toolchain),
    ]


def _version_of_base(recipe: Recipe, base: Manifest) -> str:
    revision = recipe.base_model.revision
    return f"revision {revision}" if revision else f"files with digest {base.digest}"
