"""The warm-up on optimum-neuron's own code: the loop reaches every kind of graph in each rank, and saves nothing."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.launch import process
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.steps import fetch
from neuron_ops.steps.program import make
from neuron_ops.steps.table import BY_VERB
from neuron_ops.steps.warmup_launcher import RESULT
from tests.neuron_on_cpu.bench import TP2, TP2_DP2, TWO_NODES, make_lineage, make_recipe
from tests.neuron_ops.training.workbench import Trainer, arguments, make_raw, open_lineage

pytestmark = pytest.mark.neuron_on_cpu


def program(*_: str) -> None:
    """`python -m neuron_ops.steps.warmup`, in a process that has the stand-in device; it reads its flags itself."""
    from neuron_ops.steps import warmup

    warmup.main()


@pytest.mark.parametrize(("machine", "ranks"), [(TP2, 2), (TP2_DP2, 4)], ids=["TP 2", "TP 2 x DP 2"])
def test_it_evaluates_takes_two_steps_and_evaluates_again(
    trainer: Trainer, model: Path, tmp_path: Path, machine: dict[str, Any], ranks: int
) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, training__max_steps=500, **machine))
    before = set(lineage.store.files.stamps(""))
    places = arguments(lineage, tmp_path)[: -len(["--dataset-version", "v"])]

    ended = trainer.request([*places, "--out", str(tmp_path)], ranks, call=f"{__name__}:program")

    assert set(ended.codes) == {0}, ended.log
    lines = [line.partition("step ")[2].partition(" loss")[0] for line in ended.log.splitlines() if " loss " in line]
    # One of the libraries gives the root logger a second handler, so each line is there twice.
    assert list(dict.fromkeys(lines)) == ["0 held-out", "2 held-out"]
    assert json.loads((tmp_path / RESULT).read_text())["first_step_seconds"] > 0
    assert set(lineage.store.files.stamps("")) == before, "no checkpoint"


# In place of neuron_parallel_compile: it runs the program on the stand-in device, and extracts or compiles one graph.
COMPILER = """#!{python}
import os, subprocess, sys
from pathlib import Path
from tests.neuron_ops.compilers.cache_entries import write_entry

words = sys.argv[1:]
collects = words[:2] == ["--command", "collect"]
at = words.index("neuron_ops.steps.warmup")
argv = [*words[2 * collects:at], "tests.neuron_on_cpu.program", *words[at:]]
status = subprocess.run(argv).returncode
write_entry(Path(os.environ["NEURON_COMPILE_CACHE_URL"]), "a+1", "extracted" if collects else "complete")
sys.exit(status)
"""
# In every process: the machine that the recipe names.
SITE = "from tests.neuron_on_cpu.stand_in import register_machine\n\nregister_machine()\n"


def test_two_groups_of_two_ranks_warm_up_as_one_world(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is real but compiler and device: compile's program on each of two nodes, torchrun, TP 2 x DP 2."""
    make_raw(tmp_path)
    lineage = open_lineage(tmp_path, make_recipe(model, training__max_steps=500, **TWO_NODES))
    make(BY_VERB["fetch"], lineage, fetch.build)
    program = tmp_path / "neuron_parallel_compile"
    program.write_text(COMPILER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), *sys.path]))
    lines: list[str] = []

    ending = process.run(
        [sys.executable, "-m", "neuron_ops.steps.compile", *arguments(lineage, tmp_path)], {}, lines.append
    )

    assert ending == ExitResult(0), "".join(lines)
    assert any("step 2 held-out loss" in line for line in lines)
    metrics = lineage.require("compiled_graph_cache").manifest.metrics
    assert metrics["graphs"] == 1
    assert float(metrics["first_step_seconds"] or 0) > 0
