"""The executor's configuration: what the stock one takes, and one clear error for what is wrong."""

from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    Executor,
    InitExecutorContext,
    job,
)
from dagster._core.definitions.job_base import InMemoryJob

from fine_tune_assets.kubernetes.executor.definition import pod_executor
from fine_tune_assets.kubernetes.pods.settings import Pods
from neuron_ops.errors import InvalidInput
from tests.fine_tune_assets.kubernetes.conftest import Deploy

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"jobb_image": "x"}, 'unexpected config entry "jobb_image"'),
        (
            {"per_step_k8s_config": {"lora_checkpoint": {}}},
            "names 'lora_checkpoint', which is not an asset. The assets are base",
        ),
    ],
)
def test_a_wrong_executor_configuration_is_one_clear_error(deploy: Deploy, config: dict[str, Any], said: str) -> None:
    with deploy({}).instance() as instance, pytest.raises(InvalidInput) as error:
        _executor(instance, config)

    assert said in str(error.value)


def test_the_executor_takes_what_the_stock_one_takes(deploy: Deploy) -> None:
    config = {
        "max_concurrent": 2,
        "job_image": "other:1",
        "env_vars": ["A=1"],
        "step_k8s_config": {"pod_spec_config": {"dns_policy": "Default"}},
        "per_step_k8s_config": {"merged_model": {"container_config": {"image": "third:1"}}},
        "retries": {"disabled": {}},
        "pending_timeout_seconds": 7,
    }

    with deploy({}).instance() as instance:
        made = _executor(instance, config)

    assert made.retries.disabled


@job
def nothing() -> None:
    """A job for an executor to belong to."""


def _executor(instance: DagsterInstance, config: dict[str, Any]) -> Executor:
    """The executor as a run of a job makes it."""
    definition = pod_executor(Pods())
    own = {"pending_timeout_seconds": 1, "check_interval_seconds": 1, "max_disruptions": 1}
    create = definition.executor_creation_fn
    assert create is not None
    return create(InitExecutorContext(InMemoryJob(nothing), definition, own | config, instance))
