"""Merging from S3 to S3: only what changed is sent, nothing passes the disk, and the result is the local merge's."""

import json
import resource
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.steps import consolidate, merge, merge_in_s3
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.s3_files import S3Files
from neuron_ops.weights.lora_targets import WeightedAdapter
from neuron_ops.weights.merging import merge_adapters
from neuron_ops.weights.safetensors_io import read_safetensors
from neuron_ops.weights.upload_parts import MIN_PART, Part, plan_parts
from tests.neuron_ops.steps.weight_steps import Bench, make_bench, write_large_model, write_qv_adapter, write_tensors

pytestmark = pytest.mark.slow  # a model of 62 MB goes to the test server and back


@pytest.fixture
def root_url(bucket: str) -> str:
    """S3 only."""
    return f"s3://{bucket}/some/store"


@pytest.fixture
def files(store: ArtifactStore) -> S3Files:
    assert isinstance(store.files, S3Files)
    return store.files


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_large_model(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_qv_adapter(tmp_path / "adapter")


@pytest.fixture
def bench(store: ArtifactStore, tmp_path: Path, base: Path, adapter: Path) -> Bench:
    made = make_bench(store, tmp_path, adapter, base=base, targets=("q_proj", "v_proj"))
    made.make("consolidate", consolidate.build)
    return made


def count(files: S3Files) -> Counter[str]:
    """Bytes that requests bring to and from the server, by operation, from now on."""
    counted: Counter[str] = Counter()

    def sent(params: dict[str, Any], model: Any, **_: object) -> None:
        counted[model.name] += len(params.get("Body", b""))
        if "CopySourceRange" in params:
            first, last = params["CopySourceRange"].removeprefix("bytes=").split("-")
            counted["copied"] += int(last) + 1 - int(first)

    files.fs.s3.meta.events.register("provide-client-params.s3", sent)
    return counted


def test_only_what_changed_is_sent(bench: Bench, files: S3Files, base: Path) -> None:
    size = (base / "model.safetensors").stat().st_size
    counted = count(files)

    manifest = bench.make("merge", merge.build).manifest

    changed = int(str(manifest.metrics["bytes_changed"]))
    assert size > 55e6
    assert changed == 2 * 2 * 512 * 512 * 2
    # The first layer's queries and values with their neighbours, and those of the last: the end of the file, where a
    # part may be short, with the final norm behind them.
    assert counted["UploadPart"] == MIN_PART + changed // 2 + 2 * 512
    assert counted["copied"] == size - counted["UploadPart"]


def test_no_weight_touches_the_disk(bench: Bench) -> None:
    limit = 1 << 20  # bytes of any file that the program writes

    done = subprocess.run(
        bench.words("merge"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert bench.artifact("merged_model") is not None


@pytest.mark.parametrize("case", ["queries and values", "sharded", "separated head"])
def test_every_byte_is_that_of_the_local_merge(
    case: str, store: ArtifactStore, base: Path, adapter: Path, tmp_path: Path
) -> None:
    if case == "sharded":
        shard(base)
    if case == "separated head":
        prefix = "base_model.model.lm_head."
        shapes = {f"{prefix}lora_A.weight": (4, 512), f"{prefix}lora_B.weight": (20000, 4)}
        (adapter / "adapter_model.safetensors").unlink()
        write_tensors(adapter / "adapter_model.safetensors", shapes, "F32", seed=3)
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["lm_head"]}))
    merge_adapters(base, [WeightedAdapter(adapter)], tmp_path / "expected")
    made = make_bench(store, tmp_path, adapter, base=base, targets=("q_proj", "v_proj"))
    source = made.lineage.require("base_model")
    assert isinstance(store.files, S3Files)
    (tmp_path / "out").mkdir()

    _, proof, records = merge_in_s3.merge_in_s3(
        store.files, source, [WeightedAdapter(adapter)], tmp_path / "out", "merged/w-1"
    )

    with store.files.local("merged/w-1", [record.name for record in records]) as folder:
        found = {path.name: path.read_bytes() for path in [*folder.iterdir(), *(tmp_path / "out").iterdir()]}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    assert {record.name for record in records} == {name for name in found if name.endswith(".safetensors")}
    assert proof.num_changed == (1 if case == "separated head" else 4)


def shard(base: Path) -> None:
    """Give each layer a file of its own."""
    whole = read_safetensors(base / "model.safetensors")
    weight_map: dict[str, str] = {}
    for number, part in enumerate((".layers.0.", ".layers.1.", "")):
        names = [name for name in whole.entries if part in name and name not in weight_map]
        file = f"model-{number}.safetensors"
        write_tensors(base / file, {name: whole.entries[name].shape for name in names}, "BF16", number)
        weight_map |= dict.fromkeys(names, file)
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_bytes_that_the_server_did_not_copy_right_are_noticed(
    bench: Bench, files: S3Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(file: Any) -> list[Part]:
        parts = plan_parts(file)
        wrong = next(at for at, part in enumerate(parts) if part.copy_from)
        return [replace(part, copy_from=1024) if at == wrong else part for at, part in enumerate(parts)]

    monkeypatch.setattr(merge_in_s3, "plan_parts", shifted)

    with pytest.raises(CorruptArtifact, match="not the file that was written"):
        bench.make("merge", merge.build)

    assert bench.artifact("merged_model") is None
    assert bench.names("merged_model") == []
    assert bench.uploads() == []


def test_a_merge_that_fails_on_the_way_leaves_no_upload(
    store: ArtifactStore, files: S3Files, tmp_path: Path, base: Path, adapter: Path
) -> None:
    path = adapter / "adapter_model.safetensors"
    header = read_safetensors(path).header
    path.write_bytes(header.ljust(path.stat().st_size, b"\0"))
    made = make_bench(store, tmp_path, adapter, base=base, targets=("q_proj", "v_proj"))
    made.make("consolidate", consolidate.build)

    with pytest.raises(InvalidInput, match="its change is zero"):
        made.make("merge", merge.build)

    assert made.uploads() == []
    assert made.names("merged_model") == []


def test_what_a_killed_upload_left_is_aborted_by_the_next_run_and_nothing_else(bench: Bench, files: S3Files) -> None:
    address = bench.lineage.provenance("merged_model").address
    for place in (f"{address}/w-dead/model.safetensors", f"{address}0/w-live/model.safetensors"):
        files.call("create_multipart_upload", place)

    bench.make("merge", merge.build)

    assert bench.uploads() == [f"some/store/{address}0/w-live/model.safetensors"]
