"""What a run asks of Kubernetes about its pods and Jobs. How a refusal reads belongs to requests.py."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from dagster import DagsterInstance
from kubernetes.client import BatchV1Api, CoreV1Api

from fine_tune_assets.kubernetes.requests import Forbidden, NotFound, Object, translated
from neuron_ops.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

RUN_LABEL = "dagster/run-id"
COMPONENT_LABEL = "app.kubernetes.io/component"
LOG_LINES = 12
TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's step pods, and its Jobs once they are needed, as they were at one moment."""

    taken: float
    """time.monotonic() before the request."""
    pods: list[Object]
    jobs: dict[str, Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One namespace of one cluster."""

    batch: BatchV1Api
    core: CoreV1Api
    namespace: str

    def pods(self, selector: str) -> list[Object]:
        """Pods with these labels."""
        return self._items("list pods", self.core.list_namespaced_pod, label_selector=selector)

    def jobs(self, selector: str) -> list[Object]:
        """Jobs with these labels."""
        return self._items("list jobs", self.batch.list_namespaced_job, label_selector=selector)

    def warnings(self, uid: str) -> list[str]:
        """Messages of the warnings about an object, the oldest first."""
        selector = f"involvedObject.uid={uid},type=Warning"
        events = self._items("list events", self.core.list_namespaced_event, field_selector=selector)
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return [f"{event['reason']}: {event['message']}" for event in events]

    def last_lines(self, pod: str) -> str:
        """The end of a pod's log; empty when nobody has it any more."""
        try:
            with translated(f"read the log of pod {pod} in namespace {self.namespace}"):
                answer = self.core.read_namespaced_pod_log(
                    pod, self.namespace, tail_lines=LOG_LINES, _preload_content=False, _request_timeout=TIMEOUT_SECONDS
                )
        except Forbidden:
            raise
        except InvalidInput:  # the container never started, or the pod is gone
            return ""
        return str(answer.data.decode(errors="replace")).strip()

    def delete_job(self, name: str) -> bool:
        """Delete a Job with its pods; False when there is none."""
        try:
            with translated(f"delete job {name} in namespace {self.namespace}"):
                # In the background means with its pods: by default Kubernetes would leave a Job's pods behind.
                self.batch.delete_namespaced_job(
                    name, self.namespace, propagation_policy="Background", _request_timeout=TIMEOUT_SECONDS
                )
        except NotFound:
            return False
        return True

    def wait_until_gone(self, name: str, seconds: float = 30.0) -> None:
        """Return when the Job is no more.

        Raises:
            Unavailable: it still is, after so long.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.job(name) is None:
                return
            time.sleep(0.5)
        raise Unavailable(
            f"Job {name} in namespace {self.namespace} was deleted {seconds:g} seconds ago and is still there."
        )

    def job(self, name: str) -> Object | None:
        """A Job, or None."""
        try:
            with translated(f"get job {name} in namespace {self.namespace}"):
                answer = self.batch.read_namespaced_job(
                    name, self.namespace, _preload_content=False, _request_timeout=TIMEOUT_SECONDS
                )
        except NotFound:
            return None
        found: Object = _json(answer)
        return found

    def _items(self, what: str, request: Any, **selectors: str) -> list[Object]:  # Any: a method of the client
        with translated(f"{what} in namespace {self.namespace}"):
            answer = request(self.namespace, _preload_content=False, _request_timeout=TIMEOUT_SECONDS, **selectors)
        items: list[Object] = _json(answer).get("items") or []
        return items


def open_cluster(instance: DagsterInstance, namespace: str | None) -> Cluster:
    """The cluster that the instance launches runs on; making its launcher has told the client how to reach it."""
    launcher = cast("K8sRunLauncher", instance.run_launcher)
    return Cluster(BatchV1Api(), CoreV1Api(), namespace or launcher.job_namespace)


def unfinished(jobs: Iterable[Object]) -> list[str]:
    """Names of the Jobs that may still run a pod."""
    return [job["metadata"]["name"] for job in jobs if not _is_finished(job)]


def _json(answer: Any) -> Any:  # Any: urllib3's response, then JSON
    return json.loads(answer.data)


def _is_finished(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
