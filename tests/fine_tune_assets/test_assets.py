"""The whole graph on CPU: what each asset makes and shows, and what is reused."""

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
)

from neuron_ops.steps.table import BY_ARTIFACT, RAW_DATASET, STEPS, upstream
from tests.fine_tune_assets.conftest import Project
from tests.fine_tune_assets.process_starts import Watch
from tests.fine_tune_assets.run_events import (
    address,
    errors,
    materializations,
    metadata,
    retries,
    versions_of,
)

pytestmark = pytest.mark.slow


ARTIFACTS = tuple(step.artifact for step in STEPS)


UP_TO_TRAINING = ("base_model", "tokenized_dataset", "compiled_graph_cache", "lora_checkpoints")


@dataclass(frozen=True, slots=True)
class Made:
    """A project whose dataset version v1 was materialized, and what that looked like."""

    project: Project
    result: ExecuteInProcessResult
    steps: list[str]


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, dagster_home: Path, watch: Watch) -> Made:
    project = Project(tmp_path_factory.mktemp("made"))
    shutil.copytree(dagster_home, project.home)
    project.deliver("v1")
    project.register("v1")
    with watch.steps() as steps:
        result = project.materialize("v1")
    return Made(project, result, steps)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may damage."""
    shutil.copytree(made.project.root, tmp_path / "copy")
    return Project(tmp_path / "copy")


def test_one_command_makes_everything_from_the_dataset_version_to_the_evaluation(made: Made) -> None:
    assert made.result.success, errors(made.result)
    assert set(materializations(made.result)) == set(ARTIFACTS)
    assert sorted(made.steps) == sorted(BY_ARTIFACT[artifact].verb for artifact in ARTIFACTS)


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_asset_shows_where_its_artifact_is_and_what_it_cost(made: Made, artifact: str) -> None:
    shown = metadata(made.result)[artifact]
    found = made.project.lineage("v1").require(artifact)

    assert shown["reused"] is False
    assert shown["address"] == str(found.address)
    assert shown["location"] == found.location
    assert Path(str(shown["location"])).is_dir()
    assert shown["files"] == len(found.manifest.files)
    assert shown["bytes"] == found.manifest.total_bytes
    assert float(str(shown["seconds"])) >= 0
    assert float(str(shown["cpu_seconds"])) > 0
    assert set(dict(shown["inputs"])) == set(found.manifest.inputs)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("artifact", "names"),
    [
        ("base_model", {"model", "parameters", "dtype", "weights_bytes"}),
        ("tokenized_dataset", {"rows_kept", "rows_rejected", "tokens", "density", "supervised_share", "report"}),
        ("compiled_graph_cache", {"graphs"}),
        ("lora_checkpoints", {"best_step", "best_eval_loss", "last_loss", "epochs", "tokens_per_second", "loss"}),
        ("evaluation", {"base_loss", "tuned_loss", "improvement", "report"}),
    ],
)
def test_an_asset_shows_the_numbers_that_a_person_asks_for(made: Made, artifact: str, names: set[str]) -> None:
    assert names <= set(metadata(made.result)[artifact])


def test_the_loss_curve_is_a_picture(made: Made) -> None:
    loss = materializations(made.result)["lora_checkpoints"].metadata["loss"]

    assert isinstance(loss, MarkdownMetadataValue)
    assert loss.value.startswith("![loss](data:image/png;base64,iVBORw0KGgo")


def test_versions_say_exactly_what_was_made_from_what(made: Made) -> None:
    events = materializations(made.result)
    versions = {name: (event.tags or {})[DATA_VERSION_TAG] for name, event in events.items()}
    versions[RAW_DATASET] = made.project.raw.digest("v1")

    for artifact, event in events.items():
        tags, step = event.tags or {}, BY_ARTIFACT[artifact]
        assert versions[artifact] == made.project.lineage("v1").require(artifact).manifest.digest
        assert tags[CODE_VERSION_TAG] == step.code_version
        for name in upstream(step):
            # Dagster records a partitioned input as the hash of its partitions' versions.
            partitioned = name not in BY_ARTIFACT or BY_ARTIFACT[name].partitioned
            expected = sha256(versions[name].encode()).hexdigest() if partitioned else versions[name]
            assert tags[get_input_data_version_tag(AssetKey(name))] == expected


def test_every_declared_check_is_reported_and_passes(made: Made) -> None:
    evaluations = made.result.get_asset_check_evaluations()

    reported = {(check.asset_key.to_user_string(), check.check_name) for check in evaluations}
    assert reported == {(step.artifact, check.name) for step in STEPS for check in step.checks}
    assert [check.check_name for check in evaluations if not check.passed] == []


def test_progress_reaches_dagsters_event_log(made: Made) -> None:
    with made.project.instance() as instance:
        lines = [entry.user_message for entry in instance.all_logs(made.result.run_id)]

    assert any("step 2/6 loss" in line for line in lines)
    assert any("step 6 held-out loss" in line for line in lines)


def test_the_plan_is_shown_with_what_books_an_accelerator_before_and_after(made: Made) -> None:
    with made.project.instance() as instance:
        for asset in ("compiled_graph_cache", "lora_checkpoints"):
            (seen,) = instance.fetch_observations(AssetKey(asset), limit=10).records
            done = instance.get_latest_materialization_event(AssetKey(asset))
            assert seen.asset_observation is not None
            assert done is not None
            assert done.asset_materialization is not None
            plans = [event.metadata["plan"].value for event in (seen.asset_observation, done.asset_materialization)]
            assert seen.storage_id < done_id(instance, asset), "shown before the accelerator was booked"
            assert seen.asset_observation.partition == "v1"
            assert plans[0] == plans[1]
            assert str(plans[0]).startswith("**GO  v1 with tiny_llama_cpu**")
        other = instance.get_latest_materialization_event(AssetKey("merged_model"))
    assert other is not None
    assert other.asset_materialization is not None
    assert "plan" not in other.asset_materialization.metadata


def done_id(instance: DagsterInstance, asset: str) -> int:
    return instance.fetch_materializations(AssetKey(asset), limit=1).records[0].storage_id


def test_the_command_line_plans_what_was_made(made: Made) -> None:
    pairs = [word for name, value in made.project.overrides.items() for word in ("--set", f"{name}={value}")]

    plan = made.project.command("fine-tune", "plan", "v1", "--json", *pairs)

    assert plan.returncode == 0
    said = json.loads(plan.stdout)
    assert [(state["artifact"], state["finished"]) for state in said["artifacts"]] == [
        (name, True) for name in ARTIFACTS
    ]
    assert said["graphs"]["is_hit"] is True
    with made.project.instance() as instance:
        trained = instance.get_latest_materialization_event(AssetKey("lora_checkpoints"))
    assert trained is not None
    assert trained.asset_materialization is not None
    truth = trained.asset_materialization.metadata
    assert said["epochs"]["number"]["low"] == pytest.approx(truth["epochs"].value, abs=0.001)
    assert said["duration"]["tokens_per_second"]["low"] == pytest.approx(truth["tokens_per_second"].value, rel=1e-5)


def test_the_command_line_reports_the_verdict(made: Made) -> None:
    pairs = [word for name, value in made.project.overrides.items() for word in ("--set", f"{name}={value}")]

    report = made.project.command("fine-tune", "report", "v1", *pairs)

    assert report.returncode == 0
    assert [line.split("  ")[0] for line in report.stdout.splitlines()][:3] == [
        "merged model",
        "held-out loss",
        "prompt",
    ]


def test_a_model_that_failed_its_gate_is_reported_and_then_refused(copy: Project) -> None:
    pairs = [word for name, value in copy.overrides.items() for word in ("--set", f"{name}={value}")]
    (path,) = copy.root.glob("**/evaluation/v1/*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["checks"] = [{**check, "passed": False} for check in manifest["checks"]]
    path.write_text(json.dumps(manifest))

    report = copy.command("fine-tune", "report", "v1", *pairs)

    assert report.returncode == 2
    assert "held-out loss  base" in report.stdout
    assert "failed its check 'better_than_base'" in report.stderr


def test_a_merged_model_that_lost_its_weights_is_not_reported(copy: Project) -> None:
    pairs = [word for name, value in copy.overrides.items() for word in ("--set", f"{name}={value}")]
    for weights in copy.root.glob("**/merged_model/v1/**/*.safetensors"):
        weights.unlink()

    report = copy.command("fine-tune", "report", "v1", *pairs)

    assert report.returncode == 4
    assert report.stdout == ""
    assert "model.safetensors is missing" in report.stderr


def test_materializing_again_reuses_everything_and_starts_no_step(made: Made, watch: Watch) -> None:
    with watch.steps() as steps:
        again = made.project.materialize("v1")

    assert again.success
    assert steps == []
    before, after = metadata(made.result), metadata(again)
    for artifact in ARTIFACTS:
        unchanged = {name: value for name, value in before[artifact].items() if name != "plan"}
        assert after[artifact] == {**unchanged, "reused": True}, "what is only reused needs no plan"
    assert versions_of(again) == versions_of(made.result)
    assert len(again.get_asset_check_evaluations()) == len(made.result.get_asset_check_evaluations())


def test_another_learning_rate_trains_again_on_the_same_tokens(made: Made) -> None:
    changed = made.project.materialize("v1", *UP_TO_TRAINING, training__learning_rate=0.001)

    assert changed.success, errors(changed)
    reused = {artifact: shown["reused"] for artifact, shown in metadata(changed).items()}
    assert reused == {**dict.fromkeys(UP_TO_TRAINING, True), "lora_checkpoints": False}
    assert address(changed, "lora_checkpoints") != address(made.result, "lora_checkpoints")


def test_another_dataset_version_shares_the_base_model_and_the_compiled_graphs(made: Made) -> None:
    made.project.deliver("v2", first=120)
    made.project.register("v2")

    second = made.project.materialize("v2", "base_model", "tokenized_dataset", "compiled_graph_cache")

    assert second.success, errors(second)
    reused = {artifact: shown["reused"] for artifact, shown in metadata(second).items()}
    assert reused == {"base_model": True, "tokenized_dataset": False, "compiled_graph_cache": True}
    assert address(second, "compiled_graph_cache") == address(made.result, "compiled_graph_cache")


def test_a_model_that_is_not_better_than_its_base_is_stopped(copy: Project) -> None:
    failed = copy.materialize("v1", "evaluation", evaluation__min_improvement=100.0)

    assert not failed.success
    [gate] = [check for check in failed.get_asset_check_evaluations() if check.check_name == "better_than_base"]
    assert not gate.passed
    assert gate.blocking
    assert retries(failed) == []
