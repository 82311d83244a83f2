"""Files in S3 beyond the common contract: buckets, large files, and what S3's troubles become."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.store.files import open_files
from neuron_ops.store.s3_files import S3Files


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


@pytest.mark.slow
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


OPERATIONS: dict[str, Callable[[S3Files], object]] = {
    "read": lambda files: files.read("a/b"),
    "stamps": lambda files: files.stamps("a"),
    "create": lambda files: files.create("a/b", b"x"),
    "remove": lambda files: files.remove("a"),
}


def test_a_bucket_that_does_not_exist_is_not_an_empty_store(s3_environment: str, tmp_path: Path) -> None:
    files = S3Files("s3://no-such-bucket/store")
    (tmp_path / "x").write_bytes(b"x")
    operations = OPERATIONS | {
        "children": lambda files: files.children("a"),
        "store": lambda files: files.store(tmp_path, "a"),
    }

    for operation in operations.values():
        with pytest.raises(InvalidInput, match=r"s3://no-such-bucket/store.*no such bucket"):
            operation(files)


def test_denied_access_names_the_rights_that_are_needed(bucket: str) -> None:
    files = S3Files(f"s3://{bucket}/store")
    files.create("a/kept", b"x")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    files.fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    # The test server judges requests for objects only; a listing that finds something needs no object.
    operations = OPERATIONS | {"stamps": lambda files: files.stamps("nothing")}

    for operation in operations.values():
        with pytest.raises(InvalidInput, match="access denied") as caught:
            operation(files)

        assert "s3:DeleteObject" in str(caught.value)


def test_missing_credentials_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    for operation in OPERATIONS.values():
        with pytest.raises(InvalidInput, match="no AWS credentials were found"):
            operation(S3Files(f"s3://{bucket}/store"))


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


@pytest.mark.slow
def test_s3_that_never_orders_two_writers_is_unavailable(bucket: str, wire: Any) -> None:
    wire.target, wire.conflicts = "manifest.json", 1000

    with pytest.raises(Unavailable, match="other writers wrote it at the same time"):
        S3Files(f"s3://{bucket}/store").create("a/manifest.json", b"x")
