"""Seven assets that do nothing, one after another, each in a pod: the code location of benchmarks/cluster.py.

Its own module, because pods import it by name. EXECUTOR chooses dagster_k8s's executor or ours.
"""

import os
from pathlib import Path

import dagster as dg

from fine_tune_assets.resources import fine_tuning
from fine_tune_assets.settings import read_settings
from neuron_ops.steps.table import STEPS

NAMES = [step.artifact for step in STEPS]


def link(index: int) -> dg.AssetsDefinition:
    """One asset of the chain; it leaves a file for each time that it runs."""

    @dg.asset(name=NAMES[index], deps=[NAMES[index - 1]] if index else [], required_resource_keys={"fine_tuning"})
    def nothing(context: dg.AssetExecutionContext) -> None:
        folder = Path(os.environ["CLUSTER_TEST_FOLDER"], "ran")
        folder.mkdir(exist_ok=True)
        (folder / f"{context.run.run_id}-{NAMES[index]}-{os.getpid()}").touch()

    return nothing


def executor() -> dg.ExecutorDefinition:
    """The executor that is measured; loading it is part of its cost."""
    if os.environ["EXECUTOR"] == "stock":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    from fine_tune_assets.kubernetes.executor.definition import pod_executor
    from fine_tune_assets.kubernetes.pods.settings import load_pods

    return pod_executor(load_pods(read_settings().pods))


definitions = dg.Definitions(
    assets=[link(index) for index in range(len(NAMES))],
    jobs=[dg.define_asset_job("chain", selection=NAMES)],
    resources={"fine_tuning": fine_tuning(read_settings())},
    executor=executor(),
)
