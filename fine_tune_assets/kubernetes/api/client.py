"""The client through which this package sends every request to Kubernetes.

Objects are plain JSON: the models of the client library cost more CPU than the request. The meaning of errors belongs
to errors.py, the meaning of answers to the callers.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from fine_tune_assets.kubernetes.api.errors import AlreadyThere, Forbidden, NoCluster, NotFound, translated
from fine_tune_assets.kubernetes.api.kinds import KUEUE, PATHS, Object
from neuron_ops.errors import InvalidInput, Unavailable

T = TypeVar("T")

REQUEST_SECONDS = 30
"""Time after which a request counts as unanswered."""
FOLLOW_SECONDS = 300
"""Time without a new line after which a followed log is requested again."""
RETRY_SECONDS = 300.0
"""How long a request that has to succeed is repeated while the API server does not answer."""
PAUSE_SECONDS = 1.0
"""Pause between two such requests."""
LOG_LINES = 12

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
JSON = "application/json"
# Only whether a Secret exists is needed, so its contents stay in the cluster.
METADATA_ONLY = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True, slots=True)
class Client:
    """One namespace of one cluster, as the account of one connection may see it.

    Every method raises the errors of `translated` in errors.py, besides those that it documents itself.
    """

    api: ApiClient
    namespace: str

    def find(self, kind: str, name: str) -> Object | None:
        """The object, or None if it does not exist."""
        try:
            return self._request("GET", self._path(kind, name), f"read {self._named(kind, name)}")
        except NotFound:
            return None

    def find_all(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """The objects that these selectors choose."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = [(name, text) for name, text in selectors.items() if text]
        what = f"list {kind.lower()}s in namespace {self.namespace}"
        items: list[Object] = self._request("GET", self._path(kind), what, query=query).get("items") or []
        return items

    def create(self, kind: str, manifest: Object) -> None:
        """Create an object. If it exists already, an earlier request created it and the answer was lost."""
        name = manifest["metadata"]["name"]
        with suppress(AlreadyThere):
            self._request("POST", self._path(kind), f"create {self._named(kind, name)}", body=manifest)

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object and what belongs to it; False if it does not exist."""
        # Background propagation includes the pods: by default Kubernetes would leave a Job's pods behind.
        body = {"propagationPolicy": "Background"}
        try:
            self._request("DELETE", self._path(kind, name), f"delete {self._named(kind, name)}", body=body)
        except NotFound:
            return False
        return True

    def wait_until_gone(self, kind: str, name: str, seconds: float = 30.0) -> None:
        """Return when the object is gone.

        Raises:
            Unavailable: the object still exists after `seconds`.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.find(kind, name) is None:
                return
            time.sleep(0.5)
        raise Unavailable(f"{self._named(kind, name)} was deleted {seconds:g} seconds ago and is still there.")

    def warnings(self, uid: str) -> list[str]:
        """Messages of the warnings about an object, the oldest first."""
        events = self.find_all("Event", fields=f"involvedObject.uid={uid},type=Warning")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return [f"{event['reason']}: {event['message']}" for event in events]

    def last_lines(self, pod: str) -> str:
        """The last lines of a pod's log; empty if there is no log, or no longer one."""
        try:
            answer = self._log(pod, [("tailLines", str(LOG_LINES))], REQUEST_SECONDS)
        except Forbidden:
            raise
        except InvalidInput:  # the container never started, or the pod is gone
            return ""
        return str(answer.data.decode(errors="replace")).strip()

    def follow_log(self, pod: Object, since: str | None) -> Iterator[str]:
        """Lines of a pod's log as they arrive, each prefixed with its time; from `since` on, or from the start."""
        name = pod["metadata"]["name"]
        query = [("follow", "true"), ("timestamps", "true"), ("container", pod["spec"]["containers"][0]["name"])]
        if since is not None:
            query.append(("sinceTime", since))
        response = self._log(name, query, FOLLOW_SECONDS)
        with translated(f"read the log of {self._named('Pod', name)}"):
            yield from _lines(response.stream(decode_content=False))

    def is_missing(self, kind: str, name: str) -> bool | None:
        """Whether the object does not exist; None if this account may not read it."""
        try:
            path = self._path(kind, name)
            if kind == "LocalQueue":
                path = path.replace("{version}", self._kueue_version())
            self._request("GET", path, f"read {kind} {name}", accept=METADATA_ONLY)
        except NotFound:
            return True
        except Forbidden:
            return None
        return False

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this account is allowed to do this in the namespace."""
        name, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._request("POST", REVIEWS, f"say whether it allows {verb} {resource}", body=review)
        return bool(answer["status"].get("allowed"))

    def _kueue_version(self) -> str:
        for group in self._request("GET", "/apis", "list its groups")["groups"]:
            if group["name"] == KUEUE:
                return str(group["preferredVersion"]["version"])
        raise NotFound(f"The cluster does not know {KUEUE}.")

    def _path(self, kind: str, name: str = "") -> str:
        path = PATHS[kind].replace("{namespace}", self.namespace)
        return f"{path}/{name}" if name else path

    def _named(self, kind: str, name: str) -> str:
        return f"{kind} {name} in namespace {self.namespace}"

    def _log(self, pod: str, query: list[tuple[str, str]], read_seconds: float) -> Any:  # Any: urllib3's response
        with translated(f"read the log of {self._named('Pod', pod)}"):
            return self.api.call_api(
                f"{self._path('Pod', pod)}/log",
                "GET",
                query_params=query,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(REQUEST_SECONDS, read_seconds),
            )

    def _request(
        self,
        verb: str,
        path: str,
        what: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: object = None,
        accept: str = JSON,
    ) -> Object:
        with translated(what):
            answer = self.api.call_api(
                path,
                verb,
                query_params=query or [],
                header_params={"Accept": accept, "Content-Type": JSON},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=REQUEST_SECONDS,
            )
            found: Object = json.loads(answer.data)
        return found


def until_answered(ask: Callable[[], T], seconds: float = RETRY_SECONDS) -> T:
    """The answer to a request that has to succeed: it is repeated while the API server does not answer.

    Raises:
        Unavailable: there is still no answer after `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() >= until:
                raise
        time.sleep(PAUSE_SECONDS)


def connect(kubeconfig: str | None, namespace: str | None) -> Client:
    """A client of the cluster of KUBECONFIG, else of the pod that this process runs in, else of ~/.kube/config.

    Raises:
        NoCluster: none of the three exists.
        InvalidInput: the file that KUBECONFIG names cannot be used.
    """
    settings = Configuration()
    settings.retries = False  # the callers decide how long to wait for a silent server, not urllib3
    try:
        own = _load(settings, kubeconfig)
    except config.ConfigException as error:
        if kubeconfig is None:
            raise NoCluster(f"No cluster is at hand: KUBECONFIG is not set, and {error}.") from error
        raise InvalidInput(f"KUBECONFIG names {kubeconfig!r}, which cannot be used: {error}") from error
    return Client(ApiClient(settings), namespace or own)


def _load(settings: Configuration, kubeconfig: str | None) -> str:
    """Fill in the settings, and return the namespace of the credentials."""
    if kubeconfig is None and NAMESPACE_FILE.is_file():
        config.load_incluster_config(client_configuration=settings)
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    where = kubeconfig or str(Path.home() / ".kube" / "config")
    config.load_kube_config(where, client_configuration=settings)
    _, context = config.list_kube_config_contexts(where)
    return str(context["context"].get("namespace") or "default")


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")
