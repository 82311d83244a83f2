"""How a step's program ended, as its launcher sees it: an exit status, and the `OpsError` behind it.

An exit status alone is not enough: torchrun turns every status into 1, and a pod loses it. So a program also writes its
error as a line of JSON to a file named by its launcher. If several processes write, the first line wins: the errors of
the others are mostly its consequences.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact, OpsError, Unavailable

ERROR_FILE = "FINE_TUNE_ERROR_FILE"
"""Variable that names the file to which a step writes its error, instead of to stderr."""

MOST_BYTES = 4096
"""Limit of one line: a pod's termination message holds no more, and a line this short is appended in one piece."""

KINDS: tuple[type[OpsError], ...] = (InvalidInput, MissingArtifact, CorruptArtifact, Unavailable)


@dataclass(frozen=True, slots=True)
class ExitResult:
    """How a program, or all programs of a training, ended."""

    status: int
    """Exit status; negative for a signal, as in subprocess."""
    error: OpsError | None = None
    """What a program reported before it ended, if it could."""
    reason: str = ""
    """What its launcher saw, as a phrase, if the exit status does not say enough."""
    disrupted: bool = False
    """Whether its machine was taken away, which is not the program's fault."""

    @property
    def final(self) -> bool:
        """Whether a restart cannot help: the program succeeded, or a person must change something first."""
        return self.status == 0 or (self.error is not None and not self.error.retry)


def leave_error(file: Path, error: OpsError) -> None:
    """Append the error to the file; each process that ends with an error calls this."""
    message = str(error)
    while len(line := _line(message, error)) > MOST_BYTES:
        message = message[: len(message) * 3 // 4] + "…"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_error(file: Path) -> OpsError | None:
    """The first error in the file; None if there is no file, or no error in it."""
    return parse_error(file.read_text(encoding="utf-8")) if file.exists() else None


def parse_error(text: str) -> OpsError | None:
    """The error in the first line of a text; None if that line is anything else."""
    try:
        found = json.loads(text.partition("\n")[0])
        kind = next(kind for kind in KINDS if kind.exit_code == found["exit_code"])
        return kind(found["message"])
    except (ValueError, TypeError, KeyError, StopIteration):
        return None


def _line(message: str, error: OpsError) -> bytes:
    return json.dumps({"exit_code": error.exit_code, "message": message}).encode() + b"\n"
