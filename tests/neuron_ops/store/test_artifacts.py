"""When an artifact exists: one contract, on a folder and on S3, also after a kill and between racing writers."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, MissingArtifact, Unavailable
from neuron_ops.store.artifacts import (
    MANIFEST,
    Address,
    Artifact,
    ArtifactStore,
    Manifest,
    explain_difference,
    fingerprint,
)
from neuron_ops.store.files import LocalFiles

ADDRESS = Address("merged_model", "0123456789abcdef", "demo-v1")
CONTENTS = {"model.safetensors": b"weights" * 1000, "deep/er/größe 1.json": b"{}", "empty": b""}

# A program that publishes one artifact after the other, each of one letter, until it is killed. As a step does, it
# takes a folder that vanishes under it for what it is: another writer was first and swept.
WRITER = """
import string, sys
from neuron_ops.store.artifacts import Address, ArtifactStore, Manifest

url, rounds, letter, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
store = ArtifactStore(url)
store.find(Address("warm", "up"))
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    address = Address("made", str(number), "v1")

    def make_manifest(data, files):
        return Manifest(artifact="made", step="test", dataset_version="v1", fingerprint=str(number), reads={},
                        inputs={}, data=data, files=files, metrics={"by": letter}, finished_at="")

    try:
        with store.writer(address) as writer:
            for name in string.ascii_lowercase[:5]:
                (writer.path / name).write_text(letter * size)
            writer.publish(make_manifest)
    except FileNotFoundError:
        pass
    print(store.require(address).manifest.metrics["by"], flush=True)
"""


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


def test_a_writer_that_fails_leaves_nothing(store: ArtifactStore) -> None:
    with contextlib.suppress(RuntimeError), store.writer(ADDRESS) as writer:
        (writer.path / "half").write_bytes(b"x")
        raise RuntimeError

    assert store.files.children("") == ([] if "s3://" in store.url else ["merged_model"])
    assert store.files.children("merged_model/demo-v1") == []


def test_a_writer_that_fails_after_its_upload_leaves_nothing(bucket: str, wire: Any, publish: Any) -> None:
    store = ArtifactStore(f"s3://{bucket}/store")
    wire.target, wire.conflicts = MANIFEST, 1000

    with pytest.raises(Unavailable):
        publish(store, ADDRESS, CONTENTS)

    assert store.files.children("") == []


def test_a_failing_s3_writer_removes_nothing_but_its_own(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder for temporary files, once empty, used to be removed with the writer's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with ArtifactStore(f"s3://{bucket}/store").writer(ADDRESS):
        pass

    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_second_writer_gets_the_first_ones_artifact(store: ArtifactStore, publish: Any) -> None:
    first = publish(store, ADDRESS, {"x": b"first"})

    second = publish(store, ADDRESS, {"x": b"second", "y": b"more"})

    assert second == first
    assert second.read("x") == b"first"
    assert store.files.children(str(ADDRESS)) == sorted([MANIFEST, first.manifest.data])


def test_racing_threads_never_mix(store: ArtifactStore, publish: Any) -> None:
    addresses = [Address("made", str(number)) for number in range(20 if "s3://" not in store.url else 2)]
    barrier = Barrier(4)

    def write(letter: str) -> list[Artifact]:
        contents = {name: letter.encode() * 10_000 for name in "abcd"}
        artifacts = []
        for address in addresses:
            barrier.wait()
            with contextlib.suppress(FileNotFoundError):  # swept by the winner while this one was still writing
                publish(store, address, contents)
            artifacts.append(store.require(address))
        return artifacts

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(write, "ABCD"))

    assert answers == [answers[0]] * 4, "all got the same artifacts"
    for artifact in answers[0]:
        with artifact.local() as folder:
            assert len({path.read_bytes() for path in folder.iterdir()}) == 1
        _assert_nothing_left_beside(store, artifact.address)


def test_racing_processes_never_mix(root_url: str, store: ArtifactStore) -> None:
    rounds = 4 if root_url.startswith("s3") else 40
    with _writing(root_url, rounds, "A") as one, _writing(root_url, rounds, "B") as other:
        _start(one, other)
        answers = [process.communicate()[0].split() for process in (one, other)]

    assert [one.returncode, other.returncode] == [0, 0]
    assert answers[0] == answers[1], "both name the same winners"
    for number, winner in enumerate(answers[0]):
        address = Address("made", str(number), "v1")
        with store.require(address).local() as folder:
            assert {path.read_text() for path in folder.iterdir()} == {winner * 5000}
        _assert_nothing_left_beside(store, address)


def test_a_killed_writer_leaves_nothing_half_visible(root_url: str, store: ArtifactStore, publish: Any) -> None:
    moments = random.Random(root_url.startswith("s3"))
    kills = 3 if root_url.startswith("s3") else 10
    rounds = 1000

    for _ in range(kills):
        with _writing(root_url, rounds, "K") as process:
            _start(process)
            time.sleep(moments.uniform(0.0, 0.15))
            process.kill()
        _assert_every_artifact_is_whole(store)

    for name in store.files.children("made/v1"):
        address = Address("made", name, "v1")
        publish(store, address, {"x": b"after the kill"})
        _assert_nothing_left_beside(store, address)


def test_what_a_killed_writer_left_is_swept_by_the_next_publisher(
    root_url: str, store: ArtifactStore, publish: Any
) -> None:
    """Killed for certain after its files are stored and before the manifest, the worst moment."""
    store.files.create(f"{ADDRESS}/w-dead/model.safetensors", b"half")
    store.files.create(f"{ADDRESS}/w-gone/deep/file", b"half")
    store.files.create(f"{ADDRESS}/.new-abc", b"half a manifest")
    assert store.find(ADDRESS) is None

    publish(store, ADDRESS, CONTENTS)

    _assert_nothing_left_beside(store, ADDRESS)


def test_sweeping_keeps_the_artifact_and_its_parts(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    part = publish(store, _part("step-000400"), {"x": b"1"})
    store.files.create(f"{ADDRESS}/w-dead/x", b"half")

    store.sweep(artifact)

    assert store.files.children(str(ADDRESS)) == sorted([MANIFEST, artifact.manifest.data, "step-000400"])
    with artifact.local(), part.local():
        pass


def test_a_writer_whose_files_were_swept_by_the_winner_gets_the_winners_artifact(
    store: ArtifactStore, publish: Any
) -> None:
    with store.writer(ADDRESS) as slow:
        (slow.path / "x").write_bytes(b"slow")
        winner = publish(store, ADDRESS, {"x": b"quick"})

        artifact = slow.publish(lambda data, files: winner.manifest.model_copy(update={"data": data, "files": files}))

    assert artifact == winner
    _assert_nothing_left_beside(store, ADDRESS)


def test_a_local_writer_whose_unnamed_manifest_was_swept_knows_that_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner swept between the loser's writing of the manifest and its naming: the loser died of it."""
    files = LocalFiles(tmp_path)
    monkeypatch.setattr("os.chmod", lambda path, mode: (os.unlink(path), (tmp_path / "manifest.json").touch()))

    created = files.create("manifest.json", b"mine")

    assert not created


