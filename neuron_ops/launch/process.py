"""One program as a child of this process: its environment, its process group, and how it ended.

A program runs in a process group of its own. When the caller is interrupted, every process of the group gets SIGTERM,
time to end, then SIGKILL: cancel means cancel, also under torchrun. Which program to run belongs to steps/commands.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuron_ops.launch.grace import STEP_SECONDS
from neuron_ops.launch.oom import MemoryWatch
from neuron_ops.launch.outcome import ERROR_FILE, ExitResult, read_error

LAUNCHER_PID = "FINE_TUNE_LAUNCHER_PID"
"""Variable that names the launching process; a step whose launcher is gone ends itself."""


def run(
    argv: Sequence[str], extra_environment: Mapping[str, str], on_line: Callable[[str], None] | None = None
) -> ExitResult:
    """Run a step's program to its end and return how it ended. `on_line` works as in `execute`."""
    with tempfile.TemporaryDirectory(prefix="fine-tune-error-") as scratch:
        file, memory = Path(scratch, "error"), MemoryWatch()
        status = execute(argv, {**extra_environment, ERROR_FILE: str(file)}, on_line)
        return ExitResult(status, read_error(file), memory.verdict() if status != 0 else "")


def execute(
    argv: Sequence[str], extra_environment: Mapping[str, str], on_line: Callable[[str], None] | None = None
) -> int:
    """Run a program to its end and return its exit status; negative for a signal, as in subprocess.

    The program inherits this process's environment, which is not read here. An exception that interrupts the wait ends
    the whole process group and is then raised again. With `on_line`, each line of the program's output goes there
    instead of to this process's output.
    """
    process = start(argv, extra_environment, own_group=True, output=None if on_line is None else subprocess.PIPE)
    try:
        if on_line is not None and process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    on_line(line.decode(errors="replace"))
        return process.wait()
    except BaseException:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STEP_SECONDS)
        raise
    finally:
        # Also after a clean exit: a rank that outlived its leader would hold the accelerator.
        _signal(process, signal.SIGKILL)
        process.wait()


def start(
    argv: Sequence[str], extra_environment: Mapping[str, str], own_group: bool, output: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that ends itself when this process is gone; its output goes to this process's, or to `output`."""
    environment = {**os.environ, **extra_environment, LAUNCHER_PID: str(os.getpid())}
    errors = None if output is None else subprocess.STDOUT
    return subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=own_group
    )


def end_without_launcher(launcher: int, interval: float = 1.0) -> None:
    """Return once process `launcher` or this process's parent is gone; called in a thread of the step.

    SIGKILL reaches the launcher only: without this, its training would go on with nobody waiting for it. The parent
    matters under torchrun, which puts every rank into a session of its own: SIGKILL of torchrun's group misses them.
    """
    parent = os.getppid()
    while os.getppid() == parent and _is_alive(launcher):
        time.sleep(interval)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to notice; False if there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] == b"Z"
