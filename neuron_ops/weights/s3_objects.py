"""Reading and writing weight files in S3 as byte ranges, without a copy on the local disk.

What is read and written belongs to `weights/merging.py`; which parts the server copies, to `weights/upload_parts.py`.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from neuron_ops.errors import CorruptArtifact, MissingArtifact, OpsError
from neuron_ops.store.s3_files import S3Files
from neuron_ops.weights.upload_parts import Part

BLOCK_BYTES = 8 << 20
# One connection to S3 gives some 80 MB/s; a few of them keep one core busy with hashing.
BLOCKS_AHEAD = 3


class S3Folder:
    """The objects below a path, as they are when this is made."""

    def __init__(self, files: S3Files, path: str) -> None:
        self.files = files
        self.path = path
        self.stamps = files.stamps(path)

    def open(self, path: Path) -> "S3Object":
        """The object of that name, whatever folder `path` is in.

        Raises:
            MissingArtifact: there was none when the folder was listed.
        """
        if path.name not in self.stamps:
            raise MissingArtifact(f"{self.files.url}/{self.path}/{path.name} does not exist. Make it again.")
        return S3Object(self.files, f"{self.path}/{path.name}", self.stamps[path.name][0])


class S3Object:
    """An object opened for reading; blocks are fetched ahead while it is read from front to back."""

    def __init__(self, files: S3Files, path: str, size: int) -> None:
        self._files = files
        self._path = path
        self.size = size
        self._blocks: dict[int, Future[bytes]] = {}
        self._last = -1
        self._pool = ThreadPoolExecutor(BLOCKS_AHEAD + 1)

    @property
    def path(self) -> str:
        return f"{self._files.url}/{self._path}"

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill all of `buffer` (bytes) from `offset`.

        Raises:
            CorruptArtifact: the object ends before.
            Unavailable: S3 does not answer.
        """
        if offset + len(buffer) > self.size:
            raise CorruptArtifact(
                f"{self.path} has {self.size} bytes, but {offset + len(buffer)} are needed: it was cut short. Make it "
                "again."
            )
        done = 0
        while done < len(buffer):
            number, at = divmod(offset + done, BLOCK_BYTES)
            piece = memoryview(self._block(number))[at : at + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        self.read_into(memoryview(data), offset)
        return data

    def _block(self, number: int) -> bytes:
        if number != self._last:
            ahead = BLOCKS_AHEAD if number == self._last + 1 else 0
            end = min(number + ahead + 1, -(-self.size // BLOCK_BYTES))
            self._blocks = {
                wanted: self._blocks.get(wanted) or self._pool.submit(self._fetch, wanted)
                for wanted in range(number, end)
            }
            self._last = number
        return self._blocks[number].result()

    def _fetch(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, self.size)
        data = self._files.read_range(self._path, start, stop)
        if len(data) != stop - start:
            raise CorruptArtifact(f"{self.path} changed while it was read. Make it again.")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


class S3Upload:
    """A new object, written from front to back.

    All bytes pass through here, but only those of the parts that have to be sent are kept and sent; the others the
    server copies from `base`. Nothing is there until the block ends well, and nothing is left if it does not.
    """

    def __init__(self, files: S3Files, path: str, parts: Sequence[Part], base: S3Folder, name: str) -> None:
        self._files = files
        self._path = path
        self._parts = parts
        self._base = f"{base.path}/{name}"
        self._base_mark = base.stamps[name][1]
        self._tags: list[str] = []
        self._position = 0
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        self._upload = str(self._files.call("create_multipart_upload", self._path)["UploadId"])
        return self

    def write(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        """Take the next bytes."""
        if offset != self._position:
            raise RuntimeError(f"{self._path}: byte {offset} was written when {self._position} was next")
        view = memoryview(data)
        while len(view):
            part = self._parts[len(self._tags)]
            taken = view[: part.end - self._position]
            if part.copy_from is None:
                self._buffer += taken
            self._position += len(taken)
            view = view[len(taken) :]
            if self._position == part.end:
                self._tags.append(self._send() if part.copy_from is None else self._copy(part, part.copy_from))

    def _send(self) -> str:
        answer = self._files.call("upload_part", self._path, **self._next_part(), Body=bytes(self._buffer))
        self._buffer.clear()
        return str(answer["ETag"])

    def _copy(self, part: Part, copy_from: int) -> str:
        answer = self._files.call(
            "upload_part_copy",
            self._path,
            **self._next_part(),
            CopySource=self._files.copy_source(self._base),
            CopySourceRange=f"bytes={copy_from}-{copy_from + part.end - part.start - 1}",
            CopySourceIfMatch=self._base_mark,
        )
        return str(answer["CopyPartResult"]["ETag"])

    def _next_part(self) -> dict[str, object]:
        return {"UploadId": self._upload, "PartNumber": len(self._tags) + 1}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()
        else:
            with contextlib.suppress(OpsError, OSError):  # the first error is the one to report
                self._files.call("abort_multipart_upload", self._path, UploadId=self._upload)

    def _complete(self) -> None:
        if len(self._tags) != len(self._parts):
            raise RuntimeError(f"{self._path}: {len(self._tags)} of {len(self._parts)} parts were written")
        tags = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, start=1)]
        try:
            self._files.call(
                "complete_multipart_upload", self._path, UploadId=self._upload, MultipartUpload={"Parts": tags}
            )
        except FileNotFoundError:
            # The answer to a first try was lost, and the object is there; or another writer has swept the upload away.
            self._files.call("head_object", self._path)
