"""The few questions that a look before a run asks of Kubernetes. What the answers mean belongs to preflight.py."""

from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config

from fine_tune_assets.kubernetes.multi_node.launcher import NAMESPACE_FILE
from fine_tune_assets.kubernetes.requests import JSON, Forbidden, NotFound, Object, request
from neuron_ops.errors import InvalidInput

SECONDS = 15
"""Until a request counts as unanswered."""
KUEUE = "kueue.x-k8s.io"
# Whether a Secret is there is all that is wanted; its contents stay in the cluster.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "LocalQueue": f"/apis/{KUEUE}/{{version}}/namespaces/{{namespace}}/localqueues",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """One namespace of one cluster, as whoever asks may see it."""

    api: client.ApiClient
    namespace: str

    def is_missing(self, kind: str, name: str) -> bool | None:
        """Whether there is no such object; None where whoever asks may not know."""
        path = PATHS[kind]
        if kind == "LocalQueue":
            version = self._kueue()
            if version is None:
                return True
            path = path.replace("{version}", version)
        try:
            where = f"{path.format(namespace=self.namespace)}/{name}"
            self._request("GET", where, f"read {kind} {name}", accept=METADATA_ONLY)
        except NotFound:
            return True
        except Forbidden:
            return None
        return False

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether whoever asks is allowed to do this in the namespace."""
        name, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._request("POST", REVIEWS, f"say whether it allows {verb} {resource}", review)
        return bool(answer["status"].get("allowed"))

    def _kueue(self) -> str | None:
        groups = self._request("GET", "/apis", "list its groups")["groups"]
        return next((group["preferredVersion"]["version"] for group in groups if group["name"] == KUEUE), None)

    def _request(self, verb: str, path: str, what: str, body: object = None, accept: str = JSON) -> Object:
        return request(self.api, verb, path, what, body=body, accept=accept, seconds=SECONDS)


def open_answers(kubeconfig: str | None, namespace: str | None) -> Answers | None:
    """The cluster of KUBECONFIG, else of the pod that this process runs in, else of ~/.kube/config; None without one.

    Raises:
        InvalidInput: KUBECONFIG names no usable file.
    """
    settings = client.Configuration()
    settings.retries = False  # one clear answer, now
    try:
        own = _connect(settings, kubeconfig)
    except config.ConfigException as error:
        if kubeconfig is None:
            return None
        raise InvalidInput(f"KUBECONFIG names {kubeconfig!r}, which cannot be used: {error}") from error
    return Answers(client.ApiClient(settings), namespace or own)


def _connect(settings: client.Configuration, kubeconfig: str | None) -> str:
    """Fill the settings in; the namespace that goes with the credentials."""
    if kubeconfig is None and NAMESPACE_FILE.is_file():
        config.load_incluster_config(client_configuration=settings)
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    where = kubeconfig or str(Path.home() / ".kube" / "config")
    config.load_kube_config(where, client_configuration=settings)
    _, context = config.list_kube_config_contexts(where)
    return str(context["context"].get("namespace") or "default")
