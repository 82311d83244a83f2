"""The code location: what `dagster dev`, `dagster asset materialize` and `dg` load.

In the local deployment one process runs all assets one after another: each starts its step as a child, so a worker
process for each asset would only import Dagster once more (3 CPU seconds). In Kubernetes each has a pod of its own.
"""

import gc

from dagster import Definitions, ExecutorDefinition, SensorDefinition, in_process_executor

# The objects that Dagster's imports made live as long as the process. Python's garbage collector would scan all 110,000
# of them during one of the next imports and again at the end: a quarter of a CPU second in every pod.
gc.freeze()

from fine_tune_assets.assets import build_assets
from fine_tune_assets.jobs import fine_tune
from fine_tune_assets.resources import fine_tuning
from fine_tune_assets.sensors import new_dataset_version
from fine_tune_assets.settings import Settings, read_settings


def build_definitions(settings: Settings) -> Definitions:
    """The whole graph for one recipe, one store and one deployment.

    Raises:
        InvalidInput: the settings cannot work together.
    """
    executor, sensors = _kubernetes(settings) if settings.deployment == "kubernetes" else (in_process_executor, [])
    return Definitions(
        assets=build_assets(),
        jobs=[fine_tune],
        sensors=[new_dataset_version, *sensors],
        resources={"fine_tuning": fine_tuning(settings)},
        executor=executor,
    )


def _kubernetes(settings: Settings) -> tuple[ExecutorDefinition, list[SensorDefinition]]:
    from fine_tune_assets.kubernetes.deployment import check_settings  # the local deployment does not import it
    from fine_tune_assets.kubernetes.executor.definition import pod_executor
    from fine_tune_assets.kubernetes.janitor import janitor
    from fine_tune_assets.kubernetes.pods.settings import load_pods

    pods = load_pods(settings.pods)
    check_settings(settings, pods)
    return pod_executor(pods), [janitor(pods.namespace)]


defs = build_definitions(read_settings())
