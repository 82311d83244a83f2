"""What these tests work with: the recipes and rows of the CPU's tests, on machines of two or four cores."""

from pathlib import Path
from typing import Any

from neuron_ops import cli, demo, fetch, prepare
from neuron_ops.artifacts import ArtifactStore
from neuron_ops.raw import RawDatasets
from neuron_ops.recipe import Recipe
from neuron_ops.recipe_file import load_recipe
from neuron_ops.run import Run
from neuron_ops.steps import BY_VERB
from tests.neuron_on_cpu.stand_in import FOUR_CORES, TWO_CORES_AND_FABRIC, register_machine
from tests.neuron_ops.training import workbench

RAW = Path(demo.__file__).parent / "raw"
UNPACKED: dict[str, Any] = {"dataset__packing": False, "graph__attention": "eager"}
TP2: dict[str, Any] = {
    "hardware__backend": "neuron",
    "hardware__instance_type": "trn1.2xlarge",
    "hardware__tensor_parallel": 2,
}
TP2_DP2: dict[str, Any] = {**TP2, "hardware__instance_type": FOUR_CORES, "graph__micro_batch_size": 1}
TWO_NODES: dict[str, Any] = {
    **TP2,
    "hardware__instance_type": TWO_CORES_AND_FABRIC,
    "hardware__nodes": 2,
    "graph__micro_batch_size": 1,
}
TP4: dict[str, Any] = {**TP2, "hardware__instance_type": FOUR_CORES, "hardware__tensor_parallel": 4}


def make_recipe(model: Path, **overrides: Any) -> Recipe:
    """The tiny recipe with unpacked rows; on the CPU unless told."""
    register_machine()
    return workbench.make_recipe(model, **{**UNPACKED, **overrides})


def make_run(folder: Path, recipe: Recipe) -> Run:
    """A store in which everything that `train` reads is finished; there is nothing to compile for the stand-in."""
    workbench.make_raw(folder)
    run = workbench.open_run(folder, recipe)
    for verb, build in (("fetch", fetch.build), ("prepare", workbench.prepare), ("compile", _no_graphs)):
        cli.make(BY_VERB[verb], run, build)
    return run


def _no_graphs(run: Run, out: Path) -> cli.Product:
    (out / "report.md").write_text("No compiled graphs: the stand-in compiles none.\n")
    return cli.Product(metrics={"graphs": 0})


def make_demo_recipe(**overrides: Any) -> Recipe:
    """The recipe of the demo, with unpacked rows."""
    register_machine()
    changes = {**UNPACKED, **overrides}
    return load_recipe("tiny_llama_cpu", {name.replace("__", "."): value for name, value in changes.items()})


def make_demo_run(folder: Path, recipe: Recipe) -> Run:
    """The demo's model and rows, fetched and prepared by the real steps."""
    run = open_demo_run(folder, recipe)
    for verb, build in (("fetch", fetch.build), ("prepare", prepare.build), ("compile", _no_graphs)):
        cli.make(BY_VERB[verb], run, build)
    return run


def open_demo_run(folder: Path, recipe: Recipe) -> Run:
    """The same, as it is found there."""
    return Run(recipe, ArtifactStore(str(folder / "store")), RawDatasets(str(RAW)), "demo-v1")
