"""How a step's program ended, told to whoever launched it: an exit status, and the error of ours behind it.

An exit status alone does not get through torchrun, which turns every one into 1, nor through a pod. So a program leaves
its error as a line of JSON in the file that its launcher names. Of several processes the first line counts: what the
others say is mostly its consequence.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact, OpsError, Unavailable

ERROR_FILE = "FINE_TUNE_ERROR_FILE"
"""Variable that names the file in which a step leaves its error, instead of on stderr."""

MOST_BYTES = 4096
"""Of one line: a pod's termination message holds no more, and so short a line is appended whole."""

KINDS: tuple[type[OpsError], ...] = (InvalidInput, MissingArtifact, CorruptArtifact, Unavailable)


@dataclass(frozen=True, slots=True)
class ExitResult:
    """How a program, or all programs of a training, ended."""

    status: int
    """Exit status; negative for a signal, as subprocess has it."""
    error: OpsError | None = None
    """What a program reported before it ended, if it could."""
    reason: str = ""
    """What its launcher saw, in words, where an exit status does not tell all."""
    disrupted: bool = False
    """Whether its machine was taken away, which is no fault of the program's."""

    @property
    def final(self) -> bool:
        """Whether starting it again cannot help: it succeeded, or a person must change something first."""
        return self.status == 0 or (self.error is not None and not self.error.retry)


def leave_error(file: Path, error: OpsError) -> None:
    """Append the error to the file; called by each process that ends with one."""
    message = str(error)
    while len(line := _line(message, error)) > MOST_BYTES:
        message = message[: len(message) * 3 // 4] + "…"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_error(file: Path) -> OpsError | None:
    """The first error that was left in the file."""
    return parse_error(file.read_text(encoding="utf-8")) if file.exists() else None


def parse_error(text: str) -> OpsError | None:
    """The first error of a text, which may hold anything else instead."""
    try:
        found = json.loads(text.partition("\n")[0])
        kind = next(kind for kind in KINDS if kind.exit_code == found["exit_code"])
        return kind(found["message"])
    except (ValueError, TypeError, KeyError, StopIteration):
        return None


def _line(message: str, error: OpsError) -> bytes:
    return json.dumps({"exit_code": error.exit_code, "message": message}).encode() + b"\n"
