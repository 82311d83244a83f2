"""Raw datasets: what names a version, when one exists, and that it never changes; on a folder and on S3."""

from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.store.raw_datasets import RawDatasets, check_version

ROWS = {"a.jsonl": b'{"n": 1}\n', "b.parquet": b"PAR1"}


@pytest.fixture
def raw(root_url: str) -> RawDatasets:
    return RawDatasets(root_url)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder as a data team has it: rows, and what is no row."""
    folder = tmp_path / "rows"
    (folder / "sub").mkdir(parents=True)
    for name, content in {**ROWS, "README.md": b"about", "sub/more.jsonl": b"{}"}.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_good_name_is_taken_as_it_is() -> None:
    for version in ("dolly-2026-11-01", "v1", "1", "v1.2.3", "A_b-C.d", "x" * 100):
        assert check_version(version) == version


# fmt: off
MISREAD = [
    "", ".", "..", "../x", "x/../y", "a/b", "/etc", "a\\b", "a..b", "a...b", ".hidden", "trailing.", "-dash", "_under",
    "with space", " padded ", "tab\t", "line\n", "nul\0", "größe", "a,b", "a:b", "50%", "x?", "x#", "x" * 101,
    "x" * 300,
]
# fmt: on


def test_a_name_that_a_path_or_a_partition_would_misread_is_refused(tmp_path: Path, rows: Path) -> None:
    raw = RawDatasets(str(tmp_path / "raw"))

    for version in MISREAD:
        for use in (check_version, raw.digest, raw.stats, lambda name: raw.land(name, rows)):
            with pytest.raises(InvalidInput, match="cannot name a dataset version") as caught:
                use(version)

            assert repr(version) in str(caught.value)
            assert "such as dolly-2026-11-01" in str(caught.value)
    assert raw.names() == []


def test_a_delivered_version_holds_the_rows_and_nothing_else(raw: RawDatasets, rows: Path) -> None:
    raw.land("v1", rows)

    assert raw.names() == ["v1"]
    assert raw.has_landed("v1")
    assert raw.stats("v1") == {"files": 2, "bytes": sum(map(len, ROWS.values()))}
    with raw.local("v1") as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in ROWS} == ROWS


@pytest.mark.parametrize("marker", ["_SUCCESS", "manifest.json"])
def test_a_version_exists_once_its_marker_is_there(raw: RawDatasets, marker: str) -> None:
    raw._files.create("v1/a.jsonl", b"{}")
    before = raw.has_landed("v1")

    raw._files.create(f"v1/{marker}", b"")

    assert not before
    assert raw.has_landed("v1")


def test_a_version_without_its_marker_says_what_is_missing(raw: RawDatasets) -> None:
    raw._files.create("v1/a.jsonl", b"{}")

    with pytest.raises(MissingArtifact, match=r"'v1' has not landed: .*/v1 has no _SUCCESS.*fine-tune dataset add"):
        raw.digest("v1")


def test_a_version_never_changes(raw: RawDatasets, rows: Path) -> None:
    raw.land("v1", rows)
    digest = raw.digest("v1")
    (rows / "a.jsonl").write_bytes(b'{"n": 2}\n')

    with pytest.raises(InvalidInput, match=r"'v1' is already in .*a version never changes"):
        raw.land("v1", rows)

    assert raw.digest("v1") == digest


def test_an_interrupted_delivery_can_be_made_again(raw: RawDatasets, rows: Path) -> None:
    """Files that only the interrupted delivery had used to become rows of the new one."""
    raw._files.create("v1/a.jsonl", b'{"cut')
    raw._files.create("v1/stale.jsonl", b"{}")

    assert sorted(raw.land("v1", rows)) == ["a.jsonl", "stale.jsonl"]

    assert raw.stats("v1")["files"] == 2
    with raw.local("v1") as folder:
        assert (folder / "a.jsonl").read_bytes() == ROWS["a.jsonl"]


def test_file_names_with_brackets_and_spaces_are_delivered_whole(raw: RawDatasets, tmp_path: Path) -> None:
    """On S3, replacing rows[1].jsonl used to remove rows1.jsonl, which had just been delivered."""
    folder = tmp_path / "awkward"
    folder.mkdir()
    names = ["rows1.jsonl", "rows[1].jsonl", "zwei Wörter.jsonl"]
    for name in names:
        (folder / name).write_bytes(name.encode())

    raw.land("v1", folder)

    with raw.local("v1") as copy:
        assert {name: (copy / name).read_bytes() for name in names} == {name: name.encode() for name in names}


def test_a_delivery_without_rows_is_refused_before_anything_is_written(raw: RawDatasets, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no rows")

    with pytest.raises(InvalidInput, match=r"holds no \.jsonl or \.parquet file"):
        raw.land("v1", tmp_path)

    assert raw.names() == []


def test_a_landed_version_without_rows_is_refused(raw: RawDatasets) -> None:
    raw._files.create("v1/_SUCCESS", b"")

    with pytest.raises(InvalidInput, match=r"holds no \.jsonl or \.parquet file"):
        raw.digest("v1")


def test_the_digest_changes_with_content_and_with_names(raw: RawDatasets) -> None:
    versions = {
        "v1": {"a.jsonl": b"1", "b.jsonl": b"2"},
        "same": {"a.jsonl": b"1", "b.jsonl": b"2"},
        "content": {"a.jsonl": b"1", "b.jsonl": b"3"},
        "name": {"a.jsonl": b"1", "c.jsonl": b"2"},
        "swapped": {"a.jsonl": b"2", "b.jsonl": b"1"},
        "more": {"a.jsonl": b"1", "b.jsonl": b"2", "c.jsonl": b""},
    }
    for version, files in versions.items():
        for name, content in {**files, "_SUCCESS": b""}.items():
            raw._files.create(f"{version}/{name}", content)

    digests = {version: raw.digest(version) for version in versions}

    assert digests["v1"] == digests["same"]
    assert len(set(digests.values())) == len(versions) - 1


def test_what_is_no_row_changes_no_digest(raw: RawDatasets, rows: Path) -> None:
    raw.land("v1", rows)
    before = raw.digest("v1")

    for name in ("README.md", ".DS_Store", "sub/other.jsonl"):
        raw._files.create(f"v1/{name}", b"x")

    assert raw.digest("v1") == before


def test_every_folder_is_a_name_landed_or_not(raw: RawDatasets) -> None:
    for path in ("v2/a.jsonl", "v1/_SUCCESS", "not a version/a.jsonl", "stray file"):
        raw._files.create(path, b"")

    assert raw.names() == ["not a version", "stray file", "v1", "v2"]
    assert [name for name in raw.names() if raw.has_landed(name)] == ["v1"]


def test_a_raw_folder_that_does_not_exist_holds_no_versions(raw: RawDatasets) -> None:
    assert raw.names() == []
    assert not raw.has_landed("v1")


def test_hidden_names_and_folders_are_no_rows(tmp_path: Path) -> None:
    folder = tmp_path / "delivery"
    (folder / "folder.jsonl").mkdir(parents=True)
    (folder / "_rows.jsonl").write_text("{}")
    raw = RawDatasets(str(tmp_path / "raw"))

    with pytest.raises(InvalidInput, match=r"holds no \.jsonl or \.parquet file"):
        raw.land("v1", folder)
