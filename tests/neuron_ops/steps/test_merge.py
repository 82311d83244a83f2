"""`merge`: base and adapter become one whole model folder, the same on a folder and on S3, or nothing at all."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.launch.process import execute
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import consolidate, merge
from neuron_ops.steps.commands import environment
from neuron_ops.steps.table import BY_ARTIFACT, BY_VERB
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.weights.byte_ranges import file_digest
from neuron_ops.weights.safetensors_io import SafetensorsFile, read_safetensors
from tests.neuron_ops.steps.weight_steps import (
    BASE,
    FIXTURES,
    Bench,
    make_bench,
    moments,
    write_large_model,
    write_qv_adapter,
)

ADAPTER = FIXTURES / "b_tp2_all_pt" / "expected" / "consolidated"
EXPECTED = FIXTURES / "b_tp2_all_pt" / "expected" / "merged" / "model.safetensors"

MakeBench = Callable[..., Bench]

# For what a merge writes beside the weights: S3 gets it as it gets the card, which is tested on both.
on_a_folder = pytest.mark.parametrize("root_url", ["folder"], indirect=True)


@pytest.fixture
def bench(store: ArtifactStore, tmp_path: Path) -> MakeBench:
    def make(checkpoint: Path = ADAPTER, **options: object) -> Bench:
        made = make_bench(store, tmp_path, checkpoint, **options)  # type: ignore[arg-type]
        made.make("consolidate", consolidate.build)
        return made

    return make


@pytest.fixture
def large(tmp_path: Path, bench: MakeBench) -> Bench:
    base, adapter = write_large_model(tmp_path / "base"), write_qv_adapter(tmp_path / "adapter")
    return bench(adapter, base=base, targets=("q_proj", "v_proj"))


def bytes_of(model: SafetensorsFile) -> dict[str, bytes]:
    """Tensors by name."""
    data = model.path.read_bytes()
    return {name: data[entry.start : entry.end] for name, entry in model.entries.items()}


def changed(artifact: Artifact, base: Path) -> set[str]:
    """Tensors that differ from the base's, read from what was published."""
    before = bytes_of(read_safetensors(base / "model.safetensors"))
    with artifact.local() as folder:
        after = bytes_of(read_safetensors(folder / "model.safetensors"))
    assert before.keys() == after.keys()
    return {name for name, content in before.items() if after[name] != content}


def test_the_merged_model_is_what_peft_makes_of_base_and_adapter(bench: MakeBench) -> None:
    artifact = bench().make("merge", merge.build)

    with artifact.local() as folder:
        found = bytes_of(read_safetensors(folder / "model.safetensors"))
    assert found == bytes_of(read_safetensors(EXPECTED))
    for name in ("config.json", "generation_config.json", "special_tokens_map.json"):
        assert artifact.read(name) == (BASE / name).read_bytes()


def test_the_metrics_and_the_checks_say_what_was_done(bench: MakeBench) -> None:
    manifest = bench().make("merge", merge.build).manifest

    assert manifest.metrics["changed_tensors"] == 28
    changed, equal = manifest.metrics["bytes_changed"], manifest.metrics["bytes_equal_to_base"]
    assert int(str(changed)) + int(str(equal)) == (BASE / "model.safetensors").stat().st_size
    assert 0 < float(str(manifest.metrics["max_rounding_error"])) < 0.01
    assert float(str(manifest.metrics["smallest_change_norm"])) > 0
    assert [check.name for check in manifest.checks] == [check.name for check in BY_ARTIFACT["merged_model"].checks]
    assert all(check.passed and check.blocking for check in manifest.checks)


def test_the_digests_of_the_manifest_are_those_of_the_files(bench: MakeBench) -> None:
    artifact = bench().make("merge", merge.build)

    with artifact.local(verify=False) as folder:
        for file in artifact.manifest.files:
            found = file_digest(folder / file.name, file.name)
            assert (found.bytes, found.xxh3_128) == (file.bytes, file.digest)
        assert {path.name for path in folder.iterdir()} == {file.name for file in artifact.manifest.files}


def test_the_model_card_tells_the_lineage(bench: MakeBench) -> None:
    card = bench().make("merge", merge.build).read("README.md").decode()

    front, text = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["base_model"] == "tests/tiny"
    assert "| dataset version | tiny-v1, digest " in text
    assert "| training rows | 40 (25.0% of tokens learned) |" in text
    assert "| checkpoint | step-000002, held-out loss 1.2500 |" in text
    assert "q_proj, k_proj" in text
    assert yaml.safe_load(text.split("```")[1].removeprefix("yaml"))["training"]["max_steps"] == 4


@on_a_folder
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_model_card_keeps_the_base_s_licence_and_language(newline: str, bench: MakeBench, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base")
    text = "---\nlicense: llama3.1\nlanguage: [en, de]\nwidget: x\n---\n# The base\n"
    (base / "README.md").write_text(text, newline=newline)

    card = bench(base=base).make("merge", merge.build).read("README.md").decode()

    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["language"]) == ("llama3.1", ["en", "de"])
    assert "widget" not in front
    assert "The base\n" not in card


