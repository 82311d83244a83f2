"""The file operations of `files.Files` on S3, through s3fs and the AWS SDK below it.

This module turns each error of the SDK into one sentence. The meaning of the files belongs to artifacts.py and
raw_datasets.py.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuron_ops.errors import InvalidInput, Unavailable

CONFLICT_TRIES = 5
"""How often S3 is asked again when it could not tell which of two simultaneous writers was first."""


class S3Files:
    """A prefix of an S3 bucket. Endpoint, region and credentials are found as every AWS SDK finds them."""

    def __init__(self, url: str) -> None:
        try:
            import s3fs  # 0.3 CPU s: only stores in S3 pay for it
            from aiobotocore.session import AioSession
            from botocore.handlers import add_expect_header
        except ImportError:
            raise InvalidInput(
                f"Store {url!r} needs s3fs. Install it with: pip install 'fine-tune-assets[s3]'"
            ) from None

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise InvalidInput(f"Store {url!r} names no bucket. Write s3://bucket/prefix.")
        self.root = f"{bucket}/{prefix.strip('/')}".rstrip("/")
        session = AioSession()
        # aiohttp waits for "100 Continue" without a time limit: an upload to a server that stalls would never end.
        session.unregister("before-call.s3", add_expect_header)
        self.fs = s3fs.S3FileSystem(
            session=session,
            # Another process may have written a second ago: a cached listing would hide it.
            use_listings_cache=False,
            skip_instance_cache=True,
            # s3fs tries five times on top of botocore's tries: a dead endpoint must not cost minutes.
            config_kwargs={"retries": {"mode": "standard", "max_attempts": 3}},
        )

    @property
    def url(self) -> str:
        return f"s3://{self.root}"

    def read(self, path: str) -> bytes | None:
        try:
            with self._explained(path):
                # One request. With concurrency s3fs would ask for the size first: two more if there is no file.
                data: bytes = self.fs.cat_file(self._full(path), max_concurrency=1)
        except FileNotFoundError:
            return None
        return data

    def stamps(self, path: str) -> dict[str, tuple[int, str]]:
        top = self._full(path)
        with self._explained(path):
            found: dict[str, dict[str, Any]] = self.fs.find(top, detail=True)
        return {
            name.removeprefix(f"{top}/"): (int(info["size"]), str(info.get("ETag", "")).strip('"'))
            for name, info in sorted(found.items())
            if name != top and not name.endswith("/")  # consoles write "folder/" objects
        }

    def digests(self, path: str) -> dict[str, str]:
        return {name: mark for name, (_, mark) in self.stamps(path).items()}

    def children(self, path: str) -> list[str]:
        try:
            with self._explained(path):
                names: list[str] = self.fs.ls(self._full(path), detail=False)
        except FileNotFoundError:
            return []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in names if name.rstrip("/") != self._full(path)})

    def create(self, path: str, data: bytes) -> bool:
        with self._explained(path):
            for _ in range(CONFLICT_TRIES):
                try:
                    self.fs.pipe_file(self._full(path), data, mode="create")  # PutObject with If-None-Match: *
                except OSError as error:
                    if _s3_code(error) == "PreconditionFailed":
                        return False
                    if _s3_code(error) != "ConditionalRequestConflict":
                        raise
                else:
                    return True
        raise Unavailable(
            f"s3://{self._full(path)}: other writers wrote it at the same time, in {CONFLICT_TRIES} tries. Try again."
        )

    def remove(self, path: str) -> None:
        with self._explained(path):
            # Not fs.rm: it would read the brackets in rows[1].jsonl as a pattern, and hide that deleting is denied.
            for name in self.fs.find(self._full(path)):
                self.fs.rm_file(name)

    def abort_uploads(self, path: str) -> None:
        bucket, _, key = self._full(path).partition("/")
        place: dict[str, str] = {}
        with self._explained(path):
            while True:
                found = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/", **place)
                for upload in found.get("Uploads", ()):
                    with contextlib.suppress(FileNotFoundError):  # it has ended since
                        self.fs.call_s3(
                            "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                if not found.get("IsTruncated"):
                    return
                place = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}

    def call(self, operation: str, path: str, **arguments: Any) -> dict[str, Any]:
        """One request to S3's API about the object at `path`."""
        bucket, _, key = self._full(path).partition("/")
        with self._explained(path):
            answer: dict[str, Any] = self.fs.call_s3(operation, Bucket=bucket, Key=key, **arguments)
        return answer

    def copy_source(self, path: str) -> dict[str, str]:
        """The object at `path`, in the form in which requests name the source of a copy."""
        bucket, _, key = self._full(path).partition("/")
        return {"Bucket": bucket, "Key": key}

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file that exists."""
        with self._explained(path):
            data: bytes = self.fs.cat_file(self._full(path), start=start, end=stop)
        return data

    @contextlib.contextmanager
    def workspace(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch:
            folder = Path(scratch, path.rpartition("/")[2])
            folder.mkdir()
            yield folder

    def store(self, workspace: Path, path: str) -> None:
        with self._explained(path):
            for file in sorted(workspace.rglob("*")):
                if file.is_file():
                    self.fs.put_file(str(file), self._full(f"{path}/{file.relative_to(workspace).as_posix()}"))

    @contextlib.contextmanager
    def local(self, path: str, names: list[str]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fine-tune-") as folder:
            for name in names:
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._explained(f"{path}/{name}"):
                    self.fs.get_file(self._full(f"{path}/{name}"), str(target))
            yield Path(folder)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}".rstrip("/")

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Turn an error of the SDK into one sentence; a missing file is an answer and passes through."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError, ParamValidationError, ProfileNotFound

        try:
            yield
        except FileNotFoundError as error:
            if _s3_code(error) == "NoSuchBucket":
                raise InvalidInput(
                    f"s3://{self._full(path)}: there is no such bucket. Create it or correct the name."
                ) from error
            raise
        except (NoCredentialsError, ProfileNotFound) as error:
            raise InvalidInput(
                f"s3://{self._full(path)}: no AWS credentials were found ({error}). "
                "Configure them as for the aws command."
            ) from error
        except ParamValidationError as error:
            raise InvalidInput(f"s3://{self._full(path)} is not an S3 location: {error}. Correct the name.") from error
        except PermissionError as error:
            raise InvalidInput(
                f"s3://{self._full(path)}: access denied ({error}). Give this role s3:GetObject, s3:PutObject, "
                "s3:DeleteObject and s3:ListBucket there."
            ) from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(
                f"s3://{self._full(path)} could not be reached: {error}. Check the network, the region and "
                "AWS_ENDPOINT_URL."
            ) from error
        except ValueError as error:
            raise InvalidInput(f"s3://{self._full(path)}: {error}. Check AWS_ENDPOINT_URL and the region.") from error


def _s3_code(error: OSError) -> str | None:
    """S3's own code of an error, such as NoSuchBucket, from the SDK's error that s3fs translated."""
    response: dict[str, Any] = getattr(error.__cause__, "response", {})
    code: str | None = response.get("Error", {}).get("Code")
    return code
