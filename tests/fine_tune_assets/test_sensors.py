"""The sensor: a dataset version that lands is registered and fine-tuned on, in one tick."""

import time
from pathlib import Path

import pytest
from dagster import AssetMaterialization, SensorResult, SkipReason, build_sensor_context
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.sensor_definition import SensorExecutionData

from fine_tune_assets.partitions import PARTITIONS_NAME
from fine_tune_assets.resources import FineTuning
from fine_tune_assets.sensors import MAX_NEW_PER_TICK, new_dataset_version
from neuron_ops.steps.table import RAW_DATASET
from tests.fine_tune_assets.conftest import Project


def test_a_version_that_lands_is_registered_and_fine_tuned_on_in_one_tick(project: Project) -> None:
    project.deliver("v1")

    result = tick(project)

    assert isinstance(result, SensorResult)
    digest = project.raw.digest("v1")
    [added] = result.dynamic_partitions_requests or []
    assert (added.partitions_def_name, list(added.partition_keys)) == (PARTITIONS_NAME, ["v1"])
    [request] = result.run_requests or []
    assert (request.run_key, request.partition_key) == (f"v1-{digest}", "v1")


def test_its_delivery_becomes_a_materialization_of_the_raw_dataset(project: Project) -> None:
    project.deliver("v1")

    result = tick(project)

    assert isinstance(result, SensorResult)
    [event] = result.asset_events
    assert isinstance(event, AssetMaterialization)
    assert event.asset_key.to_user_string() == RAW_DATASET
    assert event.partition == "v1"
    assert event.tags == {DATA_VERSION_TAG: project.raw.digest("v1")}
    assert event.metadata["location"].value == f"{project.settings.raw}/v1"
    assert event.metadata["files"].value == 1
    assert event.metadata["bytes"].value == (project.root / "raw" / "v1" / "rows.jsonl").stat().st_size


def test_a_second_tick_does_nothing(project: Project) -> None:
    project.deliver("v1")

    register(project, tick(project))
    second = tick(project)

    assert isinstance(second, SkipReason)
    assert second.skip_message == f"No new dataset version in {project.settings.raw}."


def test_an_empty_or_absent_raw_folder_is_no_error(project: Project) -> None:
    assert isinstance(tick(project), SkipReason)


def test_a_delivery_without_its_marker_waits_and_the_skip_reason_says_for_what(project: Project) -> None:
    project.deliver("v1")
    marker = project.root / "raw" / "v1" / "_SUCCESS"
    marker.unlink()

    before = tick(project)
    marker.touch()
    after = tick(project)

    assert isinstance(before, SkipReason)
    assert "Waiting for _SUCCESS in v1." in str(before.skip_message)
    assert isinstance(after, SensorResult)


@pytest.mark.parametrize("name", ["a...b", "with space", "ends.", "_tmp"])
def test_a_malformed_name_is_skipped_with_a_reason_and_stops_no_other(project: Project, name: str) -> None:
    folder(project, name)

    alone = tick(project)
    project.deliver("v1")
    beside = tick(project)

    assert isinstance(alone, SkipReason)
    assert f"{name!r} cannot name a dataset version" in str(alone.skip_message)
    assert keys(beside) == ["v1"]


def test_a_delivery_without_rows_is_skipped_with_a_reason(project: Project) -> None:
    (folder(project, "v1") / "rows.jsonl").unlink()

    result = tick(project)

    assert isinstance(result, SkipReason)
    assert "holds no .jsonl or .parquet file" in str(result.skip_message)


def test_a_hidden_folder_is_no_version(project: Project) -> None:
    folder(project, ".staging")

    result = tick(project)

    assert isinstance(result, SkipReason)
    assert ".staging" not in str(result.skip_message)


def test_a_late_version_whose_name_sorts_first_is_found(project: Project) -> None:
    folder(project, "dolly-2026-11-02")
    register(project, tick(project))

    folder(project, "dolly-2026-11-01")

    assert keys(tick(project)) == ["dolly-2026-11-01"]


def test_a_tick_takes_a_limited_number_and_the_next_ticks_take_the_rest(project: Project) -> None:
    names = [f"v{number:03d}" for number in range(MAX_NEW_PER_TICK + 5)]
    for name in names:
        folder(project, name)

    first = tick(project)
    register(project, first)
    second = tick(project)

    assert keys(first) == names[:MAX_NEW_PER_TICK]
    assert keys(second) == names[MAX_NEW_PER_TICK:]


def test_two_thousand_known_versions_do_not_slow_a_tick(project: Project) -> None:
    for number in range(2000):
        (project.root / "raw" / f"v{number:04d}").mkdir(parents=True)
    with project.instance() as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, [f"v{number:04d}" for number in range(2000)])
    folder(project, "v0999-late")

    began = time.process_time()
    result = tick(project)

    assert keys(result) == ["v0999-late"]
    assert time.process_time() - began < 2.0, "a tick has a minute and comes every half"


def test_the_definitions_give_the_sensor_its_resource_and_dagster_resolves_its_requests(project: Project) -> None:
    project.deliver("v1")
    repository = project.definitions.get_repository_def()

    with (
        project.instance() as instance,
        build_sensor_context(
            instance_ref=instance.get_ref(),
            repository_def=repository,
            resources=repository.get_top_level_resources(),  # as the code server does
        ) as context,
    ):
        data: SensorExecutionData = repository.get_sensor_def("new_dataset_version").evaluate_tick(context)

    [request] = data.run_requests or []
    assert request.tags["dagster/partition"] == "v1", "resolved against the partition that the same tick adds"
    assert [event.partition for event in data.asset_events] == ["v1"]


def tick(project: Project) -> SensorResult | SkipReason:
    settings = project.settings
    fine_tuning = FineTuning(recipe=settings.recipe, overrides={}, store=settings.store, raw=settings.raw)
    with (
        project.instance() as instance,
        build_sensor_context(
            instance_ref=instance.get_ref(),
            repository_def=project.definitions.get_repository_def(),
            resources={"fine_tuning": fine_tuning},
        ) as context,
    ):
        result = new_dataset_version(context)
    assert isinstance(result, SensorResult | SkipReason)
    return result


def keys(result: SensorResult | SkipReason) -> list[str | None]:
    assert isinstance(result, SensorResult), result.skip_message
    return [request.partition_key for request in result.run_requests or []]


def register(project: Project, result: SensorResult | SkipReason) -> None:
    """What the daemon does with the tick's partitions."""
    assert isinstance(result, SensorResult)
    with project.instance() as instance:
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))


def folder(project: Project, name: str) -> Path:
    """A landed folder with one row, whatever its name."""
    path = project.root / "raw" / name
    path.mkdir(parents=True)
    (path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (path / "_SUCCESS").touch()
    return path
