"""Writers that fail, race or are killed: one artifact or none, on a folder and on S3."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from neuron_ops.errors import Unavailable
from neuron_ops.store.artifacts import MANIFEST, Artifact, ArtifactStore
from neuron_ops.store.files import LocalFiles
from neuron_ops.store.manifest import Address
from tests.neuron_ops.store.examples import ADDRESS, CONTENTS, assert_nothing_left_beside, part_address

# A program that publishes one artifact after the other, each of one letter, until it is killed. As a step does, it
# takes a folder that vanishes under it for what it is: another writer was first and swept.
WRITER = """
import string, sys
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.manifest import Address, Manifest

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


@pytest.mark.slow
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
        assert_nothing_left_beside(store, artifact.address)


@pytest.mark.slow
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
        assert_nothing_left_beside(store, address)


@pytest.mark.slow
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
        assert_nothing_left_beside(store, address)


def test_what_a_killed_writer_left_is_swept_by_the_next_publisher(
    root_url: str, store: ArtifactStore, publish: Any
) -> None:
    """Killed for certain after its files are stored and before the manifest, the worst moment."""
    store.files.create(f"{ADDRESS}/w-dead/model.safetensors", b"half")
    store.files.create(f"{ADDRESS}/w-gone/deep/file", b"half")
    store.files.create(f"{ADDRESS}/.new-abc", b"half a manifest")
    assert store.find(ADDRESS) is None

    publish(store, ADDRESS, CONTENTS)

    assert_nothing_left_beside(store, ADDRESS)


def test_sweeping_keeps_the_artifact_and_its_parts(store: ArtifactStore, publish: Any) -> None:
    artifact = publish(store, ADDRESS, CONTENTS)
    part = publish(store, part_address("step-000400"), {"x": b"1"})
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
    assert_nothing_left_beside(store, ADDRESS)


def test_a_local_writer_whose_unnamed_manifest_was_swept_knows_that_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner swept between the loser's writing of the manifest and its naming: the loser died of it."""
    files = LocalFiles(tmp_path)

    def sweep(path: str, mode: int) -> None:
        os.unlink(path)
        (tmp_path / "manifest.json").touch()

    monkeypatch.setattr("os.chmod", sweep)

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
