"""The smallest code location that shows what unmodified dagster-k8s does: each op runs in a pod of its own.

Its own module, because pods import it by name.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import Definitions, job, op
from dagster_k8s import k8s_job_executor

NEURON = {"container_config": {"resources": {"limits": {"aws.amazon.com/neuron": "16"}}}}
UNKNOWN_IMAGE = {"container_config": {"image": "registry.example/none:1"}}
DISRUPTION = {"action": "Ignore", "on_pod_conditions": [{"type": "DisruptionTarget", "status": "True"}]}
ON_SPOT = {
    "job_spec_config": {"backoff_limit": 3, "pod_failure_policy": {"rules": [DISRUPTION]}},
    "pod_spec_config": {"node_selector": {"capacity": "spot"}},
}
K8S = k8s_job_executor.configured({})


def started(op_name: str) -> Path:
    """The file that says that an op runs."""
    return Path(os.environ["CLUSTER_TEST_FOLDER"]) / f"{op_name}-started"


def in_pod(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tag that tells dagster-k8s how an op's pod differs."""
    return {"dagster-k8s/config": config}


@op
def first() -> int:
    print("first speaks")  # noqa: T201 (its log is what a test looks for)
    return 1


@op(tags=in_pod(NEURON))
def second(number: int) -> None:
    print(f"second got {number}")  # noqa: T201


@op
def waits() -> None:
    """Run until somebody ends it."""
    started(os.environ["DAGSTER_RUN_STEP_KEY"]).touch()
    while True:
        time.sleep(0.05)


@job(executor_def=K8S)
def chain() -> None:
    second(first())


@job(executor_def=K8S)
def everyday_faults() -> None:
    """One op for each fault that happens every day on accelerator clusters."""
    waits.alias("killed")()
    waits.alias("on_spot").tag(in_pod(ON_SPOT))()
    waits.alias("too_big").tag(in_pod(NEURON))()
    waits.alias("unknown_image").tag(in_pod(UNKNOWN_IMAGE))()


definitions = Definitions(jobs=[chain, everyday_faults])
