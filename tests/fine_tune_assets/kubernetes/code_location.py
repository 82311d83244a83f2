"""Assets with the graph's names that do what a test tells them, on the project's own executor and resource.

Its own module, because pods import it by name. What a step does is in a file of its asset's name, read at each start.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DagsterExecutionInterruptedError,
    Definitions,
    ResourceParam,
    RetryPolicy,
    asset,
    define_asset_job,
)

from fine_tune_assets.interruption import interrupted
from fine_tune_assets.kubernetes.executor.definition import pod_executor
from fine_tune_assets.kubernetes.pods.settings import load_pods
from fine_tune_assets.resources import FineTuning, fine_tuning
from fine_tune_assets.settings import read_settings

FOLDER = Path(os.environ["CLUSTER_TEST_FOLDER"])  # what the test cluster gives to every pod
NAMES = ("base_model", "tokenized_dataset", "lora_checkpoints", "consolidated_weights", "merged_model", "evaluation")
BOOKS = "compiled_graph_cache"


def starts(name: str) -> int:
    """How often a step has begun."""
    return len(list(FOLDER.glob(f"{name}-started-*")))


def _wait() -> None:
    while not FOLDER.joinpath("go-on").exists():
        time.sleep(0.05)


def _break_at_import() -> None:
    """What a pod does whose image is broken. Its words go straight to the pod's log: of what a step prints, Dagster
    gives the log a copy, which comes too late when the process just ends."""
    step = os.environ.get("DAGSTER_RUN_STEP_KEY")
    if step and FOLDER.joinpath(step).read_text() == "break":
        print("No module named dagster_postgres", flush=True)  # noqa: T201 (the last line of the log)
        os._exit(3)


# Each behaviour by its name; `then` marks what a step does when it starts for a second time.
BEHAVIOURS: dict[str, Callable[[], None]] = {
    "finish": lambda: None,
    "wait": _wait,
    "vanish": lambda: os._exit(0),
}


def _build(name: str) -> AssetsDefinition:
    @asset(name=name, retry_policy=RetryPolicy(max_retries=1))
    def materialize(context: AssetExecutionContext, fine_tuning: ResourceParam[FineTuning]) -> None:
        FOLDER.joinpath(f"{name}-started-{time.time_ns()}").touch()
        try:
            first, _, second = FOLDER.joinpath(name).read_text().partition(" then ")
            BEHAVIOURS[first if starts(name) == 1 or not second else second]()
        except DagsterExecutionInterruptedError:
            raise interrupted(context, fine_tuning.deployment) from None
        # Making the launcher asks for the cluster's credentials, which a pod has only where runs may be resumed.
        assert context.instance._run_launcher is None or context.instance.run_monitoring_max_resume_run_attempts

    return materialize


_break_at_import()
settings = read_settings()
definitions = Definitions(
    assets=[_build(name) for name in (*NAMES, BOOKS)],
    jobs=[
        define_asset_job("everything", selection=list(NAMES)),
        *(define_asset_job(f"only_{name}", selection=[name]) for name in (*NAMES, BOOKS)),
    ],
    resources={"fine_tuning": fine_tuning(settings)},
    executor=pod_executor(load_pods(settings.pods)),
)
