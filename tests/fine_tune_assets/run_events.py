"""What a run within this process says of its assets: what it made, what failed, what was tried again."""

from collections.abc import Mapping

from dagster import (
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    ExecuteInProcessResult,
)
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
)
from dagster_shared.error import SerializableErrorInfo


def events(result: ExecuteInProcessResult, kind: DagsterEventType) -> list[DagsterEvent]:
    return [event for event in result.all_events if event.event_type == kind]


def materializations(result: ExecuteInProcessResult) -> dict[str, AssetMaterialization]:
    found = events(result, DagsterEventType.ASSET_MATERIALIZATION)
    return {str(event.step_key): event.step_materialization_data.materialization for event in found}


def metadata(result: ExecuteInProcessResult) -> dict[str, Mapping[str, object]]:
    return {
        name: {key: value.value for key, value in event.metadata.items()}
        for name, event in materializations(result).items()
    }


def address(result: ExecuteInProcessResult, artifact: str) -> object:
    return metadata(result)[artifact]["address"]


def versions_of(result: ExecuteInProcessResult) -> dict[str, str]:
    return {name: (event.tags or {})[DATA_VERSION_TAG] for name, event in materializations(result).items()}


def errors(result: ExecuteInProcessResult) -> list[tuple[str, SerializableErrorInfo]]:
    failures = events(result, DagsterEventType.STEP_FAILURE)
    found = [(str(event.step_key), event.step_failure_data.error) for event in failures]
    return [(step, error) for step, error in found if error is not None]


def retries(result: ExecuteInProcessResult) -> list[DagsterEvent]:
    return events(result, DagsterEventType.STEP_UP_FOR_RETRY)


def only_error(result: ExecuteInProcessResult, artifact: str) -> SerializableErrorInfo:
    """The one failure of a run: of this step, not retried, without frames."""
    [(step, error)] = errors(result)
    assert step == artifact
    assert retries(result) == []
    assert error.stack == []
    assert error.cause is None
    return error
