"""Whether the kernel killed a process for lack of memory, and how much memory its container had used.

An exit status does not say this. Linux's control groups, version 1 or 2, record it as long as the container's first
process lives. If there is no control group, as on a laptop, the verdict is empty.
"""

from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT = 2**60
"""Version 1 writes a number above this one if there is no limit; version 2 writes `max`."""
FILES = (
    ("memory.max", "memory.peak", "memory.events"),
    ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
)
"""Limit, peak and events: the names of version 2, and of version 1."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory figures of a control group at one moment."""

    limit: int | None
    """Bytes; None if there is no limit."""
    peak: int
    kills: int
    """How many of its processes the kernel has killed for lack of memory."""


class MemoryWatch:
    """Watches a control group from the moment that the object is created."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is the folder of the control group; None means the group of this process."""
        self._folder = folder or own_group(OWN, GROUPS)
        self._before = self._usage()

    def verdict(self) -> str:
        """A sentence on what happened since then; empty if the kernel killed no process."""
        before, now = self._before, self._usage()
        if before is None or now is None or now.kills == before.kills:
            return ""
        limit = "without a limit of its own" if now.limit is None else f"of its limit of {_gib(now.limit)}"
        return f"the kernel killed a process for lack of memory: its container's peak was {_gib(now.peak)} {limit}"

    def _usage(self) -> Usage | None:
        return None if self._folder is None else usage(self._folder)


def own_group(memberships: Path, root: Path) -> Path | None:
    """The folder of a process's control group, from the kernel's list of memberships; None if none reports memory."""
    try:
        lines = memberships.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            # A container may see its own group as the root, whatever the group's path on the machine is.
            for folder in (top / path.lstrip("/"), top):
                if usage(folder) is not None:
                    return folder
    return None


def usage(folder: Path) -> Usage | None:
    """The memory figures of the control group in a folder; None if it has none."""
    for names in FILES:
        try:
            limit, peak, events = ((folder / name).read_text(encoding="utf-8").strip() for name in names)
        except OSError:
            continue
        counts = dict(line.split() for line in events.splitlines())
        return Usage(_limit(limit), int(peak), int(counts.get("oom_kill", 0)))
    return None


def _limit(text: str) -> int | None:
    return None if text == "max" or int(text) >= NO_LIMIT else int(text)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
