"""A base model whose config.json cannot be used: every program ends with the same exit code and names the file."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fine_tune_assets.cli.main import main
from neuron_ops.errors import CorruptArtifact, InvalidInput, OpsError
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import package_path
from neuron_ops.rows.chat import open_chat
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.conftest import publish_files

ADAPTER = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints" / "b_tp2_all_pt" / "expected" / "consolidated"
DAMAGES = {
    "not JSON": (b"{", CorruptArtifact),
    "a list": (b"[]", CorruptArtifact),
    "missing": (None, InvalidInput),
    "foreign": (b'{"architectures": ["MambaForCausalLM"]}', InvalidInput),
}


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, type[OpsError]]:
    """The demo's model with one of these files for its config.json, and how a program has to end."""
    demo = package_path("package:demo/model")
    assert demo is not None
    folder = Path(shutil.copytree(demo, tmp_path / "model"))
    data, error = DAMAGES[request.param]
    (folder / "config.json").unlink()
    if data is not None:
        (folder / "config.json").write_bytes(data)
    return folder, error


def test_fetch(damaged: tuple[Path, type[OpsError]], tmp_path: Path) -> None:
    folder, error = damaged
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\nbase_model: {{path: {folder}, name: x}}\ntraining: {{max_steps: 1}}\n")
    words = ["--recipe", str(recipe), "--store", str(tmp_path / "store"), "--raw", str(tmp_path / "raw")]

    done = subprocess.run([sys.executable, "-m", "neuron_ops.steps.fetch", *words], capture_output=True, text=True)

    assert done.returncode == error.exit_code, done.stderr
    assert "config.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("merge", "MODEL", "OUT", "--adapter", ADAPTER), ("consolidate", "MODEL", "OUT", "--base-model", "x")]
)
def test_a_command_on_folders(damaged: tuple[Path, type[OpsError]], words: tuple[object, ...], tmp_path: Path) -> None:
    folder, error = damaged
    places = {"MODEL": folder, "OUT": tmp_path / "out"}

    result = CliRunner().invoke(main, [str(places.get(str(word), word)) for word in words])

    assert result.exit_code == error.exit_code, result.output
    assert "config.json" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("artifact", ["compiled_graph_cache", "lora_checkpoints"])
def test_a_step_that_books_an_accelerator(damaged: tuple[Path, type[OpsError]], artifact: str, tmp_path: Path) -> None:
    folder, error = damaged
    raw = RawDatasets(str(tmp_path / "raw"))
    raw.land("v1", _rows(tmp_path))
    lineage = Lineage(load_recipe("tiny_llama_cpu"), ArtifactStore(str(tmp_path / "store")), raw, "v1")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
    publish_files(lineage.store, lineage.provenance("base_model").address, files)
    for name in ("tokenized_dataset", "compiled_graph_cache"):
        publish_files(lineage.store, lineage.provenance(name).address, {"file": b""})

    with pytest.raises(error, match=r"config\.json"):
        lineage.require_inputs(artifact)


def _rows(folder: Path) -> Path:
    (folder / "delivery").mkdir()
    (folder / "delivery" / "rows.jsonl").write_text("{}\n")
    return folder / "delivery"


def _prepare(folder: Path) -> None:
    open_chat(folder, load_recipe("tiny_llama_cpu").dataset)


def _evaluate(folder: Path) -> None:
    from neuron_ops.steps.evaluate import Evaluator  # torch and peft: only who runs this test pays them

    no_rows: Any = None  # the model is loaded before any row is read
    Evaluator(load_recipe("tiny_llama_cpu"), no_rows, prompts=()).load(folder)


@pytest.mark.parametrize("reads", [_prepare, _evaluate])
def test_a_step_that_opens_the_model(
    damaged: tuple[Path, type[OpsError]], reads: Callable[[Path], None], tmp_path: Path
) -> None:
    folder, error = damaged
    if reads is _prepare and not (folder / "config.json").exists():
        return  # a tokenizer is all that it needs

    with pytest.raises(error, match=r"config\.json"):
        reads(folder)
