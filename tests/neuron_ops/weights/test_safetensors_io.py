"""Reading and writing safetensors: what is written is what the reference library writes, and damage is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.byte_ranges import OpenFile, copy_range, create_file, file_digest, new_digest, share_blocks
from neuron_ops.weights.rounding import narrow, widen
from neuron_ops.weights.safetensors_io import INDEX_NAME, TensorSpec, read_model_folder, read_safetensors
from neuron_ops.weights.safetensors_writer import SafetensorsWriter, encode_index, in_file_order, split_into_shards

TENSORS: dict[str, np.ndarray] = {
    "layer.10.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer.9.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
    "counter": np.array(7, dtype=np.int64),
    "empty": np.empty((0, 5), dtype=np.float32),
}
DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    specs = in_file_order(TensorSpec(name, DTYPES[str(t.dtype)], t.shape) for name, t in tensors.items())
    with SafetensorsWriter(path, specs) as writer:
        for spec in specs:
            writer.write(memoryview(tensors[spec.name].tobytes()))
        writer.finish()


def rewrite_header(file: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))


def test_the_same_tensors_give_the_same_file_as_the_reference_library(file: Path, tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", TENSORS)

    assert (tmp_path / "ours.safetensors").read_bytes() == file.read_bytes()


def test_a_header_tells_where_every_tensor_lies(file: Path) -> None:
    found = read_safetensors(file)

    entry = found.entries["layer.10.weight"]
    assert (entry.dtype, entry.shape, entry.row_bytes) == ("F32", (3, 4), 16)
    with OpenFile(file) as reader:
        row = reader.read(entry.start + entry.row_bytes, entry.row_bytes)
    assert np.array_equal(np.frombuffer(row, np.float32), TENSORS["layer.10.weight"][1])
    assert found.metadata == {"format": "pt"}


def test_a_file_that_was_cut_short_is_refused_with_both_lengths(file: Path) -> None:
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-5])

    with pytest.raises(CorruptArtifact, match=rf"{file} has {size - 5} bytes.*describes {size}"):
        read_safetensors(file)


def test_a_file_with_bytes_behind_its_last_tensor_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")

    with pytest.raises(CorruptArtifact, match="cut short or overwritten"):
        read_safetensors(file)


def test_overlapping_tensors_are_refused(file: Path) -> None:
    rewrite_header(file, b'"data_offsets":[8,56]', b'"data_offsets":[4,52]')

    with pytest.raises(CorruptArtifact, match=r"layer\.10\.weight"):
        read_safetensors(file)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, (16).to_bytes(8, "little") + b"no json here ..."])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CorruptArtifact, match=r"model\.safetensors"):
        read_safetensors(tmp_path / "model.safetensors")


def test_a_sharded_folder_reads_as_one_model(tmp_path: Path) -> None:
    shards = split_into_shards(
        [TensorSpec("a", "F32", (4,)), TensorSpec("b", "F32", (4,)), TensorSpec("c", "F32", ())], 20
    )
    for name, specs in shards:
        write(tmp_path / name, {spec.name: np.zeros(spec.shape, np.float32) for spec in specs})
    (tmp_path / INDEX_NAME).write_bytes(encode_index(shards))

    model = read_model_folder(tmp_path)

    assert [name for name, _ in shards] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert {name: file.path.name for name, (file, _) in model.places.items()} == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == 36


def test_a_tensor_above_the_limit_gets_a_shard_of_its_own() -> None:
    shards = split_into_shards(
        [TensorSpec("a", "F32", (1,)), TensorSpec("b", "F32", (9,)), TensorSpec("c", "F32", (1,))], 8
    )

    assert [[spec.name for spec in specs] for _, specs in shards] == [["a"], ["b"], ["c"]]


def test_an_index_that_disagrees_with_its_shards_is_refused(file: Path) -> None:
    weight_map = dict.fromkeys(TENSORS, "model.safetensors") | {"ghost": "model.safetensors"}
    (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(CorruptArtifact, match="ghost"):
        read_model_folder(file.parent)


def test_an_index_may_not_lead_out_of_its_folder(file: Path) -> None:
    (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))

    with pytest.raises(InvalidInput, match=r"\.\./other"):
        read_model_folder(file.parent)


def test_a_folder_without_weights_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"model\.safetensors"):
        read_model_folder(tmp_path)


def test_a_file_that_is_not_full_is_never_finished(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path / "a.safetensors", [TensorSpec("a", "F32", (2,))]) as writer:
        writer.write(memoryview(bytes(4)))

        with pytest.raises(RuntimeError, match="announced"):
            writer.finish()


@pytest.mark.parametrize("hashed", [True, False])
def test_a_copied_range_arrives_whole_and_with_its_digest(tmp_path: Path, hashed: bool) -> None:
    data = np.random.default_rng(0).bytes(3_000_001)
    (tmp_path / "source").write_bytes(data)
    digest = new_digest()

    with OpenFile(tmp_path / "source") as source, create_file(tmp_path / "target") as target:
        copy_range(source, 17, target, 5, len(data) - 17, [digest] if hashed else [])

    assert (tmp_path / "target").read_bytes() == bytes(5) + data[17:]
    if hashed:
        (tmp_path / "part").write_bytes(data[17:])
        assert digest.hexdigest() == file_digest(tmp_path / "part", "part").xxh3_128


def test_copying_more_than_there_is_names_the_file_and_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(10))

    with (
        OpenFile(tmp_path / "source") as source,
        create_file(tmp_path / "target") as target,
        pytest.raises(CorruptArtifact, match="source has 10 bytes, but 12"),
    ):
        copy_range(source, 2, target, 0, 10, [])


def test_bytes_are_scattered_over_more_buffers_than_the_kernel_takes_at_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * 2500)
    (tmp_path / "data").write_bytes(b"header" + data)
    result = bytearray(len(data))
    buffers = [memoryview(result)[at : at + 3] for at in range(0, len(data), 3)]

    with OpenFile(tmp_path / "data") as source:
        source.scatter_into(buffers, 6)
        with pytest.raises(CorruptArtifact, match="7506 bytes, but 7507 are needed"):
            source.scatter_into(buffers, 7)

    assert result[:-3] == data[1:-2], "the second call came as far as the file went"


def test_sharing_blocks_either_copies_everything_or_says_no(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * 64)

    with OpenFile(tmp_path / "source") as source, create_file(tmp_path / "target") as target:
        shared = share_blocks(source, target)

    assert (tmp_path / "target").read_bytes() == ((tmp_path / "source").read_bytes() if shared else b"")


def test_every_bfloat16_survives_widening_and_narrowing() -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    values = np.empty(words.shape, np.float32)
    back = np.empty_like(words)

    widen(words, "BF16", values)
    narrow(values, "BF16", back)

    nan = np.isnan(values)
    assert np.array_equal(back[~nan], words[~nan])
    assert nan.sum() == 2 * 127
    assert np.all(back[nan] == 0x7FC0)


def test_rounding_to_bfloat16_agrees_with_torch_on_ties_infinities_and_every_nan() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FFF8000, 0xFFFF8001], np.uint32)
    values = np.concatenate([random, ties, ties - 1, ties + 1, nans]).view(np.float32)
    ours = np.empty(values.shape, np.uint16)

    narrow(values, "BF16", ours)

    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    nan = np.isnan(values)
    assert np.array_equal(ours[~nan], theirs[~nan])
    assert np.all((ours[nan] & 0x7FFF) > 0x7F80)


def test_a_written_file_loads_in_the_reference_library(tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", TENSORS)

    loaded = load_file(tmp_path / "ours.safetensors")

    assert all(np.array_equal(loaded[name], tensor) for name, tensor in TENSORS.items())
