"""What the Dagster side asks of Kubernetes, and how a refusal reads.

Objects are plain JSON: the client's own models cost more CPU than the request. Kubernetes errors become OpsErrors here
and nowhere else.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from dagster import DagsterInstance
from kubernetes.client import BatchV1Api, CoreV1Api
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from neuron_ops.errors import InvalidInput, OpsError, Unavailable

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

RUN_LABEL = "dagster/run-id"
COMPONENT_LABEL = "app.kubernetes.io/component"
LOG_LINES = 12
TIMEOUT_SECONDS = 30

Object = dict[str, Any]  # Any: the JSON of a Kubernetes object


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
        with _refusals(f"read the log of pod {pod}", self.namespace):
            try:
                answer = self.core.read_namespaced_pod_log(
                    pod, self.namespace, tail_lines=LOG_LINES, _preload_content=False, _request_timeout=TIMEOUT_SECONDS
                )
            except ApiException as error:
                if error.status in (400, 404):  # the container never started, or the pod is gone
                    return ""
                raise
        return str(answer.data.decode(errors="replace")).strip()

    def delete_job(self, name: str) -> bool:
        """Delete a Job with its pods; False when there is none."""
        with _refusals(f"delete job {name}", self.namespace):
            try:
                # In the background means with its pods: by default Kubernetes would leave a Job's pods behind.
                self.batch.delete_namespaced_job(
                    name, self.namespace, propagation_policy="Background", _request_timeout=TIMEOUT_SECONDS
                )
            except ApiException as error:
                if error.status == 404:
                    return False
                raise
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
        with _refusals(f"get job {name}", self.namespace):
            try:
                answer = self.batch.read_namespaced_job(
                    name, self.namespace, _preload_content=False, _request_timeout=TIMEOUT_SECONDS
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        found: Object = _json(answer)
        return found

    def _items(self, what: str, request: Any, **selectors: str) -> list[Object]:  # Any: a method of the client
        with _refusals(what, self.namespace):
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


def refusal(error: Exception, what: str, namespace: str) -> OpsError:
    """What Kubernetes' answer means to a person."""
    status, words = getattr(error, "status", None), _words(error)
    if status == 403:
        return InvalidInput(
            f"Kubernetes does not let this run {what} in namespace {namespace}: {words} "
            "Give its service account the verb (deployments/kubernetes), then launch the run again."
        )
    if status in (400, 404, 413, 422):
        return InvalidInput(f"Kubernetes refuses to {what} in namespace {namespace}: {words}")
    return Unavailable(f"Kubernetes did not {what} in namespace {namespace}: {words}")


@contextmanager
def _refusals(what: str, namespace: str) -> Iterator[None]:
    try:
        yield
    except (ApiException, HTTPError, OSError) as error:
        raise refusal(error, what, namespace) from error


def _words(error: Exception) -> str:
    try:
        return f"{json.loads(getattr(error, 'body', ''))['message'].rstrip('.')}."
    except (ValueError, KeyError, TypeError):
        return f"{getattr(error, 'reason', None) or error}.".replace("..", ".")


def _json(answer: Any) -> Any:  # Any: urllib3's response, then JSON
    return json.loads(answer.data)


def _is_finished(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
