"""The rehearsal on optimum-neuron's own code: the loop reaches every kind of graph in each rank, and saves nothing."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from neuron_ops import cli, fetch, launch, rehearse
from neuron_ops.ending import Ending
from neuron_ops.graphs.rehearsal import RESULT
from neuron_ops.steps import BY_VERB
from tests.neuron_on_cpu.bench import TP2, TP2_DP2, TWO_NODES, make_recipe, make_run
from tests.neuron_ops.training.workbench import Trainer, arguments, make_raw, open_run

pytestmark = pytest.mark.neuron_on_cpu


def program(*_: str) -> None:
    """`python -m neuron_ops.rehearse`, in a process that has the stand-in device; it reads its flags itself."""
    rehearse.main()


@pytest.mark.parametrize(("machine", "ranks"), [(TP2, 2), (TP2_DP2, 4)], ids=["TP 2", "TP 2 x DP 2"])
def test_it_evaluates_takes_two_steps_and_evaluates_again(
    trainer: Trainer, model: Path, tmp_path: Path, machine: dict[str, Any], ranks: int
) -> None:
    run = make_run(tmp_path, make_recipe(model, training__steps=500, **machine))
    before = set(run.store.files.stamps(""))
    places = arguments(run, tmp_path)[: -len(["--dataset-version", "v"])]

    ended = trainer.request([*places, "--out", str(tmp_path)], ranks, call=f"{__name__}:program")

    assert set(ended.codes) == {0}, ended.log
    lines = [line.partition("step ")[2].partition(" loss")[0] for line in ended.log.splitlines() if " loss " in line]
    # One of the libraries gives the root logger a second handler, so each line is there twice.
    assert list(dict.fromkeys(lines)) == ["0 held-out", "2/2", "2 held-out"]
    assert json.loads((tmp_path / RESULT).read_text())["first_step_seconds"] > 0
    assert set(run.store.files.stamps("")) == before, "no checkpoint"


# In place of neuron_parallel_compile: it runs the program on the stand-in device, and extracts or compiles one graph.
COMPILER = """#!{python}
import os, subprocess, sys
from pathlib import Path
from tests.neuron_ops.graphs.cache_entries import write_entry

words = sys.argv[1:]
collects = words[:2] == ["--command", "collect"]
at = words.index("neuron_ops.rehearse")
argv = [*words[2 * collects:at], "tests.neuron_on_cpu.program", *words[at:]]
status = subprocess.run(argv).returncode
write_entry(Path(os.environ["NEURON_COMPILE_CACHE_URL"]), "a+1", "extracted" if collects else "complete")
sys.exit(status)
"""
# In every process: the machine that the recipe names.
SITE = "from tests.neuron_on_cpu.stand_in import register_machine\n\nregister_machine()\n"


def test_two_groups_of_two_ranks_rehearse_as_one_world(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is real but compiler and device: compile's program on each of two nodes, torchrun, TP 2 x DP 2."""
    make_raw(tmp_path)
    run = open_run(tmp_path, make_recipe(model, training__steps=500, **TWO_NODES))
    cli.make(BY_VERB["fetch"], run, fetch.build)
    program = tmp_path / "neuron_parallel_compile"
    program.write_text(COMPILER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), *sys.path]))
    lines: list[str] = []

    ending = launch.run([sys.executable, "-m", "neuron_ops.compile", *arguments(run, tmp_path)], {}, lines.append)

    assert ending == Ending(0), "".join(lines)
    assert any("step 2/2 loss" in line for line in lines)
    metrics = run.require("compiled_graph_cache").manifest.metrics
    assert metrics["graphs"] == 1
    assert float(metrics["first_step_seconds"] or 0) > 0
