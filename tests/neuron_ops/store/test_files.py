"""The file operations that artifacts need: one contract, on a folder and on S3, and what S3's troubles become."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.store.files import Files, LocalFiles, open_files
from neuron_ops.store.s3_files import S3Files

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


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_any_file_name_makes_the_round_trip(files: Files, name: str) -> None:
    with files.workspace("a/w-1") as folder:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
        files.store(folder, "a/w-1")

    assert files.read(f"a/w-1/{name}") == b"content"
    assert list(files.stamps("a/w-1")) == [name]
    with files.local("a/w-1", [name]) as folder:
        assert (folder / name).read_bytes() == b"content"


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
    with pytest.raises(InvalidInput, match="credentials have no place in a URL") as caught:
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


def test_a_bucket_without_a_prefix_is_a_store(bucket: str) -> None:
    files = open_files(f"s3://{bucket}")

    files.create("a/b", b"x")

    assert files.url == f"s3://{bucket}"
    assert files.children("") == ["a"]
    assert files.read("a/b") == b"x"


def test_a_folder_object_that_a_console_wrote_is_no_file(bucket: str) -> None:
    files = S3Files(f"s3://{bucket}/raw")
    files.fs.call_s3("put_object", Bucket=bucket, Key="raw/v1/", Body=b"")
    files.create("v1/rows.jsonl", b"{}")

    assert list(files.stamps("v1")) == ["rows.jsonl"]
    assert files.children("v1") == ["rows.jsonl"]


def test_a_large_file_reaches_s3_in_parts_and_comes_back_the_same(bucket: str, tmp_path: Path) -> None:
    files = S3Files(f"s3://{bucket}/store")
    size = 101 << 20
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(size)
        file.seek(60 << 20)
        file.write(b"in the second part")

    files.store(tmp_path, "a")

    (stamp,) = files.stamps("a").values()
    assert stamp[0] == size
    assert stamp[1].endswith("-3"), "an ETag of three parts"
    with files.local("a", ["weights"]) as folder, (folder / "weights").open("rb") as file:
        assert (folder / "weights").stat().st_size == size
        file.seek(60 << 20)
        assert file.read(18) == b"in the second part"


OPERATIONS = {
    "read": lambda files: files.read("a/b"),
    "stamps": lambda files: files.stamps("a"),
    "create": lambda files: files.create("a/b", b"x"),
    "remove": lambda files: files.remove("a"),
}


@pytest.mark.parametrize("operation", [*OPERATIONS, "children", "store"])
def test_a_bucket_that_does_not_exist_is_no_empty_store(s3_environment: str, tmp_path: Path, operation: str) -> None:
    files = S3Files("s3://no-such-bucket/store")
    (tmp_path / "x").write_bytes(b"x")
    operations = OPERATIONS | {
        "children": lambda files: files.children("a"),
        "store": lambda files: files.store(tmp_path, "a"),
    }

    with pytest.raises(InvalidInput, match=r"s3://no-such-bucket/store.*no such bucket"):
        operations[operation](files)


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_denied_access_names_the_rights_that_are_needed(bucket: str, operation: str) -> None:
    files = S3Files(f"s3://{bucket}/store")
    files.create("a/kept", b"x")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    files.fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    # The test server judges requests for objects only; a listing that finds something needs no object.
    operations = OPERATIONS | {"stamps": lambda files: files.stamps("nothing")}

    with pytest.raises(InvalidInput, match="access denied") as caught:
        operations[operation](files)

    assert "s3:DeleteObject" in str(caught.value)


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_missing_credentials_are_named(bucket: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(InvalidInput, match="no AWS credentials were found"):
        OPERATIONS[operation](S3Files(f"s3://{bucket}/store"))


def test_a_profile_that_does_not_exist_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(InvalidInput, match="nobody"):
        S3Files(f"s3://{bucket}/store").read("a")


def test_a_name_that_no_bucket_can_have_is_refused(s3_environment: str) -> None:
    with pytest.raises(InvalidInput, match="is not an S3 location"):
        S3Files("s3://no bucket/store").read("a")


@pytest.mark.slow
def test_a_dead_endpoint_is_unavailable_and_worth_another_try(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(Unavailable, match="s3://bucket/store/a/b could not be reached"):
        S3Files("s3://bucket/store").read("a/b")


@pytest.mark.parametrize("operation", ["read", "create"])
@pytest.mark.slow
def test_a_server_that_never_answers_is_unavailable(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        files = S3Files("s3://bucket/store")
        files.fs.read_timeout, files.fs.retries = 0.2, 1

        with pytest.raises(Unavailable, match="could not be reached"):
            OPERATIONS[operation](files)


def test_without_s3fs_an_s3_store_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(InvalidInput, match=r"pip install 'fine-tune-assets\[s3\]'"):
        open_files("s3://bucket/store")


def test_simultaneous_writers_that_s3_cannot_order_try_again(bucket: str, wire: Any) -> None:
    wire.target, wire.conflicts = "manifest.json", 2
    files = S3Files(f"s3://{bucket}/store")

    created = files.create("a/manifest.json", b"x")

    assert created
    assert files.read("a/manifest.json") == b"x"


def test_s3_that_never_orders_two_writers_is_unavailable(bucket: str, wire: Any) -> None:
    wire.target, wire.conflicts = "manifest.json", 1000

    with pytest.raises(Unavailable, match="other writers kept it busy"):
        S3Files(f"s3://{bucket}/store").create("a/manifest.json", b"x")
