"""`fine-tune import-aws-sample`: prints a recipe made from AWS's Llama 3 sample, and reports what it corrected.

Reading the script belongs to aws_sample.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import yaml

from fine_tune_assets.cli.aws_sample import TEMPLATE, Import, import_script
from neuron_ops.backends import layout
from neuron_ops.backends.neuron import BACKEND
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe

ADDRESSED = (
    "MODEL_OUTPUT_PATH",
    "TOKENIZER_OUTPUT_PATH",
    "NEURON_CACHE_DIR",
    "CHECKPOINT_DIR",
    "CHECKPOINT_DIR_COMPILE",
    "FINAL_MODEL_PATH",
)
"""Folders that people had to keep apart by hand."""

DEPLOYED = ("AWS_REGION", "ACCOUNT", "REGISTRY", "IMAGE", "TAG", "IMAGE_URI", "NAMESPACE", "FSX_CLAIM")
"""Settings of a cluster, which belong to deployments/ and not to a recipe."""


@click.command("import-aws-sample")
@click.argument("script", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="New recipe file (default: print the recipe).")
@click.option("--revision", metavar="COMMIT", help="Commit of the base model, where the sample's is not known.")
def import_aws_sample(script: Path, out: Path | None, revision: str | None) -> None:
    """Turn the filled-in generate-jobspec.sh of AWS's Llama 3 sample for Trainium into a recipe.

    SCRIPT is read, not run. The command prints, line by line, what the recipe keeps, what it corrects and what is left
    to do.
    """
    if out is not None:
        _check(out)
    made = import_script(script, revision)
    text = f"# From {script.name} of AWS's Llama 3 sample. Not run on Trainium.\n{_as_yaml(made.recipe)}"
    if out is None:
        click.echo(text)
    else:
        _write(out, text)
        click.echo(f"wrote {out}\n")
    for kind, sentence in report(made):
        click.echo(f"{kind:<6} {sentence}", err=out is None)


def _check(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise InvalidInput(f"--out {str(out)!r} is not a recipe file: its name must end in .yaml.")
    if out.exists():
        raise InvalidInput(f"--out {str(out)!r} exists already. Remove it or give another name.")
    if not out.parent.is_dir():
        raise InvalidInput(f"--out {str(out)!r} cannot be written: {str(out.parent)!r} is not a folder.")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"--out {str(out)!r} cannot be written: {error.strerror}.") from error


def _as_yaml(recipe: Recipe) -> str:
    fields = recipe.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def report(made: Import) -> Iterator[tuple[str, str]]:
    """What was kept, what was fixed and what is left to do, one sentence each."""
    yield from (("kept", sentence) for sentence in _kept(made.recipe, made.variables))
    yield from (("fixed", sentence) for sentence in _fixed(made.recipe, made.variables))
    yield from (("to do", sentence) for sentence in _to_do(made.variables))


def _kept(recipe: Recipe, variables: Mapping[str, str | None]) -> Iterator[str]:
    training, lora = recipe.training, recipe.graph.lora
    rate, modules = f"{training.learning_rate:g}", _and(lora.target_modules)
    yield f"{training.max_steps} steps at learning rate {rate}; LoRA r {lora.r} on {modules}."
    if training.learning_rate < 1e-4:
        yield f"Learning rate {rate} is low for LoRA: 1e-4 to 3e-4 is usual."
    if "EPOCHS" in variables:
        epochs = variables["EPOCHS"]
        yield f"EPOCHS={epochs} had no effect beside MAX_TRAINING_STEPS; `fine-tune plan` counts the epochs."


def _fixed(recipe: Recipe, variables: Mapping[str, str | None]) -> Iterator[str]:
    world, graph = layout(recipe), recipe.graph
    rows = graph.micro_batch_size * graph.gradient_accumulation_steps
    yield f"The base model is pinned to commit {str(recipe.base_model.revision)[:12]}; the sample took the newest one."
    yield (
        f"All {world.processes_per_node} cores train, TP {world.tensor_parallel_size} x DP {world.data_parallel_size}; "
        "the sample's template started 8 processes on every instance type."
    )
    if world.data_parallel_size > 1:
        yield (
            f"An optimizer step therefore reads {rows * world.data_parallel_size} rows where the sample's read {rows}; "
            "lower graph.gradient_accumulation_steps to come closer to it."
        )
    yield from _derived(recipe, variables)
    yield "Rows are tokenized once, on a CPU node; the sample's tokenize stage held 16 chips and tokenized nothing."
    yield r"Prompts use the chat template; the sample's held a literal \n and were tested with another template."
    yield "Padding has its own token, and the model learns the token that ends answers; the sample masked every end."
    yield "The loss counts answers only, and held-out rows judge the model; the sample had neither."
    yield "A restart resumes from the last checkpoint; the sample's restarts failed on it, up to 100 times."
    yield "Merging and consolidation need no accelerator and fail loudly; the sample could publish the bare base model."
    if recipe.training.warmup_steps != load_recipe(TEMPLATE).training.warmup_steps:
        yield f"Warm-up is {recipe.training.warmup_steps} steps: the template's 100 would be most of the training."
    if given := [name for name in ADDRESSED if name in variables]:
        yield f"{_and(given)} {_are(given)} not needed: every artifact has an address below FINE_TUNE_STORE."


def _derived(recipe: Recipe, variables: Mapping[str, str | None]) -> Iterator[str]:
    """Numbers that follow from the instance type, and that the sample let people contradict."""
    machine = BACKEND.instance(recipe.hardware)
    for name, right in (("NEURON_PER_NODE", machine.devices), ("EFA_PER_NODE", machine.efa)):
        if variables.get(name, str(right)) != str(right):
            has = f"{recipe.hardware.instance_type} has {right}"
            yield f"{name}={variables[name]} was wrong: {has}, and the number is now derived."


def _to_do(variables: Mapping[str, str | None]) -> Iterator[str]:
    if dataset := variables.get("DATASET_NAME"):
        yield (
            f"Deliver the rows of {dataset} with `fine-tune dataset add VERSION FOLDER`: "
            "columns instruction, context and response, .jsonl or .parquet."
        )
    token = variables.get("HF_ACCESS_TOKEN") or ""
    if token and not token.startswith("<"):
        yield "HF_ACCESS_TOKEN was written in the script: revoke it, and put a new one into the Secret hugging-face."
    if given := [name for name in DEPLOYED if name in variables]:
        yield f"{_and(given)} {_are(given)} configured in the cluster: docs/from-the-sample.md says where each went."


def _and(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
