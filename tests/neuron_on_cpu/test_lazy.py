"""On real, lazy torch_xla: training needs no graph that the warm-up lacks, and a kill changes no byte.

One process and no compiler for Trainium, but torch_xla's own tracing, synchronizations and generator.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_ops.steps.addresses import Lineage
from tests.neuron_on_cpu.bench import ONE_CORE, make_lineage, make_recipe
from tests.neuron_ops.training.workbench import arguments, contents, open_lineage

pytestmark = pytest.mark.neuron_on_cpu


def run(program: str, argv: list[str], graphs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A step's program; `graphs` then has a file named after each graph."""
    return subprocess.run(
        [sys.executable, "-m", "tests.neuron_on_cpu.lazy_program", program, *argv],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "GRAPHS": str(graphs), **variables},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def lineage_of(folder: Path, model: Path) -> Lineage:
    return make_lineage(folder, make_recipe(model, **ONE_CORE, graph__lora__lora_dropout=0.2))


def names(graphs: Path) -> set[str]:
    return {file.name for file in graphs.iterdir()}


def test_training_needs_no_graph_that_the_warm_up_lacks_and_a_kill_changes_no_byte(model: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = (lineage_of(tmp_path / name, model) for name in ("undisturbed", "disturbed"))
    argv = arguments(undisturbed, tmp_path / "undisturbed")
    places = argv[: argv.index("--dataset-version")]
    other = arguments(disturbed, tmp_path / "disturbed")

    warmed_up = run("neuron_ops.steps.warmup", [*places, "--out", str(tmp_path)], tmp_path / "warm-up")
    trained = run("neuron_ops.steps.train", argv, tmp_path / "train")
    killed = run("neuron_ops.steps.train", other, tmp_path / "killed", DIE="9")
    resumed = run("neuron_ops.steps.train", other, tmp_path / "resumed")

    assert warmed_up.returncode == 0, warmed_up.stderr
    assert trained.returncode == 0, trained.stderr
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert resumed.returncode == 0, resumed.stderr
    assert names(tmp_path / "train") == names(tmp_path / "warm-up")
    assert names(tmp_path / "resumed") <= names(tmp_path / "warm-up")
    ended, expected = (open_lineage(tmp_path / name, undisturbed.recipe) for name in ("disturbed", "undisturbed"))
    assert ended.require("lora_checkpoints").manifest.metrics["resumed_from_step"] == 4
    assert contents(ended) == contents(expected)
