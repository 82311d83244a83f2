"""Runs that are cancelled, interrupted, lost or resumed: which pods go with them and which go on."""

import pytest
from dagster import (
    DagsterRunStatus,
)

from tests.cluster.deployment import Deployment, stop
from tests.cluster.kinds import PODS
from tests.cluster.objects import Object
from tests.fine_tune_assets.kubernetes.conftest import Deploy
from tests.fine_tune_assets.kubernetes.story import Story, behave, living, pod_of, starts, wait_for_start

pytestmark = pytest.mark.cluster

RESUMES = {"enabled": True, "max_resume_run_attempts": 3}


def test_a_cancelled_run_leaves_no_pod_even_where_it_might_be_resumed(deploy: Deploy) -> None:
    """Dagster forwards no termination to the steps while a run may be resumed."""
    deployment = deploy({}, run_monitoring=RESUMES)
    behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    run_id = deployment.launch("only_base_model")
    wait_for_start(deployment, "base_model")

    with deployment.instance() as instance:
        instance.run_launcher.terminate(run_id)

    assert deployment.wait_for_end(run_id, 120).status == DagsterRunStatus.CANCELED
    deployment.cluster.wait_for(lambda: not living(deployment), "the step's pod to end")
    assert Story(deployment, run_id).ends("base_model") in ([], ["STEP_FAILURE"])


def test_the_steps_of_a_run_whose_pod_is_gone_go_with_it(deploy: Deploy) -> None:
    deployment = deploy({})
    behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    deployment.launch("only_base_model")
    wait_for_start(deployment, "base_model")
    [run_pod] = deployment.cluster.pods("app.kubernetes.io/component=run_worker")

    deployment.cluster.delete(PODS, run_pod, grace_seconds=0)

    deployment.cluster.wait_for(lambda: not living(deployment), "the step's pod to go with it", 60)


def test_a_resumed_run_finds_its_steps_still_running(deploy: Deploy) -> None:
    deployment = deploy({}, run_monitoring=RESUMES)
    behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    run_id = deployment.launch("only_base_model")
    wait_for_start(deployment, "base_model")
    [run_pod] = deployment.cluster.pods("app.kubernetes.io/component=run_worker")

    deployment.cluster.delete(PODS, run_pod, grace_seconds=5)
    deployment.cluster.wait_for(lambda: _is_gone(deployment, run_pod), "the run's pod to end", 60)
    with deployment.instance() as instance:
        instance.resume_run(run_id, None, 1)  # type: ignore[arg-type]  # K8sRunLauncher looks at no workspace
    deployment.cluster.wait_for(lambda: _resumed(deployment, run_id), "the new run pod to look at the step", 180)
    deployment.home.parent.joinpath("go-on").touch()

    assert deployment.wait_for_end(run_id, 120).status == DagsterRunStatus.SUCCESS, Story(deployment, run_id).told()
    assert starts(deployment, "base_model") == 1
    assert pod_of(deployment, "base_model")["spec"]["automountServiceAccountToken"] is True


def test_an_interrupted_command_takes_its_pods_with_it(deploy: Deploy) -> None:
    deployment = deploy({})
    behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    command = deployment.execute("only_base_model")
    wait_for_start(deployment, "base_model")

    stop(command)

    deployment.cluster.wait_for(lambda: not living(deployment), "the step's pod to end")


def _resumed(deployment: Deployment, run_id: str) -> bool:
    said = Story(deployment, run_id).said("base_model")
    return any("Checking on status of in-progress step" in text for text in said)


def _is_gone(deployment: Deployment, pod: Object) -> bool:
    uids = [found["metadata"]["uid"] for found in deployment.cluster.pods()]
    return pod["metadata"]["uid"] not in uids
