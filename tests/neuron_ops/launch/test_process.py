"""From a step to a running program, and to its end: cancel means cancel, for every process that it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.launch import process
from neuron_ops.launch.outcome import ERROR_FILE, ExitResult
from neuron_ops.launch.process import LAUNCHER_PID, execute
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.commands import command, environment
from neuron_ops.steps.table import BY_VERB, STEPS

PATIENCE = 60.0
"""Seconds after which a process that should have ended has not; only a failing test waits that long."""

# What a Dagster process is to a step: it launches it and is interrupted. Arguments: grace, then the step's command.
LAUNCHER = """
import signal, sys
from neuron_ops.launch import process

def interrupt(number, frame):
    raise SystemExit(128 + number)

process.STEP_SECONDS = float(sys.argv[1])
signal.signal(signal.SIGTERM, interrupt)
sys.exit(process.execute(sys.argv[2:], {}) % 256)
"""

# A step with a child in its process group; both say who they are.
TREE = """
import os, signal, subprocess, sys, time

if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

# A real step program that is busy until it is ended.
STEP = """
import os, signal, time
from neuron_ops.steps import program

def build(run, out):
    (out / "half").write_text("x")
    if os.environ.get("DEAF"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as inside a collective: Python gets no signal
    print(os.getpid(), flush=True)
    time.sleep(600)

program.main("fetch", build)
"""

# What torchrun is to a step: every rank in a session of its own, so that no signal to torchrun's group reaches it.
TORCHRUN = """
import os, subprocess, sys

rank = subprocess.Popen(sys.argv[1:], start_new_session=True)
print(os.getpid(), flush=True)
rank.wait()
"""


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("tiny_llama_cpu")


@pytest.fixture
def step(tmp_path: Path) -> list[str]:
    """The command of a step program that is busy until it is ended."""
    (tmp_path / "model").mkdir()
    recipe = load_recipe("tiny_llama_cpu", {"base_model.path": str(tmp_path / "model")})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    return [
        *[sys.executable, "-c", STEP],
        *["--recipe", str(tmp_path / "recipe.json"), "--store", str(tmp_path / "store")],
    ]


@pytest.mark.parametrize("verb", [step.verb for step in STEPS])
def test_a_step_is_one_python_program_with_the_closed_set_of_flags(recipe: Recipe, verb: str) -> None:
    argv = command(BY_VERB[verb], recipe, Path("/r.json"), "s3://b/store", "/raw", "v1")

    version = ["--dataset-version", "v1"] if verb != "fetch" else []
    flags = ["--recipe", "/r.json", "--store", "s3://b/store", "--raw", "/raw"]
    assert argv == [sys.executable, "-m", f"neuron_ops.steps.{verb}", *flags, *version]


def test_training_on_several_processes_goes_through_the_program_that_starts_them_all() -> None:
    argv = command(BY_VERB["train"], load_recipe("llama3_8b_lora_trn1"), Path("/r.json"), "/store", "/raw", "v1")

    flags = ["--recipe", "/r.json", "--store", "/store", "--raw", "/raw", "--dataset-version", "v1"]
    assert argv == [sys.executable, "-m", "neuron_ops.steps.nodes", "train", *flags]


@pytest.mark.parametrize("verb", [step.verb for step in STEPS if not step.launched_by_backend])
def test_every_other_step_is_one_process_on_any_hardware(verb: str) -> None:
    argv = command(BY_VERB[verb], load_recipe("llama3_8b_lora_trn1"), Path("/r.json"), "/store", "/raw", "v1")

    assert argv[:3] == [sys.executable, "-m", f"neuron_ops.steps.{verb}"]


def test_a_world_that_does_not_divide_is_refused_before_anything_starts() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1", {"hardware.tensor_parallel_size": 3})

    with pytest.raises(InvalidInput, match="tensor_parallel_size is 3"):
        command(BY_VERB["train"], recipe, Path("/r.json"), "/store", "/raw", "v1")


def test_the_environment_is_for_the_steps_that_book_the_hardware() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1", {"hardware.threads": 3})

    found = {step.verb: environment(step, recipe).get("OMP_NUM_THREADS") for step in STEPS}

    assert {verb for verb, threads in found.items() if threads == "3"} == {"train", "compile"}


def test_a_run_brings_back_the_error_that_the_program_left() -> None:
    line = '{"exit_code": 2, "message": "the reason"}'

    ending = process.run(["sh", "-c", f"echo '{line}' > ${ERROR_FILE}; exit 1"], {})

    assert ending.status == 1
    assert (type(ending.error), str(ending.error)) == (InvalidInput, "the reason")


