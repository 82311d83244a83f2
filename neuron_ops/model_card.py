"""The README.md of a merged model: where it comes from, and what it was measured at.

The same inputs give the same bytes: nothing here tells the time or the machine.
"""

from pathlib import Path

import yaml

from neuron_ops.artifacts import Manifest
from neuron_ops.recipe import Recipe
from neuron_ops.run import Run
from neuron_ops.steps import RAW_DATASET


def write_model_card(run: Run, folder: Path) -> None:
    """Write README.md with the Hub's front matter and the model's lineage."""
    (folder / "README.md").write_text(f"---\n{_front_matter(run)}---\n\n{_text(run)}", encoding="utf-8")


def _front_matter(run: Run) -> str:
    fields = {
        "base_model": run.recipe.base_model.id,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "merged"],
    }
    return str(yaml.safe_dump(fields, sort_keys=False))


def _text(run: Run) -> str:
    recipe = run.recipe
    data = run.require("tokenized_dataset").manifest
    adapter = run.require("consolidated_weights").manifest
    base = run.require("base_model").manifest
    lora = recipe.graph.lora
    toolchain = ", ".join(f"{name} {version}" for name, version in sorted(adapter.toolchain.items()))
    rows = [
        ("base model", f"{recipe.base_model.id}, {_version_of_base(recipe, base)}"),
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
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    settings = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return (
        f"# {recipe.base_model.id.rsplit('/', 1)[-1]} fine-tuned on {run.version}\n\n"
        "The adapter is merged into the base's weights; tokenizer, template and every untouched weight are the base's, "
        "byte for byte. The base model's licence applies.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Recipe\n\n```yaml\n{settings}```\n"
    )


def _version_of_base(recipe: Recipe, base: Manifest) -> str:
    revision = recipe.base_model.revision
    return f"revision {revision}" if revision else f"files with digest {base.digest}"
