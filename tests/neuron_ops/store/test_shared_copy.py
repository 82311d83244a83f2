"""One copy for all processes of a training on a machine: a copy for each would fill any disk."""

import tempfile
from pathlib import Path

import pytest

from neuron_ops.errors import CorruptArtifact
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.manifest import Address
from neuron_ops.store.shared_copy import shared_copy
from tests.neuron_ops.conftest import Publish

CONTENTS = {"config.json": b"{}", "part/weights": b"weights"}


@pytest.fixture
def artifact(store: ArtifactStore, publish: Publish) -> Artifact:
    return publish(store, Address("base_model", "0f"), CONTENTS)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def copies(scratch: Path) -> list[Path]:
    return sorted(scratch.rglob("weights"))


def test_the_processes_of_a_training_read_one_folder(artifact: Artifact, scratch: Path) -> None:
    first, second = (shared_copy(artifact, "launch", verify=True) for _ in range(2))

    with first as here, second as there:
        assert here == there
        assert {name: (here / name).read_bytes() for name in CONTENTS} == CONTENTS
        assert len(copies(scratch)) == (0 if artifact.is_local else 1), "nothing is copied that is here already"

    assert copies(scratch) == []
    assert artifact.read("part/weights") == b"weights"


def test_another_training_on_the_machine_has_a_copy_of_its_own(artifact: Artifact, scratch: Path) -> None:
    with shared_copy(artifact, "one", verify=True), shared_copy(artifact, "other", verify=True):
        assert len(copies(scratch)) == (0 if artifact.is_local else 2)


def test_a_copy_of_damaged_files_is_none(artifact: Artifact, store: ArtifactStore, scratch: Path) -> None:
    path = f"{artifact.address}/{artifact.manifest.data}/part/weights"
    store.files.remove(path)
    store.files.create(path, b"WEIGHTS")

    with pytest.raises(CorruptArtifact, match="holds other bytes"), shared_copy(artifact, "launch", verify=True):
        raise AssertionError("never used")

    assert copies(scratch) == []
