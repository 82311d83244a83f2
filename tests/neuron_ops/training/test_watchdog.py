"""A training that stands still is ended, whatever it waits in; one that goes on is left alone."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_ops.errors import Unavailable
from neuron_ops.launch import process
from neuron_ops.steps.program import end_at_once
from neuron_ops.training.watchdog import Watchdog
from tests.neuron_ops.training.workbench import (
    Kill,
    Trainer,
    contents,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
)

BACKWARD = "neuron_ops.backends.cpu_process:CpuProcess.backward"
TWO_PROCESSES = {"graph__micro_batch_size": 1, "hardware__processes": 2}

# PyDLL keeps the interpreter's lock while native code runs, so that no Python thread does.
STUCK_WITH_THE_LOCK = """
import ctypes
from neuron_ops.steps.program import end_at_once
from neuron_ops.training.watchdog import Watchdog

with Watchdog(0.01, end_at_once):
    ctypes.PyDLL(None).sleep(600)
"""

WAITING = """
import time
from neuron_ops.steps.program import end_at_once
from neuron_ops.training.watchdog import Watchdog

with Watchdog(0.01, end_at_once):
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    trainer.close()


@pytest.mark.slow
def test_a_rank_whose_peer_hangs_ends_itself_and_the_training_resumes(trainer: Trainer, tmp_path: Path) -> None:
    model = make_model(tmp_path / "published" / "model")
    impatient = make_recipe(model, **TWO_PROCESSES, hardware__stall_minutes=0.1)
    patient = make_recipe(model, **TWO_PROCESSES)
    lineage = make_lineage(tmp_path, impatient)

    stalled = trainer.train(lineage, Kill(BACKWARD, call=7, rank=1, stop=True))
    ended = trainer.train(open_lineage(tmp_path, patient))

    assert stalled.codes == [Unavailable.exit_code, -signal.SIGKILL], stalled.log
    assert "error: No micro-batch ended for 0.1 minutes (hardware.stall_minutes)" in stalled.log
    assert "most recent call first" in stalled.log, "the stack of every thread"
    assert "in _update" in stalled.log or "in sum_over_ranks" in stalled.log, "and in it, where the rank waits"
    assert set(ended.codes) == {0}, ended.log
    resumed = open_lineage(tmp_path, patient)
    assert resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"] == 2
    assert contents(resumed) == trainer.uninterrupted(lineage)


def test_the_launcher_learns_why_the_training_was_ended_and_that_another_try_is_worth_it() -> None:
    ending = process.run([sys.executable, "-c", WAITING], {})

    assert ending.status == Unavailable.exit_code
    assert str(ending.error).startswith("No micro-batch ended for 0.01 minutes (hardware.stall_minutes)")
    assert not ending.final


def test_native_code_that_keeps_the_interpreter_s_lock_is_ended_as_well() -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK_WITH_THE_LOCK], stderr=subprocess.PIPE, text=True, check=False)

    assert ended.returncode == 1
    assert "most recent call first" in ended.stderr


def test_when_training_is_over_nobody_watches() -> None:
    with Watchdog(30, end_at_once) as watchdog:
        watchdog.progress()
        during = [thread.name for thread in threading.enumerate()]

    assert "watchdog" in during
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
