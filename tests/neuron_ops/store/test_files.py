"""The file operations that artifacts need: one contract, on a folder and on S3."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.store.files import Files, LocalFiles, open_files

AWKWARD_NAMES = ["with space.json", "größe-日本.json", "rows[1].jsonl", "a*b?.txt", "50%#1.md", "deep/er/file.bin"]


@pytest.fixture
def files(root_url: str) -> Files:
    return open_files(root_url)


def test_a_file_that_is_not_there_reads_as_nothing(files: Files) -> None:
    assert files.read("no/such/file") is None
    assert files.children("no/such") == []
    assert files.stamps("no/such") == {}


def test_a_created_file_is_there_whole(files: Files) -> None:
    created = files.create("a/manifest.json", b"content")

    assert created
    assert files.read("a/manifest.json") == b"content"
    assert files.children("a") == ["manifest.json"]


def test_a_file_is_created_once(files: Files) -> None:
    files.create("a/manifest.json", b"first")

    created = files.create("a/manifest.json", b"second")

    assert not created
    assert files.read("a/manifest.json") == b"first"
    assert files.children("a") == ["manifest.json"]


def test_of_many_creators_one_wins(files: Files) -> None:
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda number: files.create("a/b", str(number).encode()), range(16)))

    assert wins.count(True) == 1
    assert files.read("a/b") == str(wins.index(True)).encode()
    assert files.children("a") == ["b"]


def test_a_file_has_no_children_and_a_folder_no_content(files: Files) -> None:
    files.create("a/b", b"x")

    assert files.children("a/b") == []
    assert files.stamps("a/b") == {}


def test_children_are_names_of_files_and_folders_in_order(files: Files) -> None:
    for path in ("top", "b/x", "b/y/z", "a/x"):
        files.create(path, b"x")

    assert files.children("") == ["a", "b", "top"]
    assert files.children("b") == ["x", "y"]


def test_stamps_list_every_file_below_and_change_with_content(files: Files) -> None:
    files.create("a/one", b"1")
    files.create("a/b/two", b"22")
    before = files.stamps("a")

    files.remove("a/one")
    files.create("a/one", b"3")
    after = files.stamps("a")

    assert {name: size for name, (size, _) in before.items()} == {"one": 1, "b/two": 2}
    assert before["one"] != after["one"]
    assert before["b/two"] == after["b/two"]


def test_digests_tell_contents_and_not_times(files: Files) -> None:
    for path, content in {"a/x": b"1", "b/x": b"1", "c/x": b"2"}.items():
        files.create(path, content)

    assert files.digests("a") == files.digests("b")
    assert files.digests("a") != files.digests("c")


def test_any_file_name_makes_the_round_trip(files: Files) -> None:
    contents = {name: f"content of {name}".encode() for name in AWKWARD_NAMES}
    with files.workspace("a/w-1") as folder:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        files.store(folder, "a/w-1")

    assert {name: files.read(f"a/w-1/{name}") for name in contents} == contents
    assert files.stamps("a/w-1").keys() == contents.keys()
    with files.local("a/w-1", AWKWARD_NAMES) as folder:
        assert {name: (folder / name).read_bytes() for name in contents} == contents


def test_removing_takes_everything_below_and_nothing_beside(files: Files) -> None:
    for path in ("a/w-1/x", "a/w-1/deep/y", "a/w-10/x", "a/w-1.txt"):
        files.create(path, b"x")

    files.remove("a/w-1")

    assert files.children("a") == ["w-1.txt", "w-10"]


def test_removing_a_file_takes_its_name_for_a_name_and_not_for_a_pattern(files: Files) -> None:
    for name in ("rows1.jsonl", "rows[1].jsonl", "rowsX.jsonl"):
        files.create(f"v1/{name}", b"x")

    files.remove("v1/rows[1].jsonl")
    files.remove("v1/rows?.jsonl")

    assert files.children("v1") == ["rows1.jsonl", "rowsX.jsonl"]


def test_removing_nothing_is_no_error_and_leaves_no_empty_folder(files: Files) -> None:
    files.create("a/b", b"x")

    files.remove("a/b")
    files.remove("a/b")
    files.remove("never/there")

    assert files.children("") == []


def test_a_file_url_means_the_folder(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()

    files = open_files((tmp_path / "with space").as_uri())

    assert files.url == str(tmp_path / "with space")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("gs://bucket/x", "gs://bucket is not supported"),
        ("file://host/x", "file://host is not supported"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
    ],
)
def test_a_url_that_cannot_be_a_store_is_refused_with_what_can(url: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        open_files(url)

    assert "s3://bucket/prefix" in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="a URL must not contain credentials") as caught:
        open_files("s3://AKIACANARY:very-secret@bucket/prefix")

    assert "very-secret" not in str(caught.value)


def test_a_local_path_is_taken_as_it_is_written(tmp_path: Path) -> None:
    files = open_files(f"{tmp_path}/50%20#1?x")

    assert isinstance(files, LocalFiles)
    assert files.url == f"{tmp_path}/50%20#1?x"


def test_a_store_below_a_file_says_that_nothing_can_be_written_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(InvalidInput, match="Give the store"), open_files(str(tmp_path / "file")).workspace("a"):
        pass


def test_digests_of_a_changed_local_file_are_computed_again(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    (tmp_path / "x").write_bytes(b"1")
    before = files.digests("")

    (tmp_path / "x").write_bytes(b"2")

    assert files.digests("") != before