def test_a_run_without_an_error_brings_back_its_status() -> None:
    assert process.run(["sh", "-c", "exit 7"], {}) == ExitResult(7)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 5", 5), ("kill -9 $$", -9)])
def test_the_status_is_the_programs_own(script: str, status: int) -> None:
    assert execute(["sh", "-c", script], {}) == status


def test_a_program_inherits_the_environment_and_learns_who_launched_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "yes")

    execute(["sh", "-c", f'echo "$INHERITED $EXTRA ${LAUNCHER_PID}"; cat'], {"EXTRA": "too"})

    assert capfd.readouterr().out == f"yes too {os.getpid()}\n"


def test_a_program_runs_in_a_process_group_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    execute([sys.executable, "-S", "-c", "import os; print(os.getpid(), os.getpgid(0), os.getsid(0))"], {})

    pid, group, session = map(int, capfd.readouterr().out.split())
    assert pid == group == session
    assert group != os.getpgid(0)


def test_what_outlives_its_program_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    """A rank that outlived its leader would hold the accelerator."""
    status = execute(["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], {})

    child = int(capfd.readouterr().out)
    assert status == 0
    _assert_gone(child)


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("manners", ["polite", "deaf"])
def test_interrupting_the_launcher_ends_every_process(interrupt: signal.Signals, manners: str) -> None:
    grace = "60" if manners == "polite" else "0.5"

    with _launched(grace, [sys.executable, "-S", "-c", TREE, manners]) as launcher:
        step, child = _pids(launcher)
        launcher.send_signal(interrupt)
        status = launcher.wait(PATIENCE)

    assert status == (143 if interrupt == signal.SIGTERM else -signal.SIGINT)
    _assert_gone(step, child)


def test_an_interrupted_step_removes_what_it_had_half_written(step: list[str], tmp_path: Path) -> None:
    with _launched("60", step) as launcher:
        (pid,) = _pids(launcher)
        launcher.terminate()
        launcher.wait(PATIENCE)

    _assert_gone(pid)
    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "base_model"]


def test_killing_the_launcher_ends_the_step(step: list[str], tmp_path: Path) -> None:
    with _launched("60", step) as launcher:
        (pid,) = _pids(launcher)
        launcher.kill()

        _assert_gone(pid)

    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "base_model"]


def test_killing_the_launcher_ends_ranks_even_while_nobody_has_noticed_its_death(step: list[str]) -> None:
    """A launcher that is dead, but for which its parent has not waited, still has a process id."""
    with _launched("60", [sys.executable, "-S", "-c", TORCHRUN, *step]) as launcher:
        torchrun, rank = _pids(launcher, 2)
        launcher.kill()

        _assert_gone(rank, torchrun)
        assert psutil.Process(launcher.pid).status() == psutil.STATUS_ZOMBIE


def test_killing_torchrun_ends_its_ranks(step: list[str]) -> None:
    """As the kernel does when memory runs out; the launcher lives on, and the ranks would hold the accelerator."""
    with _launched("60", [sys.executable, "-S", "-c", TORCHRUN, *step]) as launcher:
        torchrun, rank = _pids(launcher, 2)
        os.kill(torchrun, signal.SIGKILL)
        status = launcher.wait(PATIENCE)

        _assert_gone(rank)

    assert status == -signal.SIGKILL % 256


@pytest.mark.slow  # ten seconds: the time that a step gets to end itself properly
def test_a_step_that_never_returns_to_python_ends_too(step: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAF", "1")

    with _launched("60", step) as launcher:
        (pid,) = _pids(launcher)
        launcher.kill()

        _assert_gone(pid)


@contextmanager
def _launched(grace: str, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", LAUNCHER, grace, *argv]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as launcher:
        try:
            yield launcher
        finally:
            _kill_tree(launcher.pid)


def _kill_tree(pid: int) -> None:
    """Whatever a failing test leaves."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _pids(launcher: subprocess.Popen[str], lines: int = 1) -> list[int]:
    """What the launched programs say about themselves, in the order in which they were started."""
    assert launcher.stdout is not None
    return [int(pid) for _ in range(lines) for pid in launcher.stdout.readline().split()]


def _assert_gone(*pids: int) -> None:
    end = time.monotonic() + PATIENCE
    while alive := [pid for pid in pids if _is_running(pid)]:
        assert time.monotonic() < end, f"still running: {alive}"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
