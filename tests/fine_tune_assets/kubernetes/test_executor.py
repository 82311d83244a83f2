"""Runs on the test cluster whose steps meet what happens every day: what Dagster is told, and what is left behind."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Executor,
    InitExecutorContext,
    job,
)
from dagster._core.definitions.job_base import InMemoryJob

from fine_tune_assets.kubernetes.executor import pod_executor
from fine_tune_assets.kubernetes.pods import Pods
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.cluster.deployment import Deployment, stop
from tests.cluster.kinds import PODS
from tests.cluster.objects import Object, dig
from tests.fine_tune_assets.kubernetes.conftest import Deploy
from tests.fine_tune_assets.kubernetes.pausing import PYTHON_LOGS
from tests.neuron_ops.conftest import publish_files

pytestmark = pytest.mark.cluster

FAILURE, RETRY = DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY
SUCCESS, SAID = DagsterEventType.STEP_SUCCESS, DagsterEventType.ENGINE_EVENT
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
RESUMES = {"enabled": True, "max_resume_run_attempts": 3}


@dataclass
class Story:
    """One run and what was said about each of its steps."""

    deployment: Deployment
    run_id: str

    def events(self, step: str, *kinds: DagsterEventType) -> list[DagsterEvent]:
        return [event for event in self.deployment.events(self.run_id, *kinds) if event.step_key == step]

    def ends(self, step: str) -> list[str]:
        return [event.event_type_value for event in self.events(step, FAILURE, RETRY, SUCCESS)]

    def error(self, step: str) -> str:
        """The message of a step's first failure or retry."""
        data: Any = self.events(step, FAILURE, RETRY)[0].event_specific_data
        return str(data.error.message)

    def told(self) -> str:
        """Everything that was said, for a test that fails."""
        return "\n".join(str(event.message or event.event_type_value) for event in self.deployment.events(self.run_id))

    def said(self, step: str) -> list[str]:
        return [str(event.message) for event in self.events(step, SAID)]


def _behave(deployment: Deployment, **behaviours: str) -> None:
    for name, behaviour in behaviours.items():
        (deployment.home.parent / name).write_text(behaviour)


def _starts(deployment: Deployment, step: str) -> int:
    return len(list(deployment.home.parent.glob(f"{step}-started-*")))


def _wait_for_start(deployment: Deployment, step: str, times: int = 1) -> None:
    deployment.cluster.wait_for(lambda: _starts(deployment, step) >= times, f"{step} to start", 180)


def _pod_of(deployment: Deployment, step: str) -> Object:
    return deployment.cluster.pods(f"dagster/op={step}")[-1]


def _living(deployment: Deployment) -> list[str]:
    """Step pods that have not ended."""
    pods = deployment.cluster.pods("app.kubernetes.io/component=step_worker")
    return [pod["metadata"]["name"] for pod in pods if dig(pod, "status.phase") in ("Pending", "Running")]


def test_every_everyday_fault_is_named_and_ends_as_it_should(deploy: Deploy) -> None:
    deployment = deploy(
        {
            "pending_timeout_seconds": 25,
            "assets": {
                "merged_model": {"image": "registry.example/typo:1"},
                "consolidated_weights": {"node_selector": {"capacity": "spot"}},
                "lora_checkpoints": {"node_selector": {"capacity": "nowhere"}},
            },
        }
    )
    _behave(deployment, base_model="wait then finish", tokenized_dataset="break", lora_checkpoints="finish")
    _behave(deployment, merged_model="finish", consolidated_weights="wait then finish", evaluation="vanish then finish")
    cluster = deployment.cluster
    cluster.add_node("cpu-1")
    cluster.add_node("spot-1", labels={"capacity": "spot"})

    command = deployment.execute("everything")
    _wait_for_start(deployment, "base_model")
    cluster.oom_kill(_pod_of(deployment, "base_model")["metadata"]["name"])
    _wait_for_start(deployment, "consolidated_weights")
    cluster.add_node("spot-2", labels={"capacity": "spot"})
    cluster.reclaim_node("spot-1", grace_seconds=5)
    output, _ = command.communicate(timeout=240)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert deployment.runs()[0].status == DagsterRunStatus.FAILURE, output
    # Memory beyond the limit: named, and tried again.
    assert "used more memory than its limit of 4Gi (OOMKilled)" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_UP_FOR_RETRY", "STEP_SUCCESS"]
    # A process that cannot start: its exit code and its last words, as often as the retry policy says.
    assert "ended with exit code 3 in container dagster" in story.error("tokenized_dataset")
    assert "The last lines of its log:" in story.error("tokenized_dataset")
    assert story.error("tokenized_dataset").endswith("No module named dagster_postgres")
    assert story.ends("tokenized_dataset") == ["STEP_UP_FOR_RETRY", "STEP_FAILURE"]
    # No node: the scheduler's words while it waits, and in the failure that no other try would mend.
    assert any("cannot be scheduled: 0/2 nodes are available" in text for text in story.said("lora_checkpoints"))
    assert "it did not run within 25 seconds (pending_timeout_seconds): pod " in story.error("lora_checkpoints")
    assert "node(s) didn't match Pod's node affinity/selector" in story.error("lora_checkpoints")
    assert story.ends("lora_checkpoints") == ["STEP_FAILURE"]
    # No image.
    assert "registry.example/typo:1" in story.error("merged_model")
    assert story.ends("merged_model") == ["STEP_FAILURE"]
    # A node that is taken away: the step goes on elsewhere, and no retry is spent.
    assert story.ends("consolidated_weights") == ["STEP_SUCCESS"]
    assert _starts(deployment, "consolidated_weights") == 2
    assert any(
        "on node spot-2, started again after disruption 1" in text for text in story.said("consolidated_weights")
    )
    # An end without a result.
    assert "ended with exit code 0 but reported no result" in story.error("evaluation")
    assert story.ends("evaluation") == ["STEP_UP_FOR_RETRY", "STEP_SUCCESS"]
    # What failed while it waited is gone; nothing of it starts later.
    assert _living(deployment) == []


