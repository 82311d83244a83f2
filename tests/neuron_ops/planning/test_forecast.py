"""Go or no-go: everything that would fail later is told at once, by what would refuse it then."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.planning.forecast import Forecast, make_forecast
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import STEPS
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.planning.conftest import MakeLineage, fetch_base, prepare_report, publish
from tests.neuron_ops.planning.llama import LLAMA_8B_CONFIG

TRN1 = "llama3_8b_lora_trn1"


def warnings(forecast: Forecast) -> list[str]:
    return [problem.text for problem in forecast.problems if not problem.blocking]


def refusals(forecast: Forecast) -> list[str]:
    return [problem.text for problem in forecast.refusals]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A model folder that claims to be Llama 3.1 8B, with the demo's tokenizer and a file of no weights."""
    source = package_path("package:demo/model")
    assert source is not None
    folder = tmp_path / "llama"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    (folder / "config.json").write_text(json.dumps(LLAMA_8B_CONFIG))
    (folder / "model.safetensors").touch()
    return folder


def llama_recipe(llama: Path) -> dict[str, Any]:
    """Overrides that make the trn1 recipe take that folder."""
    return {
        "base_model__repository": None,
        "base_model__revision": None,
        "base_model__path": str(llama),
        "base_model__name": "a/llama",
        "dataset__chat_template": "model",
    }


def test_the_demo_is_a_go_and_nothing_is_written(make_lineage: MakeLineage, tmp_path: Path) -> None:
    forecast = make_forecast(make_lineage())

    assert forecast.is_go
    assert refusals(forecast) == []
    assert [state.artifact for state in forecast.artifacts] == [step.artifact for step in STEPS]
    assert not any(state.finished for state in forecast.artifacts)
    assert not (tmp_path / "store").exists()


def test_a_folder_that_was_not_fetched_yet_is_planned_from_its_own_files(
    make_lineage: MakeLineage, llama: Path
) -> None:
    forecast = make_forecast(make_lineage(TRN1, **llama_recipe(llama)))

    assert forecast.is_go
    assert forecast.data is not None
    assert forecast.data.longest_row is not None
    assert forecast.memory is not None
    assert forecast.memory.parts[0].bytes.low == 2 * 1_004_015_616
    assert forecast.duration is not None
    assert forecast.duration.usd is not None


def test_a_model_that_was_never_fetched_is_unknown_and_the_rest_is_planned(make_lineage: MakeLineage) -> None:
    forecast = make_forecast(make_lineage(TRN1))

    assert forecast.is_go
    assert forecast.model is None
    assert forecast.memory is None
    assert forecast.world is not None
    assert forecast.world.world_size == 32
    assert forecast.data is not None


class Refused(NamedTuple):
    recipe: str
    overrides: dict[str, Any]
    says: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Refused("tiny_llama_cpu", {"hardware__tensor_parallel_size": 2}, ["backend cpu is data-parallel only"]),
        Refused("tiny_llama_cpu", {"graph__attn_implementation": "flash_attention_2"}, ["Use 'sdpa' or 'eager'"]),
        Refused(TRN1, {"hardware__instance_type": "p5.48xlarge"}, ["backend neuron needs one of trn1.2xlarge"]),
        Refused(TRN1, {"hardware__processes": 8}, ["32 cores and idle cores are paid for"]),
        Refused(TRN1, {"dataset__packing": True}, ["no mask between packed rows"]),
        Refused(TRN1, {"graph__attn_implementation": "flash_attention_2"}, ["takes multiples of 2048 tokens"]),
        Refused("tiny_llama_cpu", {"dataset__pad_token": "<|eot_id|>"}, ["is also its eos_token"]),
        Refused("tiny_llama_cpu", {"base_model__path": "/nowhere"}, ["/nowhere has no config.json"]),
        Refused(
            "tiny_llama_cpu",
            {"dataset__holdout_fraction": 1e-9, "hardware__tensor_parallel_size": 2},
            ["No row is held out", "data-parallel only"],
        ),
    ],
    ids=lambda case: case.says[0][:40],
)
def test_whatever_would_fail_later_is_told_now_and_once(make_lineage: MakeLineage, case: Refused) -> None:
    forecast = make_forecast(make_lineage(case.recipe, **case.overrides))

    assert not forecast.is_go
    assert len(refusals(forecast)) == len(case.says)
    assert all(says in text for says, text in zip(case.says, refusals(forecast), strict=True))


def test_too_little_memory_is_a_no_go_before_the_model_is_fetched(make_lineage: MakeLineage, llama: Path) -> None:
    overrides = {**llama_recipe(llama), "hardware__tensor_parallel_size": 1, "graph__dtype": "float32"}

    forecast = make_forecast(make_lineage(TRN1, **overrides))

    assert "Each core would need at least" in refusals(forecast)[0]
    assert "hardware.tensor_parallel_size" in refusals(forecast)[0]


def test_a_model_that_the_hardware_cannot_divide_is_a_no_go(make_lineage: MakeLineage, llama: Path) -> None:
    overrides = {**llama_recipe(llama), "hardware__tensor_parallel_size": 32}

    forecast = make_forecast(make_lineage(TRN1, **overrides))

    (refusal,) = refusals(forecast)
    assert "k_proj" in refusal, "with more ranks than key-value heads, queries, keys and values are adapted together"
    assert forecast.memory is not None, "and the rest is planned all the same"


def test_the_environment_of_the_training_processes_is_part_of_the_plan(make_lineage: MakeLineage) -> None:
    assert make_forecast(make_lineage(hardware__threads=3)).environment["OMP_NUM_THREADS"] == "3"
    assert make_forecast(make_lineage(TRN1)).environment["MALLOC_ARENA_MAX"] == "64"
    assert make_forecast(make_lineage(hardware__tensor_parallel_size=2)).environment == {}


