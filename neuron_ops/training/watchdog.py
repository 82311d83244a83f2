"""The end of a training that stands still: a rank that waits for a dead one in a collective waits for ever.

Each rank watches itself. What counts as progress belongs to the loop, how long is too long to the recipe.
"""

import faulthandler
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from neuron_ops.errors import Unavailable

STDERR = 2
"""The descriptor itself: tests and notebooks put other objects in the place of sys.stderr."""
LOOKS_PER_LIMIT = 20
LONGEST_PAUSE_SECONDS = 10.0

EndAtOnce = Callable[[Unavailable], None]
"""Reports an error and ends this process from another thread than the one that waits."""


class Watchdog:
    """Ends this process when nothing was reported for some minutes; a context manager.

    Not by an exception: the thread that would have to raise it sits in native code. The error is an `Unavailable`, so
    another try is allowed; it resumes from the last checkpoint.
    """

    def __init__(self, minutes: float, end_at_once: EndAtOnce) -> None:
        self._limit, self._end_at_once = 60.0 * minutes, end_at_once
        self._pause = min(self._limit / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self.progress()
        self._arm()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def progress(self) -> None:
        """Something ended: a micro-batch, or a checkpoint."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(self._pause):
            self._arm()
            if time.monotonic() - self._last > self._limit:
                self._end()

    def _arm(self) -> None:
        """Have the process ended should this class's thread not come back in time.

        It stands still as well while native code keeps the interpreter's lock; faulthandler's thread needs none, and
        ends the process with status 1.
        """
        faulthandler.dump_traceback_later(self._limit + 2 * self._pause, exit=True, file=STDERR)

    def _end(self) -> None:
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        self._end_at_once(
            Unavailable(
                f"No micro-batch ended for {self._limit / 60.0:g} minutes (hardware.stall_minutes), so training was "
                "ended: a rank or its device has died or hangs, and the stacks in the output of this step say where "
                "the others waited. Materialize again; training resumes from its last checkpoint."
            )
        )
