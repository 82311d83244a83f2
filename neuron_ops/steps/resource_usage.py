"""The time, CPU and memory that a step's program used, for the metrics of every manifest.

Measuring the accelerator belongs to training; the limits of a pod belong to the team's settings.
"""

import contextlib
import resource
from pathlib import Path

from neuron_ops.store.manifest import Scalar


def resource_usage(seconds: float) -> dict[str, Scalar]:
    """Metrics of a step that took `seconds` of wall time: CPU seconds with its children, and peak memory in bytes."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        "peak_rss_bytes": _peak_rss() or own.ru_maxrss * 1024,
    }


def _peak_rss() -> int | None:
    """Peak memory of this program in bytes; None if the system has no /proc.

    The kernel's resource usage is not enough: it starts with the memory of the launching process at the launch.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
