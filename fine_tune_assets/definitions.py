"""The code location: what `dagster dev`, `dagster asset materialize` and `dg` load."""

from dagster import Definitions, in_process_executor

from fine_tune_assets.assets import build_assets
from fine_tune_assets.jobs import fine_tune
from fine_tune_assets.resources import fine_tuning
from fine_tune_assets.sensors import new_dataset_version
from fine_tune_assets.settings import Settings, read_settings


def build_definitions(settings: Settings) -> Definitions:
    """The whole graph for one recipe and one store.

    One process runs all assets one after another: each starts its step as a child, so a worker process for each asset
    would only import Dagster once more (3 CPU seconds).
    """
    return Definitions(
        assets=build_assets(),
        jobs=[fine_tune],
        sensors=[new_dataset_version],
        resources={"fine_tuning": fine_tuning(settings)},
        executor=in_process_executor,
    )


defs = build_definitions(read_settings())
