"""A store on a folder and on a real S3 API, and finished artifacts with small contents to put there."""

import http.client
import itertools
import logging
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.manifest import Address, FileRecord, Manifest

BUCKETS = itertools.count()

Publish = Callable[..., Artifact]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server that lives as long as the test session, or its worker."""
    from moto.server import ThreadedMotoServer  # 0.8 CPU s: only who tests S3 pays it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What makes every AWS SDK in this process and its children use the test server; returns the server's URL."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    return s3_server


@pytest.fixture
def bucket(s3_environment: str) -> str:
    """The name of a bucket that is new for each test."""
    name = f"bucket-{next(BUCKETS)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_environment}/{name}", method="PUT")).close()
    return name


@pytest.fixture(params=["folder", "s3"])
def root_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where files go: a folder that does not exist yet, then a prefix of an empty bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('bucket')}/some/store"


@pytest.fixture
def store(root_url: str) -> ArtifactStore:
    return ArtifactStore(root_url)


@pytest.fixture
def publish() -> Publish:
    return publish_files


def publish_files(store: ArtifactStore, address: Address, contents: dict[str, bytes], **fields: Any) -> Artifact:
    """Publish an artifact with these files; `fields` go into its manifest."""

    def make_manifest(data: str, files: tuple[FileRecord, ...]) -> Manifest:
        known: dict[str, Any] = {
            "artifact": address.artifact,
            "step": "test",
            "dataset_version": address.dataset_version,
            "fingerprint": address.fingerprint,
            "reads": {},
            "inputs": {},
            "metrics": {},
            "finished_at": "2026-11-01T00:00:00+00:00",
        }
        return Manifest.model_validate({**known, "data": data, "files": files, **fields})

    with store.writer(address) as writer:
        for name, content in contents.items():
            path = writer.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return writer.publish(make_manifest)


class Wire(ThreadingHTTPServer):
    """Everything between a client and an S3 server that can go wrong; requests for `target` are what goes wrong."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.upstream = server.removeprefix("http://")
        self.target = ""
        """End of the path of the PUT request that the next fault hits."""
        self.lost_answers = 0
        """How many more answers to it get lost after the server did as it was told."""
        self.conflicts = 0
        """How many more times the server says that it cannot tell who was first."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Relay(BaseHTTPRequestHandler):
    server: Wire
    protocol_version = "HTTP/1.1"  # the SDK waits for "100 Continue" before it sends a body

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hit = self.command == "PUT" and self.path.endswith(self.server.target)
        if hit and self.server.conflicts:
            self.server.conflicts -= 1
            self.answer(409, [], b"<Error><Code>ConditionalRequestConflict</Code><Message>busy</Message></Error>")
            return
        connection = http.client.HTTPConnection(self.server.upstream)
        connection.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k != "Expect"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if hit and self.server.lost_answers:
            self.server.lost_answers -= 1
            self.close_connection = True
            return
        self.answer(response.status, response.getheaders(), data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what matters."""


@pytest.fixture
def wire(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A connection to the S3 server that fails on demand; stores that a test opens use it."""
    with Wire(s3_environment) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server
        server.shutdown()


@pytest.fixture
def without_gpu() -> None:
    """Skip the test where torch sees a GPU."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
