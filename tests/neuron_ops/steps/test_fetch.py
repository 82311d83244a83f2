"""fetch: byte-exact copies from a hub, a folder or S3, and one clear error where that cannot be."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput, Unavailable
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import BaseModelSection, package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.fetch import _download, inspect
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNKNOWN_COMMIT = "f" * 40
REPOSITORY = "tiny/llama"


def demo_model() -> Path:
    folder = package_path("package:demo/model")
    assert folder is not None
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_model(), tmp_path / "model"))


class Hub(BaseHTTPRequestHandler):
    """The answers of the Hugging Face hub that a snapshot asks for."""

    folder: Path

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if UNKNOWN_COMMIT in parts:
            self._refuse("RevisionNotFound")
        elif parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == REPOSITORY:
            names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
            siblings = [{"rfilename": name} for name in sorted(names)]
            self._answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode(), {})
        elif "/".join(parts[:2]) == REPOSITORY and parts[2:4] == ["resolve", COMMIT]:
            data = (self.folder / "/".join(parts[4:])).read_bytes()
            tag = hashlib.sha256(data).hexdigest()
            self._answer(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        else:
            self._refuse("RepoNotFound")

    do_HEAD = do_GET

    def _refuse(self, why: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(model: Path) -> Iterator[str]:
    handler = type("ModelHub", (Hub,), {"folder": model})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def recipe_for(folder: Path, **base_model: str) -> Path:
    recipe = json.loads(load_recipe("tiny_llama_cpu").to_json())
    recipe["base_model"] = base_model
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def fetch(recipe: Path, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "neuron_ops.steps.fetch", "--recipe", str(recipe), "--store", str(store)]
    return subprocess.run(program, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def fetched(recipe: Path, store: Path) -> Path:
    lineage = Lineage(load_recipe(str(recipe)), ArtifactStore(str(store)), RawDatasets(str(store / "raw")))
    artifact = lineage.require("base_model")
    with artifact.local() as folder:
        return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_hub_repository_arrives_byte_for_byte(tmp_path: Path, model: Path, hub: str) -> None:
    (model / "pytorch_model.bin").write_bytes(b"a pickle that nobody wants")
    recipe = recipe_for(tmp_path, repository=REPOSITORY, revision=COMMIT)

    done = fetch(recipe, tmp_path / "store", HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"))

    assert done.returncode == 0, done.stderr
    assert contents(fetched(recipe, tmp_path / "store")) == contents(demo_model())


def test_an_offline_machine_is_told_its_alternatives(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, repository=REPOSITORY, revision=COMMIT)

    done = fetch(recipe, tmp_path / "store", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"))

    assert done.returncode == 5
    assert "base_model.path" in done.stderr
    assert "s3://" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_is_named(tmp_path: Path, hub: str) -> None:
    recipe = recipe_for(tmp_path, repository="tiny/typo", revision=COMMIT)

    done = fetch(recipe, tmp_path / "store", HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"))

    assert done.returncode == 2
    assert f"tiny/typo@{COMMIT} does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_commit_that_is_not_there_is_a_mistake_and_not_tried_again(tmp_path: Path, hub: str) -> None:
    recipe = recipe_for(tmp_path, repository=REPOSITORY, revision=UNKNOWN_COMMIT)

    done = fetch(recipe, tmp_path / "store", HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"))

    assert done.returncode == InvalidInput.exit_code
    assert f"{REPOSITORY}@{UNKNOWN_COMMIT}: the repository has no such commit" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_shows_no_signed_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("403 Client Error for url: https://cdn.hub/ab/cd?X-Amz-Signature=s3cr3t&Expires=1 (try again)")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    section = BaseModelSection(repository=REPOSITORY, revision=COMMIT)

    with pytest.raises(Unavailable, match=r"403 .* https://cdn\.hub/ab/cd\?… \(try again\)") as refused:
        _download(section, tmp_path)

    assert "s3cr3t" not in str(refused.value)


def test_a_local_folder_arrives_byte_for_byte_and_a_second_run_does_nothing(tmp_path: Path, model: Path) -> None:
    recipe = recipe_for(tmp_path, path=str(model), name="tiny/llama")

    first, second = fetch(recipe, tmp_path / "store"), fetch(recipe, tmp_path / "store")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "nothing to do" in second.stderr
    assert contents(fetched(recipe, tmp_path / "store")) == contents(model)


def test_a_folder_whose_contents_change_is_another_model(tmp_path: Path, model: Path) -> None:
    recipe = recipe_for(tmp_path, path=str(model), name="tiny/llama")
    lineage = Lineage(
        load_recipe(str(recipe)), ArtifactStore(str(tmp_path / "store")), RawDatasets(str(tmp_path / "raw"))
    )
    before = lineage.provenance("base_model").address

    (model / "generation_config.json").write_text("{}")

    assert lineage.provenance("base_model").address != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors"),
        (
            lambda folder: (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}'),
            "GPT2LMHeadModel",
        ),
    ],
)
def test_a_folder_that_is_no_llama_model_is_refused(model: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(model)

    with pytest.raises(InvalidInput, match=message):
        inspect(model)


def test_a_weights_file_that_is_cut_short_is_refused_before_anything_is_published(tmp_path: Path, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    recipe = recipe_for(tmp_path, path=str(model), name="tiny/llama")

    done = fetch(recipe, tmp_path / "store")

    assert done.returncode == CorruptArtifact.exit_code
    assert "model.safetensors" in done.stderr
    assert "cut short" in done.stderr
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_what_arrives_is_described(model: Path) -> None:
    described = inspect(model)

    assert described["architecture"] == "LlamaForCausalLM"
    assert described["dtype"] == "BF16"
    assert isinstance(described["parameters"], int)
    assert described["parameters"] > 1_000_000


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, path=str(tmp_path / "nowhere"), name="tiny/llama")

    done = fetch(recipe, tmp_path / "store")

    assert done.returncode == 2
    assert "is not a folder" in done.stderr
