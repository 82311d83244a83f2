"""The one table that pairs programs (verbs) with the artifacts (nouns) they make.

What a step reads decides its artifact's address, so a change that matters makes a new artifact and a change that does
not is a hit. Nothing else in the project pairs a verb with a noun or lists what a fingerprint covers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuron_ops.recipe.schema import Recipe

RAW_DATASET = "raw_dataset"
PUBLISHED_MODEL = "published_model"
"""Where base_model comes from; no artifact of ours, and no asset."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class Input:
    """An artifact that a step reads, and which of its files decide the result (None: all of them)."""

    artifact: str
    files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A program `python -m neuron_ops.<verb>` and the artifact that it makes."""

    verb: str
    artifact: str
    code_version: str
    """Raised when the same inputs would give other contents."""
    inputs: tuple[Input, ...]
    reads: Callable[[Recipe], dict[str, Any]]  # Any: plain JSON of recipe sections
    """The part of the recipe that decides the contents."""
    waits_for: tuple[str, ...] = ()
    """Artifacts that must be finished first without deciding the contents."""
    partitioned: bool = True
    """Whether there is one artifact for each dataset version."""
    addressed_by_version: bool = True
    """Whether the address names the dataset version; without it, versions share the artifact."""
    needs_accelerator: bool = False
    """Whether the step runs on the recipe's hardware; the others never may."""
    launched_by_backend: bool = False
    """Whether the backend starts it (torchrun, one process per core) rather than a plain Python process."""
    nodes: Callable[[Recipe], int] = lambda recipe: 1
    """On how many of the recipe's nodes it runs, all of them as one."""


def _plain(*sections: Any) -> dict[str, Any]:  # Any: pydantic models of different classes
    return {type(section).__name__: section.model_dump(mode="json") for section in sections}


def _layout(recipe: Recipe) -> dict[str, Any]:
    from neuron_ops.backends import layout  # the table of instance types; needed by two steps only

    return layout(recipe).as_json()


def _nodes_that_rehearse(recipe: Recipe) -> int:
    from neuron_ops.compilers.compiler import warmup_layout

    return warmup_layout(recipe).nodes


def _decides_graphs(recipe: Recipe) -> dict[str, Any]:
    from neuron_ops.backends import decides_graphs

    return decides_graphs(recipe)


STEPS: tuple[Step, ...] = (
    Step(
        verb="fetch",
        artifact="base_model",
        code_version="1",
        inputs=(Input(PUBLISHED_MODEL),),
        reads=lambda recipe: {"id": recipe.base_model.id, "revision": recipe.base_model.revision},
        partitioned=False,
        addressed_by_version=False,
    ),
    Step(
        verb="prepare",
        artifact="tokenized_dataset",
        code_version="1",
        inputs=(Input(RAW_DATASET), Input("base_model", TOKENIZER_FILES)),
        reads=lambda recipe: _plain(recipe.dataset) | {"sequence_length": recipe.graph.sequence_length},
    ),
    Step(
        verb="compile",
        artifact="compiled_graph_cache",
        code_version="2",
        inputs=(Input("base_model", ("config.json",)),),
        reads=lambda recipe: {"graph": recipe.graph.model_dump(mode="json"), **_decides_graphs(recipe)},
        addressed_by_version=False,
        needs_accelerator=True,
        nodes=_nodes_that_rehearse,
    ),
    Step(
        verb="train",
        artifact="lora_checkpoints",
        code_version="2",
        inputs=(Input("tokenized_dataset"), Input("base_model")),
        reads=lambda recipe: _plain(recipe.graph, recipe.training) | {"layout": _layout(recipe)},
        waits_for=("compiled_graph_cache",),
        needs_accelerator=True,
        launched_by_backend=True,
        nodes=lambda recipe: recipe.hardware.nodes,
    ),
    Step(
        verb="consolidate",
        artifact="consolidated_weights",
        code_version="1",
        inputs=(Input("lora_checkpoints", ("checkpoints.json",)), Input("base_model", ("config.json",))),
        reads=lambda recipe: {"base_model": recipe.base_model.id, "revision": recipe.base_model.revision},
    ),
    Step(
        verb="merge",
        artifact="merged_model",
        code_version="3",
        inputs=(
            Input("base_model"),
            Input("consolidated_weights"),
            Input("tokenized_dataset", ("chat_template.jinja", "special_tokens.json")),
        ),
        reads=lambda recipe: {},
    ),
    Step(
        verb="evaluate",
        artifact="evaluation",
        code_version="1",
        inputs=(
            Input("merged_model"),
            Input("consolidated_weights"),
            Input("base_model"),
            Input("tokenized_dataset"),
        ),
        reads=lambda recipe: _plain(recipe.evaluation),
    ),
)

BY_ARTIFACT = {step.artifact: step for step in STEPS}
BY_VERB = {step.verb: step for step in STEPS}


def upstream(step: Step) -> tuple[str, ...]:
    """Names of every artifact that must be finished before this step, the raw dataset included."""
    names = [item.artifact for item in step.inputs if item.artifact != PUBLISHED_MODEL]
    return tuple(dict.fromkeys([*names, *step.waits_for]))
