"""Everything that can go wrong in a way that a person or an orchestrator should tell apart.

    OpsError
    ├── InvalidInput       exit 2   what was given cannot work; a person changes it; never retried
    ├── MissingArtifact    exit 3   an input was never finished; materialize it first; never retried
    ├── CorruptArtifact    exit 4   bytes are not the bytes that were written; delete or fetch again; never retried
    └── Unavailable        exit 5   a store, a hub or a device could not be reached; worth another try

Each message names the thing, the reason and the next move, so nobody needs the traceback. Any other exception is a
defect of ours: it ends with exit code 1 and its traceback.
"""

import errno
from typing import ClassVar

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk, or somebody's part of it, is full."""


class OpsError(Exception):
    """Base of the four; never raised itself."""

    exit_code: ClassVar[int]
    retry: ClassVar[bool] = False


class InvalidInput(OpsError):
    """A recipe, a dataset, a model, a key or a flag that cannot work as it is."""

    exit_code = 2


class MissingArtifact(OpsError):
    """An artifact that this step reads has no manifest, so it was never finished."""

    exit_code = 3


class CorruptArtifact(OpsError):
    """A file that is shorter, longer or other than its manifest or its own header says."""

    exit_code = 4


class Unavailable(OpsError):
    """Something outside this program did not answer; nothing of ours has to change for it to work."""

    exit_code = 5
    retry = True
