"""An artifact as the tests of the store publish it."""

from neuron_ops.store.artifacts import MANIFEST, ArtifactStore
from neuron_ops.store.manifest import Address

ADDRESS = Address("merged_model", "0123456789abcdef", "demo-v1")
CONTENTS = {"model.safetensors": b"weights" * 1000, "deep/er/größe 1.json": b"{}", "empty": b""}


def part_address(name: str) -> Address:
    return Address(ADDRESS.artifact, ADDRESS.fingerprint, ADDRESS.dataset_version, name)


def assert_nothing_left_beside(store: ArtifactStore, address: Address) -> None:
    data = store.require(address).manifest.data
    assert store.files.children(str(address)) == sorted([MANIFEST, data])
