"""Jobs like those of steps on the test cluster, and looks at them as an executor takes them."""

import time
from dataclasses import dataclass
from typing import Any

from fine_tune_assets.kubernetes.api.client import connect
from fine_tune_assets.kubernetes.api.labels import COMPONENT_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.diagnosis.observer import Observer
from fine_tune_assets.kubernetes.diagnosis.watch import Limits, Verdict
from fine_tune_assets.kubernetes.pods.config import REPLACED_WHEN_DISRUPTED
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job
from tests.cluster.objects import Object

LABELS = {RUN_LABEL: "run-1", COMPONENT_LABEL: "step_worker"}
WAIT = "trap 'exit 143' TERM; echo started; while true; do sleep 0.05; done"
INTERVAL = 0.2
LIMITS = Limits(pending_timeout_seconds=600, max_disruptions=3, check_interval_seconds=INTERVAL, stuck_seconds=1.5)


def labelled_job(
    name: str,
    script: str,
    labels: dict[str, str],
    *,
    container: Object | None = None,
    template: Object | None = None,
    **spec: Any,
) -> Object:
    """A Job as the step handler makes them, with a few lines of shell for a step."""
    body = job(name, script, template=template, **{**REPLACED_WHEN_DISRUPTED, **spec})
    body["metadata"]["labels"] = labels
    body["spec"]["template"]["metadata"] = {"labels": labels}
    body["spec"]["template"]["spec"]["containers"][0] |= container or {}
    return body


def step_job(name: str, script: str, **more: Any) -> Object:
    return labelled_job(name, script, LABELS, **more)


class Clock:
    """The observer's: it goes as time does, but where a test stops it or puts it forward."""

    def __init__(self) -> None:
        self._ahead, self._stopped_at = 0.0, 0.0

    def __call__(self) -> float:
        return self._stopped_at or time.monotonic() + self._ahead

    def put_forward(self, seconds: float) -> None:
        self._ahead += seconds

    def stop(self) -> None:
        self._stopped_at = self()


@dataclass
class Looks:
    """Looks at Jobs every fifth of a second, as an executor with that interval would."""

    observer: Observer
    clock: Clock
    said: list[str]

    def until_failure(self, name: str) -> Verdict:
        return self.until(name, lambda verdict: verdict.failure is not None)

    def until_said(self, name: str, words: str) -> Verdict:
        return self.until(name, lambda verdict: words in (verdict.message or ""))

    def until(self, name: str, done: Any, seconds: float = 120.0) -> Verdict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            verdict = self.observer.verdict(name)
            if verdict.message:
                self.said.append(verdict.message)
            if done(verdict):
                return verdict
            if verdict.failure is not None:
                break
            time.sleep(INTERVAL)
        raise AssertionError(f"not within {seconds:g} s; said {self.said}, last {verdict}")


def make_looks(cluster: Cluster, limits: Limits) -> Looks:
    clock = Clock()
    client = connect(str(cluster.kubeconfig), None)
    return Looks(Observer(client, "run-1", limits, clock), clock, [])
