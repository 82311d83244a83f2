"""An artifact's files as one folder for all processes of a training on one machine.

If the store is a folder, the processes read the files in place. Files in S3 are first copied, once, into a node-local
folder: a copy of an 8B model for each of 32 processes would be 514 GB, more than any pod's scratch.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.node_local import node_local_folder


@contextlib.contextmanager
def shared_copy(artifact: Artifact, launch_name: str, *, verify: bool) -> Iterator[Path]:
    """The files during the `with` block; all those processes pass the same `launch_name`.

    With `verify`, files that are not copied are compared with the manifest; a copy always is, by the process that
    makes it.

    Raises:
        CorruptArtifact: a file is missing, or changed since it was published.
    """
    if artifact.is_local:
        with artifact.local(verify=verify) as folder:
            yield folder
        return
    name = f"{artifact.address.artifact}-{artifact.address.fingerprint}-{launch_name}"
    with node_local_folder(name, lambda folder: _fill(folder, artifact)) as folder:
        yield folder


def _fill(folder: Path, artifact: Artifact) -> None:
    with artifact.local() as copy:
        for child in copy.iterdir():
            shutil.move(child, folder / child.name)
