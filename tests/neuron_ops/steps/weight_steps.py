"""What the tests of the steps `consolidate` and `merge` work with: finished inputs that no training made.

Models and adapters are written with numpy; importing torch would cost more than all of these tests.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import fetch, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.files import open_files
from neuron_ops.store.manifest import Address, Scalar
from neuron_ops.store.raw_datasets import RawDatasets
from neuron_ops.store.s3_files import S3Files
from neuron_ops.weights.safetensors_io import TensorSpec
from neuron_ops.weights.safetensors_writer import SafetensorsWriter, in_file_order
from tests.neuron_ops.conftest import publish_files

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
BASE = FIXTURES / "bases" / "llama-h8-kv4-bf16"
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VERSION = "tiny-v1"


# What decides the checks of the steps that these tests do not run.
DECIDED: dict[str, dict[str, Scalar]] = {
    "fetch": {},
    "prepare": {"supervised_share": 0.5},
    "compile": {},
    "train": {"base_eval_loss": 2.0, "best_eval_loss": 1.0, "graphs_compiled": 0, "graphs_from": None},
}


@dataclass(frozen=True)
class Bench:
    """A store in which everything that `consolidate` reads is finished."""

    lineage: Lineage
    recipe_file: Path

    def make(self, verb: str, build: program.Build) -> Artifact:
        """Run a step in this process."""
        program.make(BY_VERB[verb], self.lineage, build)
        return self.lineage.require(BY_VERB[verb].artifact)

    def words(self, verb: str) -> list[str]:
        """The command line of a step."""
        places = ["--store", self.lineage.store.url, "--raw", self.lineage.raw.url, "--dataset-version", VERSION]
        return [sys.executable, "-m", f"neuron_ops.steps.{verb}", "--recipe", str(self.recipe_file), *places]

    def start(self, verb: str) -> "subprocess.Popen[str]":
        """Start a step as the program it is."""
        return subprocess.Popen(self.words(verb), stderr=subprocess.PIPE, text=True)

    def kill(self, verb: str, seconds: float) -> bool:
        """Start a step and kill it after some seconds; say whether it lived that long."""
        with self.start(verb) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return process.returncode == -signal.SIGKILL

    def finish(self, verb: str) -> tuple[int, str, float]:
        """Run a step to its end: exit code, what it said, seconds."""
        started = time.monotonic()
        with self.start(verb) as process:
            _, said = process.communicate()
        return process.returncode, said, time.monotonic() - started

    def artifact(self, name: str) -> Artifact | None:
        """What another process would find."""
        return self.lineage.store.find(self.lineage.provenance(name).address)

    def names(self, name: str) -> list[str]:
        """Everything at the artifact's address."""
        return self.lineage.store.files.children(str(self.lineage.provenance(name).address))

    def uploads(self) -> list[str]:
        """Objects in the store's bucket that somebody began to upload; none in a folder."""
        files = self.lineage.store.files
        if not isinstance(files, S3Files):
            return []
        found = files.fs.call_s3("list_multipart_uploads", Bucket=files.root.partition("/")[0])
        return [upload["Key"] for upload in found.get("Uploads", ())]


def make_bench(
    store: ArtifactStore,
    folder: Path,
    checkpoint: Path,
    *,
    base: Path = BASE,
    targets: tuple[str, ...] = ALL,
    chat_template: str = "model",
    end_of_turn: int = 1,
) -> Bench:
    """Finish `base_model` by its own program's code, and everything else by hand."""
    recipe_file = folder / "recipe.json"
    lora = {"r": 4, "lora_alpha": 8, "target_modules": targets}
    recipe = {"name": "tiny", "base_model": {"path": str(base), "name": "tests/tiny"}}
    recipe |= {"graph": {"sequence_length": 32, "lora": lora}, "training": {"max_steps": 4, "warmup_steps": 1}}
    recipe["dataset"] = {"chat_template": chat_template}
    recipe_file.write_text(json.dumps(recipe))
    raw = RawDatasets(f"{store.url}/raw")
    for name, content in {"rows.jsonl": b"{}\n", "_SUCCESS": b""}.items():
        open_files(raw.url).create(f"{VERSION}/{name}", content)
    lineage = Lineage(load_recipe(str(recipe_file)), store, raw, VERSION)
    bench = Bench(lineage, recipe_file)
    bench.make("fetch", fetch.build)
    rows = {"training_rows": 40, "supervised_share": 0.25}
    special = json.dumps({"end_of_turn": {"token": "<turn>", "id": end_of_turn}}).encode()
    finish(bench, "prepare", {"chat_template.jinja": b"OURS", "special_tokens.json": special}, rows)
    finish(bench, "compile", {"graphs.json": b"{}"})
    train(bench, checkpoint)
    return bench


def finish(
    bench: Bench, verb: str, contents: Mapping[str, bytes], metrics: Mapping[str, Any] | None = None
) -> Artifact:
    """Publish these files in place of what a step would make."""

    def build(lineage: Lineage, out: Path) -> program.StepResult:
        for name, content in contents.items():
            (out / name).write_bytes(content)
        return program.StepResult(metrics={**DECIDED[verb], **(metrics or {})})

    return bench.make(verb, build)


def train(bench: Bench, checkpoint: Path) -> None:
    """Two finished checkpoints of which the first is better: `checkpoint`, and one that nobody should read."""
    address = bench.lineage.provenance("lora_checkpoints").address
    losses = {"step-000002": 1.25, "step-000004": 1.5}
    adapter = {path.relative_to(checkpoint): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    files = {f"adapter/{name}": content for name, content in adapter.items()}
    for part, loss in losses.items():
        place = Address(address.artifact, address.fingerprint, address.dataset_version, part)
        contents = files if part == "step-000002" else {"adapter/other": b""}
        publish_files(bench.lineage.store, place, contents, metrics={"eval_loss": loss})
    finish(bench, "train", {"best.json": json.dumps({"part": "step-000002"}).encode()})


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int) -> None:
    """Random numbers as small as weights are."""
    specs = in_file_order(TensorSpec(name, dtype, shape) for name, shape in shapes.items())
    chance = np.random.default_rng(seed)
    with SafetensorsWriter(path, specs) as writer:
        for spec in specs:
            values = chance.normal(0, 0.02, spec.shape).astype(np.float32)
            words = (values.view(np.uint32) >> 16).astype("<u2") if dtype == "BF16" else values
            writer.write(words.reshape(-1).data.cast("B"))
        writer.finish()


def write_large_model(folder: Path) -> Path:
    """62 MB, of which the projections of queries and values are 2 MB."""
    hidden, wide = 512, 6144
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (20000, hidden), "model.norm.weight": (hidden,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, wide)
    folder.mkdir()
    write_tensors(folder / "model.safetensors", shapes, "BF16", seed=1)
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "THEIRS"}))
    (folder / "LICENSE").write_text("some licence")
    return folder


def write_qv_adapter(folder: Path, hidden: int = 512) -> Path:
    """For the large model, rank 4."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        for name in "qv":
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}_proj."
            shapes |= {f"{prefix}lora_A.weight": (4, hidden), f"{prefix}lora_B.weight": (hidden, 4)}
    folder.mkdir()
    write_tensors(folder / "adapter_model.safetensors", shapes, "F32", seed=2)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 800, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    return folder


def moments(seconds: float, number: int) -> list[float]:
    """Random moments of a program that takes so long, one in each of `number` equal parts."""
    return [seconds * (part + random.random()) / number for part in range(number)]
