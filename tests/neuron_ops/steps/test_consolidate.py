"""`consolidate`: the best checkpoint becomes one adapter folder, the same on a folder and on S3, or nothing at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.steps import consolidate
from neuron_ops.steps.table import BY_ARTIFACT
from neuron_ops.store.artifacts import ArtifactStore
from tests.neuron_ops.steps.weight_steps import ALL, FIXTURES, Bench, make_bench, moments

ADAPTER = FIXTURES / "b_tp2_all_pt" / "expected" / "consolidated"
SHARDED = FIXTURES / "b_tp2_all_pt" / "checkpoint-4"
DIVERGED = FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4"

MakeBench = Callable[..., Bench]

# S3 is read and written as for every step but the merge; that a checkpoint comes from there is tested once.
on_a_folder = pytest.mark.parametrize("root_url", ["folder"], indirect=True)


@pytest.fixture
def bench(store: ArtifactStore, tmp_path: Path) -> MakeBench:
    return lambda checkpoint, **options: make_bench(store, tmp_path, checkpoint, **options)


@pytest.mark.parametrize(
    ("root_url", "checkpoint", "layout"),
    [
        ("folder", ADAPTER, "peft"),
        ("folder", SHARDED, "neuron"),
        pytest.param("s3", SHARDED, "neuron", marks=pytest.mark.slow),
    ],
    indirect=["root_url"],
)
def test_the_best_checkpoint_becomes_an_adapter_folder(checkpoint: Path, layout: str, bench: MakeBench) -> None:
    artifact = bench(checkpoint).make("consolidate", consolidate.build)

    assert artifact.read("adapter_model.safetensors") == (ADAPTER / "adapter_model.safetensors").read_bytes()
    assert [file.name for file in artifact.manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(artifact.read("adapter_config.json"))
    assert config["base_model_name_or_path"] == "tests/tiny", "never the path of the machine that trained"
    metrics = {
        name: artifact.manifest.metrics[name] for name in ("kind", "layout", "tensors", "checkpoint", "eval_loss")
    }
    assert metrics == {
        "kind": "adapter",
        "layout": layout,
        "tensors": 56,
        "checkpoint": "step-000002",
        "eval_loss": 1.25,
    }


@on_a_folder
def test_the_checks_are_the_declared_ones_and_pass(bench: MakeBench) -> None:
    artifact = bench(SHARDED).make("consolidate", consolidate.build)

    assert [check.name for check in artifact.manifest.checks] == [
        check.name for check in BY_ARTIFACT["consolidated_weights"].checks
    ]
    assert all(check.passed for check in artifact.manifest.checks)


@on_a_folder
def test_an_adapter_without_all_its_targets_fails_its_check_and_nothing_is_built_on_it(bench: MakeBench) -> None:
    made = bench(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", targets=ALL)

    with pytest.raises(InvalidInput, match="failed its check 'adapter_is_complete'"):
        made.make("consolidate", consolidate.build)

    artifact = made.artifact("consolidated_weights")
    assert artifact is not None
    assert artifact.manifest.checks[0].values == {"factors": 16, "expected": 56}


@on_a_folder
def test_a_diverged_checkpoint_gives_one_clear_error_and_no_artifact(bench: MakeBench) -> None:
    made = bench(DIVERGED)

    code, said, _ = made.finish("consolidate")

    assert code == CorruptArtifact.exit_code
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said
    assert "lora_" in errors[0], "the tensors are named"
    assert made.artifact("consolidated_weights") is None
    assert made.names("consolidated_weights") == []


@on_a_folder
def test_a_best_checkpoint_that_is_gone_is_missed_by_name(bench: MakeBench) -> None:
    made = bench(ADAPTER)
    made.lineage.store.remove(consolidate.best_checkpoint(made.lineage).address)

    with pytest.raises(MissingArtifact, match="step-000002") as caught:
        made.make("consolidate", consolidate.build)

    training = made.lineage.require("lora_checkpoints").address
    assert f"Remove {made.lineage.store.url}/{training}/step-000002 and " in str(caught.value)
    assert f" and {made.lineage.store.url}/{training}/manifest.json, then materialize lora_checkpoints again" in str(
        caught.value
    ), "a finished training would be reused"


@on_a_folder
def test_a_checkpoint_that_lost_bytes_since_is_refused(bench: MakeBench) -> None:
    made = bench(ADAPTER)
    checkpoint = consolidate.best_checkpoint(made.lineage)
    name = f"{checkpoint.address}/{checkpoint.manifest.data}/adapter/adapter_model.safetensors"
    made.lineage.store.files.remove(name)
    made.lineage.store.files.create(name, bytes(1000))

    with pytest.raises(CorruptArtifact, match=r"has another size.* and \S+/manifest\.json, then materialize"):
        made.make("consolidate", consolidate.build)

    assert made.artifact("consolidated_weights") is None


@on_a_folder
@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_no_half_artifact_and_the_next_run_cleans_up(
    bench: MakeBench, tmp_path: Path
) -> None:
    made = bench(SHARDED)
    code, said, seconds = made.finish("consolidate")
    assert code == 0, said
    address = made.lineage.provenance("consolidated_weights").address

    for moment in moments(seconds, 2):
        made.lineage.store.remove(address)
        made.kill("consolidate", moment)
        half = made.artifact("consolidated_weights")
        assert half is None or half.read("adapter_model.safetensors")

        code, said, _ = made.finish("consolidate")

        assert code == 0, said
        whole = made.artifact("consolidated_weights")
        assert whole is not None
        with whole.local() as folder:
            shutil.copytree(folder, tmp_path / f"copy-{moment}")
        if half is None:
            assert made.names("consolidated_weights") == sorted(["manifest.json", whole.manifest.data])
