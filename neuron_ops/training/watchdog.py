"""The end of a training that stands still: a rank that waits for a dead one in a collective waits for ever.

Each rank watches itself. What counts as progress belongs to the loop, how long is too long to the recipe.
"""

import faulthandler
import logging
import os
import threading
import time
from types import TracebackType
from typing import Self

from neuron_ops.errors import Unavailable

log = logging.getLogger(__name__)

STDERR = 2
"""The descriptor itself: tests and notebooks put other objects in the place of sys.stderr."""
LOOKS_PER_LIMIT = 20
LONGEST_PAUSE_SECONDS = 10.0


class Watchdog:
    """Ends this process when nothing was reported for some minutes; a context manager.

    Not by an exception: the thread that would have to raise it sits in native code. The status is that of
    `Unavailable`, so another try is allowed; it resumes from the last checkpoint.
    """

    def __init__(self, minutes: float) -> None:
        self._limit = 60.0 * minutes
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
        log.error(
            "no micro-batch ended for %g minutes (hardware.stall_minutes), so this rank is ended: another rank or its "
            "device has died or hangs, and the stacks above say where this one waits. Materialize again; training "
            "resumes from its last checkpoint.",
            self._limit / 60.0,
        )
        os._exit(Unavailable.exit_code)