def test_a_pod_that_is_taken_away_before_its_asset_begins_costs_no_retry(deploy: Deploy) -> None:
    deployment = deploy({}, python_logs=PYTHON_LOGS)
    folder = deployment.home.parent
    (folder / "pause").touch()
    _behave(deployment, base_model="finish")
    deployment.cluster.add_node("spot-1")

    command = deployment.execute("only_base_model")
    deployment.cluster.wait_for((folder / "paused").exists, "the step to begin", 180)
    deployment.cluster.add_node("spot-2")
    deployment.cluster.reclaim_node("spot-1", grace_seconds=30)
    output, _ = command.communicate(timeout=240)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert deployment.runs()[0].status == DagsterRunStatus.SUCCESS, output
    # Dagster in the pod calls it a failure; the run does not.
    assert story.ends("base_model") == ["STEP_FAILURE", "STEP_SUCCESS"]
    assert "DagsterExecutionInterruptedError" in story.error("base_model")
    assert any("on node spot-2, started again after disruption 1" in text for text in story.said("base_model"))
    assert _starts(deployment, "base_model") == 1


def test_a_cancelled_run_leaves_no_pod_even_where_it_might_be_resumed(deploy: Deploy) -> None:
    """Dagster forwards no termination to the steps while a run may be resumed."""
    deployment = deploy({}, run_monitoring=RESUMES)
    _behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    run_id = deployment.launch("only_base_model")
    _wait_for_start(deployment, "base_model")

    with deployment.instance() as instance:
        instance.run_launcher.terminate(run_id)

    assert deployment.wait_for_end(run_id, 120).status == DagsterRunStatus.CANCELED
    deployment.cluster.wait_for(lambda: not _living(deployment), "the step's pod to end")
    assert Story(deployment, run_id).ends("base_model") in ([], ["STEP_FAILURE"])


def test_the_steps_of_a_run_whose_pod_is_gone_go_with_it(deploy: Deploy) -> None:
    deployment = deploy({})
    _behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    deployment.launch("only_base_model")
    _wait_for_start(deployment, "base_model")
    [run_pod] = deployment.cluster.pods("app.kubernetes.io/component=run_worker")

    deployment.cluster.delete(PODS, run_pod, grace_seconds=0)

    deployment.cluster.wait_for(lambda: not _living(deployment), "the step's pod to go with it", 60)


def test_a_resumed_run_finds_its_steps_still_running(deploy: Deploy) -> None:
    deployment = deploy({}, run_monitoring=RESUMES)
    _behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    run_id = deployment.launch("only_base_model")
    _wait_for_start(deployment, "base_model")
    [run_pod] = deployment.cluster.pods("app.kubernetes.io/component=run_worker")

    deployment.cluster.delete(PODS, run_pod, grace_seconds=5)
    deployment.cluster.wait_for(lambda: _is_gone(deployment, run_pod), "the run's pod to end", 60)
    with deployment.instance() as instance:
        instance.resume_run(run_id, None, 1)  # type: ignore[arg-type]  # K8sRunLauncher looks at no workspace
    deployment.cluster.wait_for(lambda: _resumed(deployment, run_id), "the new run pod to look at the step", 180)
    deployment.home.parent.joinpath("go-on").touch()

    assert deployment.wait_for_end(run_id, 120).status == DagsterRunStatus.SUCCESS, Story(deployment, run_id).told()
    assert _starts(deployment, "base_model") == 1
    assert _pod_of(deployment, "base_model")["spec"]["automountServiceAccountToken"] is True


