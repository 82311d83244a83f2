"""Every process of a training, in real torchrun groups: the same result as on one node, one end for all of them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from neuron_ops.backends import environment, layout
from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.launch import process, torchrun
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.launch.torchrun import Rendezvous
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import BY_VERB
from tests.neuron_ops.training.workbench import (
    VERSION,
    Trainer,
    arguments,
    contents,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
)

PATIENCE = 60.0
"""Seconds after which a process that should have ended has not; only a failing test waits that long."""

TWO_NODES = {"hardware__nodes": 2, "hardware__processes": 1}


# A rank as every step program is one, busy until it is ended; and the world around two of them.
RANK = "import time; from neuron_ops.steps import program; program.run_program(lambda: time.sleep(604))"
WORLD = """
import sys
from neuron_ops.steps import program
from neuron_ops.backends import environment, layout
from neuron_ops.launch.torchrun import Rendezvous, command, run_groups
from neuron_ops.recipe.file import load_recipe

def body():
    recipe, rendezvous = load_recipe(sys.argv[1]), Rendezvous.on_this_machine()
    argv = ["--no-python", sys.executable, "-c", sys.argv[2]]
    groups = {node: command(layout(recipe), node, rendezvous, argv) for node in (0, 1)}
    run_groups(groups, rendezvous, environment(recipe), lambda address, port: {})

program.run_program(body)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    assert trainer.server.stdin is not None
    assert trainer.server.stdout is not None
    trainer.server.stdin.close()
    trainer.server.wait()
    trainer.server.stdout.close()


def recipe_of(nodes: int, processes: int) -> Recipe:
    return load_recipe("tiny_llama_cpu", {"hardware.nodes": nodes, "hardware.processes": processes})


def test_one_node_meets_by_itself() -> None:
    argv = torchrun.command(
        layout(recipe_of(1, 4)), 0, Rendezvous("127.0.0.1", 29500), ["-m", "neuron_ops.steps.train"]
    )

    group = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4"]
    assert argv == [*group, "--standalone", "-m", "neuron_ops.steps.train"]


def test_each_of_several_nodes_knows_its_number_and_where_node_0_is() -> None:
    world = layout(load_recipe("llama3_8b_lora_trn1", {"hardware.nodes": 4}))

    argv = torchrun.command(
        world, 3, Rendezvous("training-0.training", 29500), ["-m", "neuron_ops.steps.train", "--store", "/s"]
    )

    assert argv[3:8] == [
        *["--nproc-per-node=32", "--nnodes=4", "--node-rank=3"],
        *["--master-addr=training-0.training", "--master-port=29500"],
    ]
    assert argv[-4:] == ["-m", "neuron_ops.steps.train", "--store", "/s"]


@pytest.mark.slow
def test_two_nodes_train_the_bytes_that_two_processes_on_one_node_train(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    few: dict[str, object] = {"graph__micro_batch_size": 1, "graph__lora__lora_dropout": 0.2}
    lineage = make_lineage(tmp_path, make_recipe(model, **few, **TWO_NODES))
    alone = make_recipe(model, **few, hardware__processes=2)

    argv = [sys.executable, "-m", "neuron_ops.steps.nodes", "train", *arguments(lineage, tmp_path)]
    ending = process.run(argv, {})

    assert ending == ExitResult(0)
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(
        make_lineage(tmp_path / "alone", alone)
    )


@pytest.mark.slow
def test_a_step_that_a_person_types_starts_every_process_and_ends_with_its_error_once(
    model: Path, tmp_path: Path
) -> None:
    """By itself one process would train a world of one; and torchrun turns every exit code into 1."""
    lineage = make_lineage(tmp_path, make_recipe(model, hardware__processes=2, training__learning_rate=1e30))

    argv = [sys.executable, "-m", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == InvalidInput.exit_code, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Training diverged: the ")
    assert done.stderr.count("error: Training diverged") == 1
    assert "OMP_NUM_THREADS" not in done.stderr, "torchrun's banner about threads"


@pytest.mark.slow
def test_a_step_that_a_person_types_without_its_inputs_starts_no_process(model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, hardware__processes=2))
    shutil.rmtree(tmp_path / "store" / "compiled_graph_cache")

    argv = [sys.executable, "-m", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == MissingArtifact.exit_code
    assert done.stderr.startswith("error: compiled_graph_cache was never finished")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_of_processes_that_cannot_say_why_they_ended_the_last_word_is_ours(model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, hardware__processes=2))
    (tmp_path / "sitecustomize.py").write_text("import os\nif os.environ.get('RANK') == '1': os._exit(9)\n")

    argv = [sys.executable, "-m", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]
    searched = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": searched}, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "neuron_ops.steps.nodes train failed, but no process reported an error; look above for the root cause that "
        "torchrun names"
    )


