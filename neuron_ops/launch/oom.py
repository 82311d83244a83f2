"""Whether the kernel killed for want of memory, and how much a container had used: what an exit status does not tell.

Linux's control groups know it, in either version, as long as the container's first process lives. Where there is none,
as on a laptop, nothing is said.
"""

from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT = 2**60
"""Version 1 writes the largest number of pages instead of a word."""
FILES = (
    ("memory.max", "memory.peak", "memory.events"),
    ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
)
"""Limit, peak and events: the names of version 2, and of version 1."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a control group says at one moment."""

    limit: int | None
    """Bytes; None without one."""
    peak: int
    kills: int
    """How many of its processes the kernel has killed for want of memory."""


class MemoryWatch:
    """Begins to count when it is made."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is the control group's; the process's own if none is named."""
        self._folder = folder or own_group(OWN, GROUPS)
        self._before = self._usage()

    def verdict(self) -> str:
        """What happened since, in words; empty if the kernel killed nobody."""
        before, now = self._before, self._usage()
        if before is None or now is None or now.kills == before.kills:
            return ""
        limit = "without a limit of its own" if now.limit is None else f"of its limit of {_gib(now.limit)}"
        return f"the kernel killed a process for want of memory: its container's peak was {_gib(now.peak)} {limit}"

    def _usage(self) -> Usage | None:
        return None if self._folder is None else usage(self._folder)


def own_group(memberships: Path, root: Path) -> Path | None:
    """The folder of the control group that a process is in, by the kernel's list of them."""
    try:
        lines = memberships.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            # A container may see its own group as the top, under whatever path the machine knows it.
            for folder in (top / path.lstrip("/"), top):
                if usage(folder) is not None:
                    return folder
    return None


def usage(folder: Path) -> Usage | None:
    """What the control group of a folder says; None if it says nothing about memory."""
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