def test_the_runs_own_recipe_decides_and_a_finished_artifact_books_nothing(deploy: Deploy, bucket: str) -> None:
    deployment = deploy({})
    _behave(deployment, compiled_graph_cache="finish")
    deployment.cluster.add_node("cpu-1")

    command = _execute(deployment, "compiled_graph_cache", recipe="llama3_8b_lora_trn1")
    deployment.cluster.wait_for(lambda: deployment.cluster.pods("dagster/op=compiled_graph_cache"), "the pod", 180)
    first = _pod_of(deployment, "compiled_graph_cache")
    stop(command)
    _publish_graphs(f"s3://{bucket}/store")
    output, _ = _execute(deployment, "compiled_graph_cache", recipe="llama3_8b_lora_trn1").communicate(timeout=180)
    assert deployment.runs()[0].status == DagsterRunStatus.SUCCESS, output
    second = _pod_of(deployment, "compiled_graph_cache")

    assert first["spec"]["containers"][0]["resources"]["limits"]["aws.amazon.com/neuron"] == "16"
    assert first["spec"]["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    assert "aws.amazon.com/neuron" not in second["spec"]["containers"][0]["resources"]["limits"]
    assert not second["spec"].get("nodeSelector")
    assert second["spec"]["automountServiceAccountToken"] is False


def test_an_interrupted_command_takes_its_pods_with_it(deploy: Deploy) -> None:
    deployment = deploy({})
    _behave(deployment, base_model="wait")
    deployment.cluster.add_node("cpu-1")
    command = deployment.execute("only_base_model")
    _wait_for_start(deployment, "base_model")

    stop(command)

    deployment.cluster.wait_for(lambda: not _living(deployment), "the step's pod to end")


def test_a_refused_job_fails_its_step_in_one_sentence(deploy: Deploy) -> None:
    deployment = deploy({})
    _behave(deployment, base_model="finish")
    deployment.cluster.add_node("cpu-1")
    deployment.cluster.fault(r"POST .*/jobs", times=1, status=403)

    deployment.execute("only_base_model").communicate(timeout=180)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert "Kubernetes does not let this account create Job" in story.error("base_model")
    assert "Give its service account the verb" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_FAILURE"]


def _execute(deployment: Deployment, asset: str, **fields: str) -> "subprocess.Popen[str]":
    """Run one asset with fields of the fine_tuning resource."""
    config = json.dumps({"resources": {"fine_tuning": {"config": fields}}})
    file = deployment.home.parent / "config.yaml"
    file.write_text(config)
    return deployment.start("job", "execute", "-m", deployment.module, "-j", f"only_{asset}", "-c", str(file))


def _publish_graphs(store: str) -> None:
    """Compiled graphs of the recipe as if a run had made them, and the base model that they belong to."""
    lineage = Lineage(load_recipe("llama3_8b_lora_trn1"), ArtifactStore(store), RawDatasets(store))
    publish_files(
        lineage.store, lineage.provenance("base_model").address, {"config.json": json.dumps(LLAMA_8B).encode()}
    )
    publish_files(lineage.store, lineage.provenance("compiled_graph_cache").address, {"graphs.json": b"{}"})


def _resumed(deployment: Deployment, run_id: str) -> bool:
    said = Story(deployment, run_id).said("base_model")
    return any("Checking on status of in-progress step" in text for text in said)


def test_a_recipe_that_does_not_exist_fails_the_step_before_there_is_a_pod(deploy: Deploy) -> None:
    deployment = deploy({})

    _execute(deployment, "base_model", recipe="nope").communicate(timeout=180)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert "'nope'" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_FAILURE"]
    assert deployment.cluster.jobs() == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"jobb_image": "x"}, 'unexpected config entry "jobb_image"'),
        (
            {"per_step_k8s_config": {"lora_checkpoint": {}}},
            "names 'lora_checkpoint', which is no asset. There are base",
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


def _is_gone(deployment: Deployment, pod: Object) -> bool:
    uids = [found["metadata"]["uid"] for found in deployment.cluster.pods()]
    return pod["metadata"]["uid"] not in uids
