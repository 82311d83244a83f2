"""torch.compile on a CPU, for real: compiled once, training takes it, and computes and resumes as it would eagerly."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Artifact
from tests.neuron_ops.training import workbench
from tests.neuron_ops.training.workbench import (
    Kill,
    Trainer,
    contents,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
)

pytestmark = pytest.mark.slow  # compiling takes some 20 CPU seconds, whatever the model

DROPOUT = {"graph__lora__lora_dropout": 0.2, "graph__lora__target_modules": ["q_proj", "v_proj"]}


@dataclass(frozen=True)
class Compiled:
    """A store in which everything that a compiled training reads is finished."""

    folder: Path
    recipe: Recipe

    def copy(self, folder: Path) -> Lineage:
        """The same in another place, so that several trainings share one compilation."""
        shutil.copytree(self.folder / "store", folder / "store")
        return open_lineage(folder, self.recipe)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("compiled")
    model = make_model(folder / "model")
    recipe = make_recipe(model, graph__torch_compile=True, **DROPOUT)
    make_lineage(folder, recipe)
    return Compiled(folder, recipe)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def trained(compiled: Compiled, trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    lineage = compiled.copy(tmp_path_factory.mktemp("trained"))
    ended = trainer.train(lineage)
    assert ended.codes == [0], ended.log
    return open_lineage(Path(lineage.store.url).parent, lineage.recipe)


def lora_checkpoints(lineage: Lineage) -> Artifact:
    return lineage.require("lora_checkpoints")


def number(artifact: Artifact, metric: str) -> float:
    value = artifact.manifest.metrics[metric]
    assert isinstance(value, int | float), metric
    return value


def test_training_compiles_nothing_that_was_compiled_before(compiled: Compiled, trained: Lineage) -> None:
    cache = open_lineage(compiled.folder, compiled.recipe).require("compiled_graph_cache")
    training = lora_checkpoints(trained).manifest

    assert number(cache, "graphs") > 0
    assert cache.manifest.metrics["compiler"] == "torch.compile"
    assert {"first_evaluation_seconds", "first_step_seconds", "second_step_seconds"} <= cache.manifest.metrics.keys()
    assert training.metrics["graphs_compiled"] == 0
    assert number(lora_checkpoints(trained), "first_step_seconds") < number(cache, "first_step_seconds")
    (check,) = [check for check in training.checks if check.name == "no_graph_was_compiled"]
    assert check.passed
    assert check.description == f"every graph came from {cache.address}"


def test_compiled_losses_are_eager_losses_but_for_rounding(
    compiled: Compiled, trained: Lineage, tmp_path: Path
) -> None:
    eager = make_lineage(tmp_path, make_recipe(compiled.folder / "model", **DROPOUT))

    expected = history_of(workbench.train_here(eager)).rows

    rows = history_of(lora_checkpoints(trained)).rows
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4), "dropout draws the same, sums may be in another order"


def test_a_killed_compiled_training_ends_with_the_bytes_of_an_undisturbed_one(
    compiled: Compiled, trained: Lineage, trainer: Trainer, tmp_path: Path
) -> None:
    lineage = compiled.copy(tmp_path)

    killed = trainer.train(lineage, Kill("neuron_ops.backends.cpu_process:CpuProcess.backward", call=7))
    ended = trainer.train(lineage)

    assert killed.codes == [-signal.SIGKILL], killed.log
    assert ended.codes == [0], ended.log
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert lora_checkpoints(resumed).manifest.metrics["resumed_from_step"] == 2
    assert contents(resumed) == contents(trained)


def test_layers_and_gradient_checkpointing_need_no_more_graphs(compiled: Compiled) -> None:
    from transformers import LlamaConfig

    assert LlamaConfig.from_pretrained(compiled.folder / "model").num_hidden_layers == 2
    cache = open_lineage(compiled.folder, compiled.recipe).require("compiled_graph_cache")

    # Forward for evaluation; forward and backward of a layer that gets no gradient below it, and of one that does.
    assert cache.manifest.metrics["graphs"] == 5
