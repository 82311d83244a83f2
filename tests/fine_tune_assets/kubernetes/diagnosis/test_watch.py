"""How long a pod may wait, what is said meanwhile, and when it has failed."""

from fine_tune_assets.kubernetes.diagnosis.pod import Ended, Running, State, Waiting
from fine_tune_assets.kubernetes.diagnosis.watch import NO_ACTION, REPEAT_SECONDS, Limits, Verdict, Watch

LIMITS = Limits(pending_timeout_seconds=600, max_disruptions=2, check_interval_seconds=15)
RUNS = Running("pod train-x1", "node-a")
UNSCHEDULABLE = Waiting("pod train-x1 cannot be scheduled: 0/3 nodes are available")
NO_IMAGE = Waiting("pod train-x1 cannot start: ImagePullBackOff: not found", stuck=True)


def _judge(watch: Watch, state: State, now: float, *pods: str) -> Verdict:
    return watch.judge(state, pods or ("x1",), now)


def test_a_reason_to_wait_is_said_at_once_and_again_every_five_minutes() -> None:
    watch = Watch(LIMITS)

    said = [_judge(watch, UNSCHEDULABLE, now).message for now in (0.0, 15.0, REPEAT_SECONDS)]

    sentence = "Waits: pod train-x1 cannot be scheduled: 0/3 nodes are available."
    assert said == [sentence, None, sentence]


def test_a_running_pod_is_announced_once() -> None:
    watch = Watch(LIMITS)

    said = [_judge(watch, RUNS, now).message for now in (0.0, 15.0, 10 * REPEAT_SECONDS)]

    assert said == ["Runs: pod train-x1 on node node-a.", None, None]


def test_a_pod_that_never_runs_fails_the_step_for_good() -> None:
    watch = Watch(LIMITS)

    verdicts = [_judge(watch, UNSCHEDULABLE, now) for now in (100.0, 699.0, 700.0)]

    assert [verdict.failure is None for verdict in verdicts] == [True, True, False]
    assert verdicts[2].failure == (
        "it did not run within 600 seconds (pending_timeout_seconds): pod train-x1 cannot be scheduled: 0/3 nodes are "
        "available"
    )
    assert verdicts[2].retry is False


def test_a_pod_that_is_never_seen_to_end_is_given_up_and_the_step_tried_again() -> None:
    """A node that is cut off keeps its pods in the state of being ended, for as long as the cluster knows the node."""
    watch = Watch(LIMITS)
    being_ended = Waiting("pod train-x1 is being ended", lost=True)

    verdicts = [_judge(watch, being_ended, now) for now in (0.0, 600.0)]

    assert [(verdict.failure is None, verdict.retry) for verdict in verdicts] == [(True, True), (False, True)]


def test_what_rarely_passes_by_itself_fails_the_step_within_a_minute() -> None:
    watch = Watch(LIMITS)

    verdicts = [_judge(watch, NO_IMAGE, now) for now in (0.0, LIMITS.stuck_seconds - 1, LIMITS.stuck_seconds)]

    assert [verdict.failure for verdict in verdicts] == [
        None,
        None,
        "pod train-x1 cannot start: ImagePullBackOff: not found",
    ]
    assert verdicts[2].retry is False


def test_a_secret_that_comes_late_is_waited_for() -> None:
    watch = Watch(LIMITS)

    _judge(watch, NO_IMAGE, 0.0)
    _judge(watch, Waiting("pod train-x1 is starting"), 30.0)

    assert _judge(watch, NO_IMAGE, LIMITS.stuck_seconds + 1).failure is None


def test_no_timeout_runs_while_a_queue_holds_the_job_back() -> None:
    watch = Watch(LIMITS)

    _judge(watch, UNSCHEDULABLE, 0.0)
    _judge(watch, Waiting("its Job is suspended", held=True), 599.0)

    assert _judge(watch, UNSCHEDULABLE, 100_000.0).failure is None


def test_an_end_waits_one_look_for_the_steps_own_report() -> None:
    watch = Watch(LIMITS)
    end = Ended("it ended with exit code 1", pod="train-x1")

    assert _judge(watch, end, 0.0) == NO_ACTION
    assert _judge(watch, end, 15.0) == Verdict(failure="it ended with exit code 1", retry=True, pod="train-x1")


def test_a_replaced_pod_is_announced_and_counted() -> None:
    watch = Watch(LIMITS)
    _judge(watch, RUNS, 0.0, "x1")

    moved = _judge(watch, Running("pod train-x2", "node-b"), 60.0, "x1", "x2")

    assert moved.message == "Runs: pod train-x2 on node node-b, started again after disruption 1."


def test_disruptions_are_bounded() -> None:
    watch = Watch(LIMITS)

    verdicts = [_judge(watch, RUNS, 60.0 * count, f"x{count}") for count in range(4)]

    assert [verdict.failure for verdict in verdicts[:3]] == [None] * 3
    assert verdicts[3] == Verdict(
        failure="its pod was taken away 3 times, more than max_disruptions allows (2)", retry=False
    )


def test_a_node_that_stopped_reporting_is_said() -> None:
    said = _judge(Watch(LIMITS), Running("pod train-x1", "node-a", silent=True), 0.0).message

    assert said == "Node node-a has stopped reporting; pod train-x1 may be lost with it."


def test_a_permission_that_is_missing_for_a_moment_ends_no_step() -> None:
    watch = Watch(LIMITS)

    refused = [watch.unseen("not allowed to list pods", now, refused=True) for now in (0.0, 30.0)]
    seen = _judge(watch, RUNS, 40.0)
    again = watch.unseen("not allowed to list pods", 50.0, refused=True)

    assert [verdict.failure for verdict in (*refused, seen, again)] == [None] * 4
    assert refused[0].message == "Waits to see its pod: not allowed to list pods"


def test_a_permission_that_stays_away_does() -> None:
    watch = Watch(LIMITS)

    verdicts = [watch.unseen("not allowed", now, refused=True) for now in (0.0, LIMITS.stuck_seconds)]

    assert verdicts[1] == Verdict(failure="not allowed", retry=False)


def test_an_api_that_does_not_answer_is_waited_for_without_end() -> None:
    watch = Watch(LIMITS)

    verdicts = [watch.unseen("no answer", now, refused=False) for now in (0.0, 100 * LIMITS.stuck_seconds)]

    assert [verdict.failure for verdict in verdicts] == [None, None]