def test_memory_that_may_not_suffice_is_a_warning(make_lineage: MakeLineage, llama: Path) -> None:
    forecast = make_forecast(make_lineage(TRN1, **llama_recipe(llama), graph__micro_batch_size=6))

    assert forecast.is_go
    assert any(text.startswith("Each core may need up to") for text in warnings(forecast))


def test_sequences_that_the_base_model_was_not_made_for_are_a_warning(make_lineage: MakeLineage) -> None:
    longer = make_forecast(make_lineage(graph__sequence_length=520))

    assert any("graph.sequence_length is 520" in text and "made for 512 tokens" in text for text in warnings(longer))
    assert not any("max_position_embeddings" in text for text in warnings(make_forecast(make_lineage())))


def test_another_architecture_is_refused_before_it_is_fetched(make_lineage: MakeLineage, llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps({**LLAMA_8B_CONFIG, "architectures": ["MambaForCausalLM"]}))

    forecast = make_forecast(make_lineage(TRN1, **llama_recipe(llama)))

    assert "only these are supported: LlamaForCausalLM" in refusals(forecast)[0]


def test_a_config_that_is_no_json_is_a_no_go(make_lineage: MakeLineage, llama: Path) -> None:
    (llama / "config.json").write_text("{")

    assert "is not JSON" in refusals(make_forecast(make_lineage(TRN1, **llama_recipe(llama))))[0]


@pytest.mark.parametrize("artifact", ["base_model", "lora_checkpoints"])
def test_a_manifest_that_cannot_be_read_stops_only_whom_it_concerns(
    make_lineage: MakeLineage, tmp_path: Path, artifact: str
) -> None:
    lineage = make_lineage()
    fetch_base(lineage)
    publish(lineage, "tokenized_dataset", {"report.json": prepare_report(lineage)})
    made = lineage.find(artifact) or publish(lineage, artifact, {"checkpoints.json": b"{}"})
    (tmp_path / "store" / str(made.address) / "manifest.json").write_text("{")

    same, other = make_forecast(make_lineage()), make_forecast(make_lineage(training__seed=7))

    assert [text.count("manifest.json cannot be read") for text in refusals(same)] == [1]
    assert other.is_go == (artifact == "lora_checkpoints"), "another seed's training"


def test_a_finished_artifact_that_lost_a_file_is_a_no_go(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()
    fetch_base(lineage)
    made = publish(lineage, "tokenized_dataset", {"report.json": prepare_report(lineage), "rows": b"1"})
    lineage.store.files.remove(f"{made.address}/{made.manifest.data}/rows")

    assert [text.count("rows is missing or has another size") for text in refusals(make_forecast(make_lineage()))] == [
        1
    ]


def test_before_an_accelerator_is_booked_only_finished_data_counts(make_lineage: MakeLineage) -> None:
    lineage = make_lineage(graph__sequence_length=16)

    assert make_forecast(lineage, read_rows=False).data is None
    assert not make_forecast(lineage).is_go, "whoever asks before anything is made is told about the rows"


def test_a_missing_token_is_mentioned_while_a_repository_is_still_to_be_fetched(make_lineage: MakeLineage) -> None:
    without, with_token = (make_forecast(make_lineage(TRN1), has_hub_token=there) for there in (False, True))

    assert any("meta-llama/Llama-3.1-8B" in text and "HF_TOKEN" in text for text in warnings(without))
    assert not any("HF_TOKEN" in text for text in warnings(with_token))
    assert not any("HF_TOKEN" in text for text in warnings(make_forecast(make_lineage(), has_hub_token=False)))


def test_a_disk_without_room_is_a_no_go(make_lineage: MakeLineage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 1_000_000))

    forecast = make_forecast(make_lineage())

    assert any("has 0.95 MiB left" in text and "FINE_TUNE_STORE" in text for text in refusals(forecast))


def test_a_base_model_without_weights_is_a_no_go(make_lineage: MakeLineage, llama: Path) -> None:
    (llama / "model.safetensors").unlink()

    [refusal] = refusals(make_forecast(make_lineage(TRN1, **llama_recipe(llama))))

    assert refusal.startswith(f"{llama} holds no .safetensors file.")


def test_a_bucket_is_planned_as_a_folder_is(make_lineage: MakeLineage, bucket: str, tmp_path: Path) -> None:
    local = make_lineage()
    remote = Lineage(local.recipe, ArtifactStore(f"s3://{bucket}/store"), RawDatasets(f"s3://{bucket}/raw"), "v1")
    remote.raw.land("v1", tmp_path / "delivery")
    for lineage in (local, remote):
        fetch_base(lineage)

    here, there = make_forecast(local), make_forecast(remote)

    assert there.is_go
    assert (there.data, there.memory, there.duration) == (here.data, here.memory, here.duration)
    assert [state.finished for state in there.artifacts] == [state.finished for state in here.artifacts]


def test_a_version_that_has_not_landed_has_no_forecast(make_lineage: MakeLineage, tmp_path: Path) -> None:
    lineage = make_lineage()

    with pytest.raises(MissingArtifact, match="'v9' has not landed"):
        make_forecast(Lineage(load_recipe("tiny_llama_cpu"), lineage.store, RawDatasets(str(tmp_path / "raw")), "v9"))


def test_without_a_dataset_version_there_is_nothing_to_forecast(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()

    with pytest.raises(InvalidInput, match="--dataset-version"):
        make_forecast(Lineage(lineage.recipe, lineage.store, lineage.raw, None))
