"""Makes a recipe from AWS's Llama 3 sample for Trainium on EKS: reads its `generate-jobspec.sh`, and never runs it.

What a variable means for a recipe belongs here; the command and its report on the sample's defects belong to
import_aws_sample. The numbers that the sample writes into its templates and programs are those of a shipped recipe.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe

TEMPLATE = "llama3_8b_lora_trn1"

COMMITS = {
    "meta-llama/Llama-3.1-8B": "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
    "meta-llama/Llama-3.1-8B-Instruct": "0e9e39f249a16976918f6564b8830bc894c89659",
    "meta-llama/Meta-Llama-3-8B-Instruct": "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2",
    "NousResearch/Meta-Llama-3.1-8B": "1f47e50cdbe801ad8a5174156ec3a0655108fb9f",
}
"""Commits of the models that the sample names in one of its versions; the sample itself pins none."""

PAD_TOKENS = {"3.1": "<|finetune_right_pad_id|>", "3": "<|reserved_special_token_0|>"}
"""A token of each generation's vocabulary that nothing else uses; the published tokenizers have no padding token."""


@dataclass(frozen=True, slots=True)
class Import:
    """A recipe and the script's variables that it was made from."""

    recipe: Recipe
    variables: Mapping[str, str | None]


def import_script(path: Path, revision: str | None = None) -> Import:
    """Read the script and make the recipe that trains what it meant to train.

    Raises:
        InvalidInput: the file or a variable is missing or unusable, or the parallel sizes do not fit the instance.
    """
    variables = read_variables(path)
    script = _Script(path, variables)
    overrides = _base_model(script, revision)
    for name, (field, convert) in FIELDS.items():
        overrides[field] = script.value(name, field, convert)
    recipe = load_recipe(TEMPLATE, {**overrides, WARMUP: _warmup(overrides["training.max_steps"])})
    try:
        layout(recipe)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: INSTANCE_TYPE, TP_SIZE and PP_SIZE do not fit together. {error}") from None
    return Import(recipe, variables)


def read_variables(path: Path) -> dict[str, str | None]:
    """Every `export NAME=value`; None for a value that only running the script would give.

    Raises:
        InvalidInput: the file is missing, is not text, or is not shell.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InvalidInput(f"{str(path)!r} cannot be read ({reason}). Give the sample's generate-jobspec.sh.") from None
    variables: dict[str, str | None] = {}
    for number, line in enumerate(text.replace("\\\n", "").splitlines(), 1):
        if re.match(r"\s*(export\s+)?[A-Za-z_]\w*=", line):
            for name, value in _assignments(line, f"{path}, line {number}"):
                variables[name] = _expand(value, variables)
    return variables


def _assignments(line: str, where: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise InvalidInput(f"{where} cannot be read as shell ({error}): {line.strip()[:60]!r}.") from None
    pairs = (word.partition("=") for word in words if re.match(r"[A-Za-z_]\w*=", word))
    return [(name, value) for name, _, value in pairs]


def _expand(value: str, known: Mapping[str, str | None]) -> str | None:
    """The value with earlier variables filled in; None if only a shell could compute it."""
    if "`" in value or re.search(r"\$(?!\w|\{\w+\})", value):  # a command, a default such as ${NAME:-x}, $?
        return None
    parts: list[str] = []
    for text, braced, bare in re.findall(r"([^$]+)|\$\{(\w+)\}|\$(\w+)", value):
        part = text or known.get(braced or bare)
        if part is None:
            return None
        parts.append(part)
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Script:
    path: Path
    variables: Mapping[str, str | None]

    def text(self, name: str) -> str:
        value = self.variables.get(name, "")
        if value is None:
            raise InvalidInput(
                f"{self.path}: {name} is computed by the script, which is not run. Write its value into the script."
            )
        if not value or value.startswith("<"):
            raise InvalidInput(f"{self.path}: {name} has no value. Fill it in: export {name}=…")
        return value

    def value(self, name: str, field: str, convert: Callable[[str], object]) -> object:
        """The variable as the recipe's field, validated alone in the shipped recipe so that an error names it."""
        text = self.text(name)
        try:
            value = convert(text)
            load_recipe(TEMPLATE, {WARMUP: 0, field: value})
        except ValueError:
            kind = "whole number" if convert is int else "number"
            raise InvalidInput(f"{self.path}: {name}={text!r} is not a {kind}.") from None
        except InvalidInput as error:
            reason = str(error).partition(f"{field}: ")[2] or str(error)
            raise InvalidInput(f"{self.path}: {name}={text!r} cannot be {field}: {reason}") from None
        return value


FIELDS: dict[str, tuple[str, Callable[[str], object]]] = {
    "MAX_SEQ_LENGTH": ("graph.sequence_length", int),
    "TRAIN_BATCH_SIZE": ("graph.micro_batch_size", int),
    "MAX_TRAINING_STEPS": ("training.max_steps", int),
    "LEARNING_RATE": ("training.learning_rate", float),
    "INSTANCE_TYPE": ("hardware.instance_type", str),
    "TP_SIZE": ("hardware.tensor_parallel_size", int),
    "PP_SIZE": ("hardware.pipeline_parallel_size", int),
}
"""Variables that are one field of the recipe."""

WARMUP = "training.warmup_steps"


def _base_model(script: _Script, revision: str | None) -> dict[str, object]:
    repository = script.text("MODEL_ID")
    generation = re.search(r"Llama-3(?:\.\d)?(?![.\d])", repository, flags=re.IGNORECASE)
    if generation is None:
        raise InvalidInput(
            f"{script.path}: MODEL_ID={repository!r} is not a Llama 3 model. Only those can be imported."
        )
    commit = revision or COMMITS.get(repository, "")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        given = "no --revision was given" if revision is None else f"--revision is {revision!r}"
        raise InvalidInput(
            f"{script.path}: MODEL_ID={repository!r} is not pinned to a commit ({given}). "
            "Give --revision with the 40 hexadecimal digits that the hub shows in the model's history."
        )
    is_chat_model = "instruct" in repository.lower()
    return {
        "name": re.sub(r"[^a-z0-9_.-]", "-", repository.rpartition("/")[2].lower())[:50] + "_lora",
        "base_model": {"repository": repository, "revision": commit},
        "dataset.chat_template": "model" if is_chat_model else "llama3",
        "dataset.pad_token": PAD_TOKENS["3.1" if "." in generation[0] else "3"],
    }


def _warmup(steps: object) -> int:
    """The 100 steps of the sample's templates, or a tenth of the training if that is less."""
    assert isinstance(steps, int), "FIELDS makes one"
    return min(load_recipe(TEMPLATE).training.warmup_steps, steps // 10)