@on_a_folder  # in S3 the base is never read as a whole, so only its sizes are compared
def test_a_base_that_was_changed_after_it_was_published_is_not_merged(bench: MakeBench) -> None:
    made = bench()
    with made.lineage.require("base_model").local() as folder, (folder / "model.safetensors").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x12\x34")

    with pytest.raises(CorruptArtifact, match="holds other bytes"):
        made.make("merge", merge.build)


@on_a_folder
@pytest.mark.slow
def test_a_base_s_own_chat_template_stays(bench: MakeBench, large: Bench) -> None:
    as_a_file = bench().make("merge", merge.build)
    within_the_config = large.make("merge", merge.build)

    assert as_a_file.read("chat_template.jinja") == (BASE / "chat_template.jinja").read_bytes()
    assert not within_the_config.has("chat_template.jinja")


@on_a_folder
def test_a_base_without_a_chat_template_gets_the_one_it_was_trained_with(bench: MakeBench, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base", ignore=lambda *_: {"chat_template.jinja"})

    artifact = bench(base=base).make("merge", merge.build)

    assert artifact.read("chat_template.jinja") == b"OURS"


@on_a_folder
def test_a_template_that_the_recipe_chose_over_the_base_s_own_is_the_result_s(bench: MakeBench) -> None:
    artifact = bench(chat_template="llama3").make("merge", merge.build)

    assert artifact.read("chat_template.jinja") == b"OURS"


@on_a_folder
@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (
            {"bos_token_id": 0, "eos_token_id": 1, "top_p": 0.9},
            {"bos_token_id": 0, "eos_token_id": [1, 2], "top_p": 0.9},
        ),
        ({"eos_token_id": [1, 9]}, {"eos_token_id": [1, 9, 2]}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [1, 2]}),
        (None, {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3}),
    ],
    ids=["one end", "several", "it is among them", "no file"],
)
def test_generation_stops_where_training_taught_the_model_to_end_its_turn(
    published: dict[str, Any] | None, expected: dict[str, Any], bench: MakeBench, tmp_path: Path
) -> None:
    base = shutil.copytree(BASE, tmp_path / "base", ignore=lambda *_: {"generation_config.json"})
    if published is not None:
        (base / "generation_config.json").write_text(json.dumps(published))

    artifact = bench(base=base, end_of_turn=2).make("merge", merge.build)

    assert json.loads(artifact.read("generation_config.json")) == expected


@pytest.mark.slow
def test_only_queries_and_values_of_a_larger_model_change(large: Bench, tmp_path: Path) -> None:
    artifact = large.make("merge", merge.build)

    targets = {f"model.layers.{layer}.self_attn.{name}_proj.weight" for layer in range(2) for name in "qv"}
    assert changed(artifact, tmp_path / "base") == targets
    assert artifact.read("LICENSE") == b"some licence"


def test_an_adapter_that_changes_nothing_gives_one_clear_error_and_no_artifact(
    bench: MakeBench, tmp_path: Path
) -> None:
    adapter = shutil.copytree(ADAPTER, tmp_path / "zero")
    path = adapter / "adapter_model.safetensors"
    header = read_safetensors(path).header
    path.write_bytes(header.ljust(path.stat().st_size, b"\0"))
    made = bench(adapter)

    code, said, _ = made.finish("merge")

    assert code == InvalidInput.exit_code
    assert said.count("error: ") == 1
    assert "its change is zero: it was never trained" in said
    assert "Traceback" not in said
    assert made.artifact("merged_model") is None
    assert made.names("merged_model") == []


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_no_half_artifact_and_the_next_run_cleans_up(
    large: Bench, tmp_path: Path
) -> None:
    code, said, seconds = large.finish("merge")
    assert code == 0, said
    address = large.lineage.provenance("merged_model").address
    first = large.artifact("merged_model")
    assert first is not None

    for moment in moments(seconds, 2):
        large.lineage.store.remove(address)
        large.kill("merge", moment)
        half = large.artifact("merged_model")

        code, said, _ = large.finish("merge")

        assert code == 0, said
        whole = large.artifact("merged_model")
        assert whole is not None
        with whole.local():
            pass  # every byte is compared with the manifest
        assert whole.manifest.digest == first.manifest.digest
        if half is None:
            assert large.names("merged_model") == sorted(["manifest.json", whole.manifest.data])
            assert large.uploads() == []


def test_a_launched_merge_has_one_blas_thread() -> None:
    recipe = load_recipe("tiny_llama_cpu")
    code = "import os, numpy; numpy.ones((9, 9)) @ numpy.ones((9, 9)); os._exit(len(os.listdir('/proc/self/task')))"

    assert execute([sys.executable, "-c", code], environment(BY_VERB["merge"], recipe)) == 1
