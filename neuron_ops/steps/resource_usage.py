"""What a step's program used: time, CPU and memory, for the metrics of every manifest.

What an accelerator did is measured by training; what a pod may use belongs to the team's settings.
"""

import contextlib
import resource
from pathlib import Path

from neuron_ops.store.manifest import Scalar


def resource_usage(seconds: float) -> dict[str, Scalar]:
    """Metrics of a step that took `seconds` on the clock: CPU seconds of it and its children, and its peak memory."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        "peak_rss_bytes": _peak_rss() or own.ru_maxrss * 1024,
    }


def _peak_rss() -> int | None:
    """Bytes that this program held at most; None where the system has no /proc.

    The kernel's resource usage would do, but it starts with what the launching process held when it started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
