"""A step is a child process: what becomes of it when the command that waits for it is interrupted or killed."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus

from tests.fine_tune_assets.conftest import FEW_STEPS, Project

pytestmark = pytest.mark.slow

PATIENCE = 120.0
"""Seconds to wait for something that takes a few on a machine of its own."""
STEPS = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, dagster_home: Path) -> Project:
    """A project with a training of some seconds and many checkpoints ahead of it."""
    project = Project(tmp_path_factory.mktemp("prepared"), {**FEW_STEPS, "training.max_steps": STEPS})
    shutil.copytree(dagster_home, project.home)
    project.deliver("v1")
    project.register("v1")
    assert project.materialize("v1", "base_model", "tokenized_dataset", "compiled_graph_cache").success
    return project


@pytest.fixture
def training(prepared: Project, request: pytest.FixtureRequest) -> Project:
    """The same with a learning rate, and therefore a training, of the test's own."""
    return replace(prepared, overrides={**prepared.overrides, "training.learning_rate": request.param})


@pytest.mark.parametrize("training", [1e-3], indirect=True)
def test_a_training_that_is_interrupted_or_killed_leaves_no_process_and_resumes(training: Project) -> None:
    interrupted, step = start_training(training, after_step=0)
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=20)
    assert_gone(step, seconds=5)
    reached = newest_checkpoint(training)
    assert interrupted.returncode == 1
    assert "STEP_UP_FOR_RETRY" not in said
    assert last_status(training) == DagsterRunStatus.FAILURE

    killed, step = start_training(training, after_step=reached)
    killed.kill()
    killed.communicate()
    assert_gone(step, seconds=20)
    reached = newest_checkpoint(training)

    finished = training.command(*training.materialize_words("v1", "lora_checkpoints"))
    assert finished.returncode == 0, finished.stderr
    metrics = training.lineage("v1").require("lora_checkpoints").manifest.metrics
    assert metrics["resumed_from_step"] == reached
    assert metrics["steps"] == STEPS


@pytest.mark.parametrize("training", [2e-3], indirect=True)
def test_a_step_that_is_killed_from_outside_is_tried_again_and_resumes(training: Project) -> None:
    with ThreadPoolExecutor(1) as pool:
        killed_at = pool.submit(kill_step, training)
        result = training.materialize("v1", "lora_checkpoints")

    assert result.success
    [retry] = [event for event in result.all_events if event.event_type == DagsterEventType.STEP_UP_FOR_RETRY]
    assert "train was killed by signal 9 (out of memory is the usual reason" in str(retry.step_retry_data.error)
    metrics = training.lineage("v1").require("lora_checkpoints").manifest.metrics
    assert metrics["resumed_from_step"] == killed_at.result()


@pytest.mark.parametrize("training", [3e-3], indirect=True)
def test_two_nodes_of_which_one_is_killed_start_again_together_and_resume(training: Project) -> None:
    two_nodes = replace(training, overrides={**training.overrides, "hardware.nodes": 2, "hardware.processes": 1})
    with ThreadPoolExecutor(1) as pool:
        killed_at = pool.submit(kill_rank, two_nodes)
        result = two_nodes.materialize("v1", "compiled_graph_cache", "lora_checkpoints")

    assert result.success
    assert "STEP_UP_FOR_RETRY" not in [event.event_type_value for event in result.all_events]
    with two_nodes.instance() as instance:
        lines = [record.user_message for record in instance.all_logs(result.run_id)]
    assert "train ended with exit status 1. All nodes start again, from the last checkpoint if there is one." in lines
    metrics = two_nodes.lineage("v1").require("lora_checkpoints").manifest.metrics
    assert isinstance(metrics["resumed_from_step"], int)
    assert metrics["resumed_from_step"] >= killed_at.result()
    assert metrics["steps"] == STEPS


def kill_rank(project: Project) -> int:
    """Kill one of a training's two ranks once there is a checkpoint; the newest checkpoint then."""
    wait_until(lambda: newest_checkpoint(project) > 0)
    ranks = [rank for rank in training_processes(psutil.Process()) if "torch.distributed.run" not in rank.cmdline()]
    reached = newest_checkpoint(project)
    ranks[1].kill()
    return reached


def kill_step(project: Project) -> int:
    """Kill the training of this process once it has a checkpoint; the newest checkpoint then."""
    wait_until(lambda: newest_checkpoint(project) > 0)
    [process] = training_processes(psutil.Process())
    process.kill()
    wait_until(lambda: not training_processes(psutil.Process()))
    return newest_checkpoint(project)


def start_training(project: Project, after_step: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The command in the middle of a training that has made a new checkpoint, and its training processes."""
    command = project.start(*project.materialize_words("v1", "lora_checkpoints"))
    wait_until(lambda: newest_checkpoint(project) > after_step)
    below = training_processes(psutil.Process(command.pid))
    assert below
    return command, below


def training_processes(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children(recursive=True) if is_training(child)]


def is_training(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # gone, or a zombie
        return "neuron_ops.steps.train" in process.cmdline()
    return False


def newest_checkpoint(project: Project) -> int:
    address = project.lineage("v1").provenance("lora_checkpoints").address
    manifests = (project.root / "store" / str(address)).glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in manifests), default=0)


def last_status(project: Project) -> DagsterRunStatus:
    with project.instance() as instance:
        return instance.get_runs(limit=1)[0].status


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert alive == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
