"""Partition keys are dataset versions; a key that is not registered is refused with the command that helps."""

import pytest
from click import ClickException
from dagster import DagsterInstance, JobDefinition
from dagster._core.storage.tags import PARTITION_NAME_TAG

from fine_tune_assets.partitions import DATASET_VERSIONS, PARTITIONS_NAME, UnknownDatasetVersion
from tests.fine_tune_assets.conftest import Project


def test_a_registered_version_is_accepted(project: Project) -> None:
    project.deliver("v1")
    project.register("v1")

    assert project.materialize("v1", "base_model").success


def test_an_unknown_version_is_refused_with_the_command_that_registers_it(project: Project) -> None:
    with project.instance() as instance, pytest.raises(UnknownDatasetVersion) as refused:
        _job(project).execute_in_process(instance=instance, partition_key="v2")

    assert isinstance(refused.value, ClickException), "click prints it as one line"
    assert "'v2' is not registered" in refused.value.message
    assert "fine-tune partitions add v2" in refused.value.message


def test_a_version_that_was_added_in_the_ui_but_never_landed_fails_with_what_to_do(project: Project) -> None:
    with project.instance() as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, ["v9"])

    failed = project.materialize("v9", "tokenized_dataset")

    [failure] = [event for event in failed.all_events if event.is_step_failure]
    assert "'v9' has not landed" in str(failure.step_failure_data.error)
    assert "fine-tune dataset add" in str(failure.step_failure_data.error)


@pytest.mark.parametrize("key", ["../x", "a...b", "", "a/b", "-v", "v 1", "x" * 101])
def test_a_malformed_key_is_refused_for_what_it_is(key: str) -> None:
    message = UnknownDatasetVersion(key).message

    assert f"{key!r} cannot name a dataset version. Use 1 to 100 letters" in message
    assert "partitions add" not in message, "that would refuse it too"


def test_the_partitions_are_dagsters_own_in_all_else() -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, ["b", "a"])

        assert DATASET_VERSIONS.get_partition_keys(dynamic_partitions_store=instance) == ["b", "a"]
        assert DATASET_VERSIONS.has_partition_key("a", dynamic_partitions_store=instance)
        assert not DATASET_VERSIONS.has_partition_key("c", dynamic_partitions_store=instance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "key", "says"),
    [
        ("dagster asset materialize -m fine_tune_assets.definitions --select *", "v2", "fine-tune partitions add v2"),
        ("dagster asset materialize -m fine_tune_assets.definitions --select *", "../x", "cannot name a dataset"),
        ("dg launch --assets tokenized_dataset", "v2", "fine-tune partitions add v2"),
    ],
)
def test_materializing_an_unknown_version_says_in_one_line_what_to_do(
    project: Project, command: str, key: str, says: str
) -> None:
    done = project.command(*command.split(), "--partition", key)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_that_was_tagged_with_an_unknown_version_makes_nothing_of_that_version(project: Project) -> None:
    with project.instance() as instance:
        lineage = _job(project).execute_in_process(
            instance=instance, tags={PARTITION_NAME_TAG: "v2"}, raise_on_error=False
        )

    assert not lineage.success
    assert not (project.root / "store" / "tokenized_dataset").exists()


def _job(project: Project) -> JobDefinition:
    return project.definitions.resolve_job_def("fine_tune")
