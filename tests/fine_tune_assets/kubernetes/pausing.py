"""A pod that is told to end when the asset's own code has not begun yet: a log handler of the instance holds it there.

Its own module, because every process with that instance imports it by name.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from dagster._utils.interrupts import check_captured_interrupt

PYTHON_LOGS = {"dagster_handler_config": {"handlers": {"pause": {"class": f"{__name__}.PauseAtStart"}}}}
"""Of dagster.yaml."""


class PauseAtStart(logging.Handler):
    """Holds the first pod that says that its step begins until it is told to end."""

    def emit(self, record: logging.LogRecord) -> None:
        if "STEP_START" not in record.getMessage() or "DAGSTER_RUN_STEP_KEY" not in os.environ:
            return
        folder = Path(os.environ["CLUSTER_TEST_FOLDER"])
        with suppress(FileNotFoundError):
            (folder / "pause").rename(folder / "paused")
            while not check_captured_interrupt():
                time.sleep(0.05)
