"""The dataset versions as Dagster partitions.

Whether a version has landed is decided in neuron_ops/store/raw_datasets; the sensor and `fine-tune` register it.
"""

from click import ClickException
from dagster import DynamicPartitionsDefinition
from dagster._core.definitions.partitions.context import PartitionLoadingContext

from neuron_ops.errors import InvalidInput
from neuron_ops.store.raw_datasets import check_version

PARTITIONS_NAME = "dataset_version"


class UnknownDatasetVersion(ClickException):
    """A partition key that is not registered. Click prints it as one line, where Dagster would print a traceback."""

    def __init__(self, key: str) -> None:
        super().__init__(_advice(key))


class DatasetVersions(DynamicPartitionsDefinition):
    """Dagster's dynamic partitions, with an error for an unknown key that says how to register it."""

    def validate_partition_key(self, partition_key: str, context: PartitionLoadingContext) -> None:
        """Raises UnknownDatasetVersion for a key that is not registered."""
        if context.dynamic_partitions_store is not None and not context.dynamic_partitions_store.has_dynamic_partition(
            PARTITIONS_NAME, partition_key
        ):
            raise UnknownDatasetVersion(partition_key)


def _advice(key: str) -> str:
    try:
        check_version(key)
    except InvalidInput as error:
        return str(error)
    return (
        f"Dataset version {key!r} is not registered as a partition of this Dagster instance. Register it with: "
        f"fine-tune partitions add {key}   (fine-tune partitions list shows the registered ones; DAGSTER_HOME must "
        "be the same for both commands)"
    )


DATASET_VERSIONS = DatasetVersions(name=PARTITIONS_NAME)
