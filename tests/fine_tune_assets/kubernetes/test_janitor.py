"""What a run left behind is found by its label, and only that."""

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, build_sensor_context

from fine_tune_assets.kubernetes.janitor import janitor, sweep
from neuron_ops.errors import InvalidInput
from tests.cluster.deployment import Deployment
from tests.cluster.kinds import JOBS
from tests.cluster.objects import Object
from tests.fine_tune_assets.kubernetes.conftest import Deploy
from tests.fine_tune_assets.kubernetes.looks import WAIT, labelled_job

RUNNING, CANCELED = DagsterRunStatus.STARTED, DagsterRunStatus.CANCELED


def _run(instance: DagsterInstance, status: DagsterRunStatus) -> str:
    run = DagsterRun(job_name="fine_tune", status=status)
    instance.add_run(run)
    return run.run_id


def _job(name: str, run_id: str, component: str = "step_worker") -> Object:
    return labelled_job(name, WAIT, {"dagster/run-id": run_id, "app.kubernetes.io/component": component})


def _names(deployment: Deployment) -> set[str]:
    return {job["metadata"]["name"] for job in deployment.cluster.jobs()}


@pytest.mark.cluster
def test_the_jobs_of_finished_runs_are_deleted_and_nothing_else(deploy: Deploy) -> None:
    deployment = deploy({})
    deployment.cluster.add_node("node-a")
    with deployment.instance() as instance:
        over, on = _run(instance, CANCELED), _run(instance, RUNNING)
        for job in (_job("left", over), _job("in-use", on), _job("strange", "unknown-to-this-instance")):
            deployment.cluster.create(JOBS, job)
        deployment.cluster.create(JOBS, _job("the-runs-own", over, "run_worker"))

        would = sweep(instance, None, dry_run=True)
        before = _names(deployment)
        with build_sensor_context(instance=instance) as context:
            first, second = (janitor(None)(context) for _ in range(2))

    assert would == ["left"]
    assert before == {"left", "in-use", "strange", "the-runs-own"}
    assert _names(deployment) == before - {"left"}
    assert [tick.skip_message for tick in (first, second)] == ["Deleted left.", "Nothing was left behind."]  # type: ignore[union-attr]


def test_an_instance_that_launches_no_pods_is_refused() -> None:
    pytest.importorskip("dagster_k8s", reason="needs the extra k8s")

    with DagsterInstance.ephemeral() as instance, pytest.raises(InvalidInput, match="launches runs with"):
        sweep(instance, None)
