"""One container's log: written line by line with the time at which each line came, and read as kubelets serve it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

Line = tuple[int, bytes]
"""Nanoseconds since the epoch, and the text with its newline."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What a reader wants of a log."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since_ns: int = 0


class ContainerLog:
    """Kept in memory for readers and in a file for whoever looks for the reason of a failure afterwards."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._lines: list[Line] = []
        self._changed = asyncio.Event()
        self._closed = False

    async def fill(self, pipe: int) -> None:
        """Take everything that is written into a pipe, until all who can write have closed their end."""
        reader, rest = asyncio.StreamReader(), b""
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb"))
        try:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                self._add([line + b"\n" for line in lines])
        finally:
            transport.close()
        if rest:
            self._add([rest])

    def close(self) -> None:
        self._closed = True
        self._file.close()
        self._wake()

    def tail(self, num_lines: int = 80, num_bytes: int = 2048) -> str:
        text = b"".join(line for _, line in self._lines[-num_lines:])
        return text[-num_bytes:].decode(errors="replace")

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        lines = [line for line in self._lines if line[0] >= options.since_ns]
        position = len(self._lines)
        yield _render(lines if options.tail is None else lines[len(lines) - min(options.tail, len(lines)) :], options)
        while options.follow:
            changed = self._changed
            if position < len(self._lines):
                new, position = self._lines[position:], len(self._lines)
                yield _render(new, options)
            elif self._closed:
                return
            else:
                await changed.wait()

    def _add(self, lines: list[bytes]) -> None:
        for line in lines:
            last = self._lines[-1][0] if self._lines else 0
            stamp = max(time.time_ns(), last + 1)  # no two lines at one time: some readers take them for one
            self._lines.append((stamp, line))
            self._file.write(line)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _render(lines: list[Line], options: LogOptions) -> bytes:
    if not options.timestamps:
        return b"".join(line for _, line in lines)
    return b"".join(f"{_stamp(at)} ".encode() + line for at, line in lines)


def _stamp(nanoseconds: int) -> str:
    seconds = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"
