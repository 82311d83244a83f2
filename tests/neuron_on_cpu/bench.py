"""What these tests work with: the recipes and rows of the CPU's tests, on machines of two or four cores."""

from pathlib import Path
from typing import Any

from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe, package_path
from neuron_ops.steps import fetch, prepare, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_on_cpu.stand_in import FOUR_CORES, ONE, TWO_CORES_AND_FABRIC, register_machine
from tests.neuron_ops.training import workbench

RAW = Path(str(package_path("package:demo/raw")))
UNPACKED: dict[str, Any] = {"dataset__packing": False, "graph__attn_implementation": "eager"}
ONE_CORE: dict[str, Any] = {
    "hardware__backend": "neuron",
    "hardware__instance_type": ONE,
    "hardware__tensor_parallel_size": 1,
}
TP2: dict[str, Any] = {
    "hardware__backend": "neuron",
    "hardware__instance_type": "trn1.2xlarge",
    "hardware__tensor_parallel_size": 2,
}
TP2_DP2: dict[str, Any] = {**TP2, "hardware__instance_type": FOUR_CORES, "graph__micro_batch_size": 1}
TWO_NODES: dict[str, Any] = {
    **TP2,
    "hardware__instance_type": TWO_CORES_AND_FABRIC,
    "hardware__nodes": 2,
    "graph__micro_batch_size": 1,
}
TP4: dict[str, Any] = {**TP2, "hardware__instance_type": FOUR_CORES, "hardware__tensor_parallel_size": 4}


def make_recipe(model: Path, **overrides: Any) -> Recipe:
    """The tiny recipe with unpacked rows; on the CPU unless told."""
    register_machine()
    return workbench.make_recipe(model, **{**UNPACKED, **overrides})


def make_lineage(folder: Path, recipe: Recipe) -> Lineage:
    """A store in which everything that `train` reads is finished; there is nothing to compile for the stand-in."""
    workbench.make_raw(folder)
    lineage = workbench.open_lineage(folder, recipe)
    for verb, build in (("fetch", fetch.build), ("prepare", workbench.prepare), ("compile", _no_graphs)):
        program.make(BY_VERB[verb], lineage, build)
    return lineage


def _no_graphs(lineage: Lineage, out: Path) -> program.StepResult:
    (out / "report.md").write_text("No compiled graphs: the stand-in compiles none.\n")
    return program.StepResult(metrics={"graphs": 0})


def make_demo_recipe(**overrides: Any) -> Recipe:
    """The recipe of the demo, with unpacked rows."""
    register_machine()
    changes = {**UNPACKED, **overrides}
    return load_recipe("tiny_llama_cpu", {name.replace("__", "."): value for name, value in changes.items()})


def make_demo_run(folder: Path, recipe: Recipe) -> Lineage:
    """The demo's model and rows, fetched and prepared by the real steps."""
    lineage = open_demo_run(folder, recipe)
    for verb, build in (("fetch", fetch.build), ("prepare", prepare.build), ("compile", _no_graphs)):
        program.make(BY_VERB[verb], lineage, build)
    return lineage


def open_demo_run(folder: Path, recipe: Recipe) -> Lineage:
    """The same, as it is found there."""
    return Lineage(recipe, ArtifactStore(str(folder / "store")), RawDatasets(str(RAW)), "demo-v1")
