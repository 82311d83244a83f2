"""Python's own record of the processes that a block starts."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STARTS_A_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}


class Watch:
    """Python's own record of every process that this process starts; an audit hook cannot be got around."""

    def __init__(self) -> None:
        self._started: list[str] | None = None
        sys.addaudithook(self._note)

    @contextmanager
    def steps(self) -> Iterator[list[str]]:
        """The step programs started within the block; Dagster starts `tail` besides, to capture its log."""
        steps: list[str] = []
        self._started = []
        yield steps
        steps += [verb for started in self._started for verb in re.findall(r"'neuron_ops\.steps\.(\w+)'", started)]
        self._started = None

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._started is not None and event in STARTS_A_PROCESS:
            self._started.append(str(arguments))
