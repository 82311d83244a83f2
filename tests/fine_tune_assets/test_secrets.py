"""Secrets stay in the environment: nowhere else, whatever a run writes, shows or starts, whether it works or fails.

Everything below the project's folder is searched: Dagster's event log and runs, captured output, artifacts, manifests.
"""

import base64
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from tests.fine_tune_assets.conftest import Project

pytestmark = pytest.mark.slow

CANARIES = {
    "HF_TOKEN": "hf_canaryOfTheHub0000000000000000000",
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000000",
    "AWS_SECRET_ACCESS_KEY": "canary/of+the/cloud/00000000000000000000",
    "DAGSTER_PG_PASSWORD": "canary-of-the-database",
}
# An access key's id is no secret: AWS itself puts it into URLs and error messages.
SECRET = {name: value for name, value in CANARIES.items() if name != "AWS_ACCESS_KEY_ID"}

INPUTS = "base_model,tokenized_dataset"


def _forms(secret: str) -> list[bytes]:
    """A secret as it is, and as it would be in a header."""
    encoded = base64.b64encode(secret.encode()).rstrip(b"=")
    return [secret.encode(), encoded]


def _found(data: bytes) -> set[str]:
    return {name for name, secret in SECRET.items() if any(form in data for form in _forms(secret))}


def _leaks(folder: Path) -> dict[str, set[str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5, "the search would prove nothing"
    return {str(path.relative_to(folder)): names for path in files if (names := _found(path.read_bytes()))}


def _watch(process: subprocess.Popen[str], output: Path, until: str | None) -> set[str]:
    """Command lines of the process and everything that it starts, until it ends or has said something."""
    seen: set[str] = set()
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # it has just ended
            seen |= {" ".join(member.cmdline()) for member in (root, *root.children(recursive=True))}
        if until is not None and until in output.read_text():
            process.send_signal(signal.SIGINT)  # the failure is recorded; a retry would only wait
            until = None
        time.sleep(0.05)
    return seen


def _materialize(
    project: Project, selection: str, until: str | None = None, **environment: str
) -> tuple[str, str, int]:
    """Command lines, output and exit status of a run with all canaries in its environment."""
    output = project.root / "output.txt"
    with output.open("w") as stream:
        words = project.materialize_words("v1", selection)
        with project.start(*words, output=stream, **CANARIES, **environment) as process:
            commands = _watch(process, output, until)
    return "\n".join(commands), output.read_text(), process.returncode


@pytest.fixture
def delivered(project: Project) -> Project:
    """A project with one registered dataset version."""
    project.deliver("v1")
    project.register("v1")
    return project


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.bin").write_bytes(b"\x00\xff")
    header = base64.b64encode(CANARIES["HF_TOKEN"].encode())
    (tmp_path / "plain").write_text(f"secret={CANARIES['AWS_SECRET_ACCESS_KEY']};")
    (tmp_path / "header").write_bytes(b"Basic " + header)

    assert _leaks(tmp_path) == {"plain": {"AWS_SECRET_ACCESS_KEY"}, "header": {"HF_TOKEN"}}


def test_a_run_that_works_writes_and_shows_no_secret(delivered: Project) -> None:
    commands, output, status = _materialize(
        delivered, "base_model,tokenized_dataset,compiled_graph_cache,lora_checkpoints"
    )

    assert status == 0, output
    assert "neuron_ops.steps.train" in commands, "the command lines of the steps were not seen"
    assert _found(commands.encode()) == set()
    assert _leaks(delivered.root) == {}


class _Hub(BaseHTTPRequestHandler):
    """A hub that is asked with a token and refuses."""

    tokens: ClassVar[set[str]]

    def do_GET(self) -> None:
        type(self).tokens.add(self.headers.get("Authorization", ""))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _hub() -> Iterator[tuple[str, set[str]]]:
    class Hub(_Hub):
        tokens: ClassVar[set[str]] = set()

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Hub.tokens
        server.shutdown()


def test_a_hub_that_fails_gets_the_token_and_nobody_else(delivered: Project) -> None:
    delivered.overrides["base_model"] = {"repository": "somebody/gated", "revision": "0" * 40}

    with _hub() as (url, tokens):
        commands, output, status = _materialize(
            delivered, INPUTS, until="could not be downloaded", HF_ENDPOINT=url, HF_HOME=str(delivered.root)
        )

    assert status != 0
    assert f"Bearer {CANARIES['HF_TOKEN']}" in tokens, "the token was never used, so nothing was proven"
    assert "could not be downloaded" in output
    assert _found(commands.encode()) == set()
    assert _leaks(delivered.root) == {}


def test_a_store_that_cannot_be_reached_is_named_without_its_secret(delivered: Project) -> None:
    _, output, status = _materialize(
        delivered,
        INPUTS,
        until="s3://bucket/artifacts",
        FINE_TUNE_STORE="s3://bucket/artifacts",
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_MAX_ATTEMPTS="1",
    )

    assert status != 0
    assert "s3://bucket/artifacts" in output
    assert _leaks(delivered.root) == {}
