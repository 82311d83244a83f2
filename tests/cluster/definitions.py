"""The smallest code location that shows what unmodified dagster-k8s does: each op runs in a pod of its own.

Its own module, because pods import it by name.
"""

from collections.abc import Mapping
from typing import Any

from dagster import Definitions, job, op
from dagster_k8s import k8s_job_executor

NEURON = {"container_config": {"resources": {"limits": {"aws.amazon.com/neuron": "16"}}}}
K8S = k8s_job_executor.configured({})


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


@job(executor_def=K8S)
def chain() -> None:
    second(first())


definitions = Definitions(jobs=[chain])
