"""Listing what is finished: the same layout on a folder and on S3, and nobody stumbles over another one's damage."""

import logging

import pytest

from neuron_ops.store.artifacts import MANIFEST, ArtifactStore
from neuron_ops.store.manifest import Address
from tests.neuron_ops.conftest import publish_files


def listed(store: ArtifactStore, artifact: str, version: str | None = None) -> list[str]:
    return [str(found.address) for found in store.finished(artifact, version)]


@pytest.fixture
def trainings(store: ArtifactStore) -> ArtifactStore:
    """Two dataset versions with a training each, one of them with a checkpoint."""
    for version in ("v2", "v1"):
        publish_files(store, Address("lora_checkpoints", "aaaa", version), {"checkpoints.json": b"{}"})
    publish_files(store, Address("lora_checkpoints", "aaaa", "v1", "step-000040"), {"adapter": b""})
    return store


def test_finished_artifacts_are_those_of_all_dataset_versions_or_of_one(trainings: ArtifactStore) -> None:
    assert listed(trainings, "lora_checkpoints") == ["lora_checkpoints/v1/aaaa", "lora_checkpoints/v2/aaaa"]
    assert listed(trainings, "lora_checkpoints", "v2") == ["lora_checkpoints/v2/aaaa"]
    assert listed(trainings, "lora_checkpoints", "v3") == []


def test_an_artifact_whose_address_names_no_version_is_found_without_one(store: ArtifactStore) -> None:
    for fingerprint in ("bbbb", "aaaa"):
        publish_files(store, Address("compiled_graph_cache", fingerprint), {"graphs.json": b"{}"})

    assert listed(store, "compiled_graph_cache") == ["compiled_graph_cache/aaaa", "compiled_graph_cache/bbbb"]
    assert listed(store, "merged_model") == []


def test_what_a_killed_writer_left_is_not_finished(store: ArtifactStore) -> None:
    """The file of a model may be called manifest.json too."""
    for address in ("base_model/aaaa", "merged_model/v1/aaaa"):
        store.files.create(f"{address}/w-00000000/{MANIFEST}", b"{}")

    assert listed(store, "base_model") == listed(store, "merged_model") == []


def test_a_checkpoint_of_an_unfinished_training_is_not_a_training(store: ArtifactStore) -> None:
    publish_files(store, Address("lora_checkpoints", "aaaa", "v1", "step-000040"), {"adapter": b""})

    assert listed(store, "lora_checkpoints") == []
    assert store.part_names(Address("lora_checkpoints", "aaaa", "v1"), "step-") == ["step-000040"]


@pytest.mark.parametrize("version", [None, "v1"])
def test_a_manifest_that_cannot_be_read_is_left_out_with_a_warning(
    store: ArtifactStore, version: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    publish_files(store, Address("made", "bbbb", version), {"file": b""})
    damaged = Address("made", "aaaa", version)
    store.files.create(f"{damaged}/{MANIFEST}", b"{")

    with caplog.at_level(logging.WARNING, logger="neuron_ops"):
        found = listed(store, "made", version)

    assert found == [str(Address("made", "bbbb", version))]
    assert f"{damaged} is left out" in caplog.text