@pytest.mark.slow
def test_when_one_node_fails_the_others_are_ended() -> None:
    program, found = ["--no-python", sys.executable, "-c", RANK], dict[str, list[psutil.Process]]()

    def kill_a_rank() -> None:
        wait_until(lambda: len(ranks_below(os.getpid())) == 2)
        found["ranks"] = ranks_below(os.getpid())
        found["ranks"][1].kill()

    recipe, rendezvous = recipe_of(2, 1), Rendezvous.on_this_machine()
    groups = {node: torchrun.command(layout(recipe), node, rendezvous, program) for node in (0, 1)}
    thread = threading.Thread(target=kill_a_rank)
    thread.start()
    result = torchrun.run_groups(groups, rendezvous, environment(recipe), lambda address, port: {})
    thread.join()

    assert result == ExitResult(1)
    assert_gone(found["ranks"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_cancelling_ends_every_process_of_every_node(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_of(2, 1).to_json())

    with subprocess.Popen([sys.executable, "-c", WORLD, str(tmp_path / "recipe.json"), RANK]) as world:
        wait_until(lambda: len(ranks_below(world.pid)) == 2)
        processes = psutil.Process(world.pid).children(recursive=True)
        world.send_signal(number)
        status = world.wait(PATIENCE)

    assert status == (143 if number == signal.SIGTERM else -number)
    assert len(processes) == 4, "two groups, and a rank in each"
    assert_gone(processes)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--node", "2", "--rendezvous", "node-0:29500"], "--node is 2. Give one of 0 to 1"),
        (["--node", "1"], "--node is 1. Give one of 0 to 1, and --rendezvous HOST:PORT"),
        (["--node", "1", "--rendezvous", "node-0"], "--rendezvous is 'node-0'. Give HOST:PORT"),
    ],
)
def test_a_node_that_cannot_be_is_one_clear_error(words: list[str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_of(2, 1).to_json())
    flags = ["--recipe", str(tmp_path / "recipe.json"), "--store", str(tmp_path), "--dataset-version", VERSION]

    argv = [sys.executable, "-m", "neuron_ops.steps.nodes", *words, "train", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == InvalidInput.exit_code
    assert done.stderr.startswith(f"error: {reason}")


@pytest.mark.parametrize(
    ("recipe", "overrides", "expected"),
    [
        ("llama3_8b_lora_trn1", {}, {"compile", "train"}),
        ("tiny_llama_cpu", {}, {"train"}),
        ("tiny_llama_cpu", {"graph.torch_compile": True}, {"train"}),
    ],
)
def test_training_takes_every_node_and_compile_only_where_a_graph_depends_on_their_number(
    recipe: str, overrides: dict[str, object], expected: set[str]
) -> None:
    two_nodes = load_recipe(recipe, {**overrides, "hardware.nodes": 2})

    assert {verb: nodes for verb, step in BY_VERB.items() if (nodes := step.nodes(two_nodes)) > 1} == dict.fromkeys(
        expected, 2
    )


def ranks_below(pid: int) -> list[psutil.Process]:
    return [process for process in psutil.Process(pid).children(recursive=True) if is_rank(process)]


def is_rank(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[-1:] == [RANK] and "torch.distributed.run" not in process.cmdline()
    except psutil.Error:  # gone, or a zombie
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
