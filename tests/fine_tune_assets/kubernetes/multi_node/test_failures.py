"""How a training on several nodes fails: the node that failed first, and the sentence about it."""

import re

import pytest

from neuron_ops.errors import InvalidInput, OpsError, Unavailable
from neuron_ops.recipe.schema import HardwareSection
from tests.cluster.kinds import JOBS, PODS
from tests.fine_tune_assets.kubernetes.multi_node.bench import LIMITS, SLEEP, Bench, assert_nothing_is_left


@pytest.mark.parametrize("kind", [InvalidInput, Unavailable])
def test_an_error_of_ours_on_any_node_is_what_the_training_ends_with(bench: Bench, kind: type[OpsError]) -> None:
    result = bench.run(f"time.sleep(600) if node == 0 else report({kind.exit_code}, 'the reason')")

    assert (type(result.error), str(result.error)) == (kind, "the reason")
    assert result.final is not kind.retry
    assert_nothing_is_left(bench.cluster)


def test_a_node_that_just_ends_is_named_with_its_last_lines(bench: Bench) -> None:
    result = bench.run("time.sleep(600) if node == 0 else sys.exit('no space left')")

    assert result.error is None
    assert result.reason.startswith("node 1 of 2 (pod fine-tune-train-1-1-")
    assert result.reason.endswith(
        "ended with exit code 1 in container main (image local/program). The last lines of its log:\nno space left"
    )
    assert_nothing_is_left(bench.cluster)


def test_a_node_without_memory_is_the_cause_even_if_another_ended_too(bench: Bench) -> None:
    result = bench.run_while(SLEEP, lambda: bench.cluster.oom_kill(bench.pod(1)))

    assert result.reason.startswith("node 1 of 2 (pod ")
    assert "used more memory than its node has (OOMKilled)" in result.reason
    assert not result.disrupted
    assert_nothing_is_left(bench.cluster)


def test_an_evicted_pod_is_named_with_the_clusters_words(bench: Bench) -> None:
    result = bench.run_while(SLEEP, lambda: bench.cluster.evict(bench.pod(0)))

    assert result.reason.startswith("node 0 of 2 (pod ")
    assert "was taken from node machine-" in result.reason
    assert "(TerminationByKubelet: The node was low on resource: memory." in result.reason
    assert result.disrupted
    assert_nothing_is_left(bench.cluster)


@pytest.mark.slow  # as long as a node is given to come back
def test_a_lost_machine_ends_the_training(bench: Bench) -> None:
    def lose_the_machine_of_node_1() -> None:
        bench.cluster.lose_node(bench.cluster.pod(bench.pod(1))["spec"]["nodeName"])

    result = bench.run_while(SLEEP, lose_the_machine_of_node_1)

    assert (result.status, result.disrupted) == (1, True)
    assert "was taken from node machine-" in result.reason
    assert_nothing_is_left(bench.cluster)


def test_a_pod_that_somebody_deletes_ends_the_training(bench: Bench) -> None:
    result = bench.run_while(SLEEP, lambda: bench.cluster.delete(PODS, bench.cluster.pod(bench.pod(1)), 0))

    assert result.status == 1
    # The Job's controller deletes the other one at once.
    assert re.fullmatch(r"node \d of 2 \(pod fine-tune-train-1-\d-\w+\) was deleted", result.reason)
    assert_nothing_is_left(bench.cluster)


def test_a_job_that_somebody_deletes_ends_the_training(bench: Bench) -> None:
    result = bench.run_while(SLEEP, lambda: bench.cluster.delete(JOBS, bench.cluster.jobs()[0]))

    assert (result.status, result.reason) == (1, "its Job is gone")
    assert_nothing_is_left(bench.cluster)


def test_a_queue_that_takes_the_machines_back_is_a_disruption(bench: Bench) -> None:
    def suspend() -> None:
        bench.cluster.patch(JOBS, bench.cluster.jobs()[0], {"spec": {"suspend": True}})

    result = bench.run_while(SLEEP, suspend)

    assert (result.reason, result.disrupted) == ("its Job is suspended; its pods were taken away", True)
    assert_nothing_is_left(bench.cluster)


def test_pods_that_no_machine_can_take_are_said_and_given_up(bench: Bench) -> None:
    bench.hardware = HardwareSection(backend="neuron", nodes=2, instance_type="trn1.32xlarge")
    training = bench.training(SLEEP)
    training.clock = lambda: bench.later_once(LIMITS.pending_timeout_seconds, "node 0 of 2", "node 1 of 2")

    result = training.run()

    assert result.final, "to start again would be to wait as long again"
    assert re.match(
        r"it did not run within 1800 seconds \(pending_timeout_seconds\): node \d of 2 \(pod \S+\) "
        "cannot be scheduled: 0/2 nodes are available",
        str(result.error),
    )
    said = [text for text in bench.said if text.startswith("Waits: node 1 of 2 ") and "cannot be scheduled" in text]
    assert len(said) == 1, "not at each look"
    assert_nothing_is_left(bench.cluster)


def test_an_image_that_cannot_be_pulled_is_given_up_long_before_a_machine_that_does_not_come(bench: Bench) -> None:
    training = bench.training(SLEEP)
    training.clock = lambda: bench.later_once(LIMITS.stuck_seconds, "node 0 of 2", "node 1 of 2")
    training.training.launcher["spec"]["containers"][0]["image"] = "registry.example/none:1"

    result = training.run()

    assert result.final
    assert re.match(
        r"node \d of 2 \(pod \S+\) cannot start: (ErrImagePull|ImagePullBackOff) of container main "
        r"\(image registry.example/none:1\): ",
        str(result.error),
    )
    assert_nothing_is_left(bench.cluster)


def test_what_the_api_server_refuses_is_said_and_given_up(bench: Bench) -> None:
    """The Job is there, its pods are not: only an event says why."""
    training = bench.training(SLEEP)
    training.clock = lambda: bench.later_once(LIMITS.stuck_seconds, "FailedCreate")
    training.training.launcher["spec"]["serviceAccountName"] = "nobody"

    result = training.run()

    assert result.final
    assert str(result.error).startswith("its Job has no pod yet: FailedCreate: ")
    assert "nobody" in str(result.error)
    assert_nothing_is_left(bench.cluster)