def test_a_lost_answer_to_the_manifest_loses_no_files(bucket: str, wire: Any, publish: Any) -> None:
    """The SDK tries again, S3 says that the manifest exists: it is this writer's own, so its files must stay."""
    store = ArtifactStore(f"s3://{bucket}/store")
    wire.target, wire.lost_answers = MANIFEST, 1

    artifact = publish(store, ADDRESS, CONTENTS)

    assert wire.lost_answers == 0
    with artifact.local() as folder:
        assert (folder / "model.safetensors").read_bytes() == CONTENTS["model.safetensors"]


DAMAGES = {
    "cut short": b"weight",
    "longer": CONTENTS["model.safetensors"] + b"x",
    "altered": b"Weights" + CONTENTS["model.safetensors"][7:],
    "missing": None,
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("reader", ["read", "local"])
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


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"artifact": "merged_model"}'])
def test_an_unreadable_manifest_is_named_with_the_next_move(store: ArtifactStore, content: bytes) -> None:
    store.files.create(f"{ADDRESS}/{MANIFEST}", content)

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
    publish(store, _part("step-000400"), {"x": b"1"})
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
        publish(store, _part(name), {"x": name.encode()})
    store.files.create(f"{_part('step-001200')}/w-dead/x", b"half")

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


@pytest.mark.parametrize(
    "contents", [{**CONTENTS, "empty": b"x"}, {**CONTENTS, "more": b""}, {"model.safetensors": b"weights" * 1000}]
)
def test_the_digest_changes_with_content_and_names(
    store: ArtifactStore, publish: Any, contents: dict[str, bytes]
) -> None:
    before = publish(store, ADDRESS, CONTENTS)

    after = publish(store, Address("merged_model", "other", "demo-v1"), contents)

    assert before.manifest.digest != after.manifest.digest


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


def _part(name: str) -> Address:
    return Address(ADDRESS.artifact, ADDRESS.fingerprint, ADDRESS.dataset_version, name)


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


def _written_at(store: ArtifactStore, path: str) -> Mapping[str, float]:
    """When each file below was last changed."""
    if isinstance(store.files, LocalFiles):
        top = store.files.root / path
        return {str(file.relative_to(top)): file.stat().st_mtime for file in top.rglob("*") if file.is_file()}
    fs = store.files.fs  # type: ignore[attr-defined]
    top = f"{store.files.root}/{path}/"  # type: ignore[attr-defined]
    found = fs.find(top, detail=True)
    return {name.removeprefix(top): info["LastModified"].timestamp() for name, info in found.items()}


def _assert_nothing_left_beside(store: ArtifactStore, address: Address) -> None:
    data = store.require(address).manifest.data
    assert store.files.children(str(address)) == sorted([MANIFEST, data])


def _assert_every_artifact_is_whole(store: ArtifactStore) -> None:
    for name in store.files.children("made/v1"):
        artifact = store.find(Address("made", name, "v1"))
        if artifact is not None:
            with artifact.local():
                assert len(artifact.manifest.files) == 5


@contextlib.contextmanager
def _writing(url: str, rounds: int, letter: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", WRITER, url, str(rounds), letter, "5000"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def _start(*processes: subprocess.Popen[str]) -> None:
    """Let the programs begin at the same moment, all of them loaded."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
