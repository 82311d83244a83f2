"""When an artifact exists, what it holds, and what damage to it is called; on a folder and on S3."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, MissingArtifact
from neuron_ops.store.artifacts import MANIFEST, ArtifactStore
from neuron_ops.store.files import LocalFiles
from neuron_ops.store.manifest import Address, Manifest, explain_difference, fingerprint
from neuron_ops.store.s3_files import S3Files
from tests.neuron_ops.store.examples import ADDRESS, CONTENTS, part_address


def test_nothing_published_is_nothing_found(store: ArtifactStore) -> None:
    assert store.find(ADDRESS) is None


def test_a_half_written_artifact_does_not_exist(store: ArtifactStore) -> None:
    store.files.create(f"{ADDRESS}/w-other/model.safetensors", b"half")
    with store.writer(ADDRESS) as writer:
        (writer.path / "model.safetensors").write_bytes(b"half")

        found = store.find(ADDRESS)

    assert found is None


def test_a_published_artifact_holds_what_was_written(store: ArtifactStore, publish: Any) -> None:
    publish(store, ADDRESS, CONTENTS, metrics={"loss": 1.5})

    artifact = store.require(ADDRESS)

    assert artifact.manifest.metrics == {"loss": 1.5}
    assert {name: artifact.read(name) for name in CONTENTS} == CONTENTS
    with artifact.local() as folder:
        assert {name: (folder / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert artifact.manifest.total_bytes == sum(map(len, CONTENTS.values()))
    assert artifact.has("empty")
    assert not artifact.has("other")


def test_the_location_is_where_the_files_are(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)

    assert artifact.location == f"{store.url}/merged_model/demo-v1/0123456789abcdef/{artifact.manifest.data}"
    assert ArtifactStore(artifact.location).files.read("model.safetensors") == CONTENTS["model.safetensors"]


def test_the_manifest_comes_last(store: ArtifactStore, publish: Any) -> None:
    """At the moment the manifest is made, and therefore before, every file must be made durable, and after it none."""
    artifact = publish(store, ADDRESS, CONTENTS)

    times = _written_at(store, str(ADDRESS))

    manifest_time = times.pop(MANIFEST)
    assert len(times) == len(CONTENTS)
    assert all(written <= manifest_time for written in times.values())
    assert artifact.manifest.data in store.files.children(str(ADDRESS))


def test_a_published_artifact_leaves_one_manifest_and_one_folder(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)

    assert store.files.children(str(ADDRESS)) == sorted([MANIFEST, artifact.manifest.data])


DAMAGES = {
    "cut short": b"weight",
    "longer": CONTENTS["model.safetensors"] + b"x",
    "altered": b"Weights" + CONTENTS["model.safetensors"][7:],
    "missing": None,
}


@pytest.mark.parametrize(
    ("reader", "damage"), [*(("local", damage) for damage in DAMAGES), ("read", "altered"), ("read", "missing")]
)
def test_a_damaged_file_is_named_with_the_next_move(
    store: ArtifactStore, publish: Any, damage: str, reader: str
) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    _replace(store, f"{ADDRESS}/{artifact.manifest.data}/model.safetensors", DAMAGES[damage])

    with pytest.raises(CorruptArtifact) as caught:
        _read(artifact, reader)

    message = str(caught.value)
    assert f"{artifact.location}/model.safetensors" in message
    assert f"Remove {store.url}/{ADDRESS} and materialize merged_model again" in message


@pytest.mark.parametrize("damage", ["cut short", "longer", "missing"])
def test_reuse_notices_a_file_of_another_size_without_reading_any(
    store: ArtifactStore, publish: Any, damage: str
) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    _replace(store, f"{ADDRESS}/{artifact.manifest.data}/model.safetensors", DAMAGES[damage])

    with pytest.raises(CorruptArtifact, match=r"model\.safetensors is missing or has another size"):
        artifact.check_sizes()


def test_a_reader_with_digests_of_its_own_pays_for_sizes_only(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    _replace(store, f"{ADDRESS}/{artifact.manifest.data}/model.safetensors", DAMAGES["altered"])

    with artifact.local(verify=False) as folder:
        assert (folder / "model.safetensors").stat().st_size == len(CONTENTS["model.safetensors"])


def test_files_beside_those_of_the_manifest_are_ignored(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    store.files.create(f"{ADDRESS}/{artifact.manifest.data}/.DS_Store", b"x")

    with artifact.local():
        artifact.check_sizes()


def test_an_unreadable_manifest_is_named_with_the_next_move(store: ArtifactStore) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[]", b'{"artifact": "merged_model"}'):
        _replace(store, f"{ADDRESS}/{MANIFEST}", content)

        with pytest.raises(CorruptArtifact) as caught:
            store.find(ADDRESS)

        assert f"{store.url}/{ADDRESS}/{MANIFEST} cannot be read" in str(caught.value)
        assert f"Remove {store.url}/{ADDRESS}" in str(caught.value)


def test_a_missing_artifact_names_its_address_and_partition(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact) as caught:
        store.require(ADDRESS)

    assert f"{store.url}/{ADDRESS} has no manifest.json" in str(caught.value)
    assert "Materialize merged_model for partition 'demo-v1' first." in str(caught.value)


def test_a_removed_artifact_is_gone_with_everything_below_it(store: ArtifactStore, publish: Any) -> None:
    publish(store, ADDRESS, CONTENTS)
    publish(store, part_address("step-000400"), {"x": b"1"})
    kept = publish(store, Address("merged_model", "fedcba", "demo-v1"), {"x": b"1"})

    store.remove(ADDRESS)

    assert store.find(ADDRESS) is None
    assert store.files.children("merged_model/demo-v1") == ["fedcba"]
    kept.check_sizes()


def test_removing_what_is_not_there_is_no_error(store: ArtifactStore) -> None:
    store.remove(ADDRESS)

    assert store.files.children("") == []


def test_parts_are_finished_one_by_one_and_listed_in_order(store: ArtifactStore, publish: Any) -> None:
    for name in ("step-000800", "step-000400", "final"):
        publish(store, part_address(name), {"x": name.encode()})
    store.files.create(f"{part_address('step-001200')}/w-dead/x", b"half")

    parts = store.parts(ADDRESS, "step-")

    assert [part.address.part for part in parts] == ["step-000400", "step-000800"]
    assert [part.read("x") for part in parts] == [b"step-000400", b"step-000800"]
    assert store.find(ADDRESS) is None, "finished parts do not finish the whole"


def test_the_digest_is_that_of_the_content_alone(root_url: str, store: ArtifactStore, publish: Any) -> None:
    here = publish(store, ADDRESS, CONTENTS, finished_at="2026-01-01T00:00:00+00:00", metrics={"seconds": 1.0})
    elsewhere = publish(
        ArtifactStore(f"{root_url}-of-another-machine"),
        Address("merged_model", "another address", "demo-v2"),
        CONTENTS,
        finished_at="2027-01-01T00:00:00+00:00",
        metrics={"seconds": 2.0},
        toolchain={"torch": "9"},
    )

    assert here.manifest.data != elsewhere.manifest.data
    assert here.manifest.digest == elsewhere.manifest.digest


def test_the_digest_changes_with_content_and_names(tmp_path: Path, publish: Any) -> None:
    store, digests = ArtifactStore(str(tmp_path)), set()
    others = ({**CONTENTS, "empty": b"x"}, {**CONTENTS, "more": b""}, {"model.safetensors": b"weights" * 1000})

    for number, contents in enumerate((CONTENTS, *others)):
        digests.add(publish(store, Address("merged_model", str(number), "demo-v1"), contents).manifest.digest)

    assert len(digests) == 4


def test_the_digest_of_named_files_ignores_the_others(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(str(tmp_path))
    one = publish(store, Address("base_model", "1"), {"config.json": b"{}", "model.safetensors": b"1"})
    two = publish(store, Address("base_model", "2"), {"config.json": b"{}", "model.safetensors": b"2"})

    assert one.manifest.digest_of(("config.json", "not there")) == two.manifest.digest_of(("config.json",))
    assert one.manifest.digest_of(None) != two.manifest.digest_of(None)


def test_a_manifest_reads_back_as_it_was_written(store: ArtifactStore, publish: Any) -> None:
    check = {"name": "loss_falls", "passed": True, "description": "1.0 < 2.0", "values": {"before": 2.0, "after": None}}
    artifact = publish(store, ADDRESS, CONTENTS, reads={"GraphSection": {"r": 8}}, checks=[check])

    stored = json.loads(store.files.read(f"{ADDRESS}/{MANIFEST}") or b"")

    assert Manifest.model_validate(stored) == artifact.manifest
    assert stored["reads"] == {"GraphSection": {"r": 8}}
    assert stored["checks"][0]["values"] == {"before": 2.0, "after": None}


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})


def test_a_fingerprint_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert fingerprint({"größe": [1, 2.5, None, True], "a": {}}) == "97e40c45bbb80f8a"


def test_a_difference_is_explained_by_its_fields() -> None:
    old = {"recipe": {"graph": {"sequence_length": 256, "r": 8}, "gone": 1}, "step": "train"}
    new = {"recipe": {"graph": {"sequence_length": 512, "r": 8}, "new": {"x": 1}}, "step": "train"}

    lines = explain_difference(old, new)

    assert lines == [
        "recipe.gone: 1 -> None",
        "recipe.graph.sequence_length: 256 -> 512",
        "recipe.new: None -> {'x': 1}",
    ]


def _read(artifact: Any, reader: str) -> None:
    if reader == "read":
        artifact.read("model.safetensors")
    else:
        with artifact.local():
            pass


def _replace(store: ArtifactStore, path: str, content: bytes | None) -> None:
    store.files.remove(path)
    if content is not None:
        store.files.create(path, content)


def _written_at(store: ArtifactStore, path: str) -> dict[str, float]:
    """When each file below was last changed."""
    if isinstance(store.files, LocalFiles):
        top = store.files.root / path
        return {str(file.relative_to(top)): file.stat().st_mtime for file in top.rglob("*") if file.is_file()}
    assert isinstance(store.files, S3Files)
    prefix = f"{store.files.root}/{path}/"
    found = store.files.fs.find(prefix, detail=True)
    return {name.removeprefix(prefix): info["LastModified"].timestamp() for name, info in found.items()}
