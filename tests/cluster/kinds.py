"""The kinds of objects that the API server knows, and how discovery describes them.

A kind that nobody here acts on (a custom resource) is one line more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.cluster.objects import Object

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object and where its URLs are."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    def in_words(self, name: str) -> str:
        """`pods "x"` or `jobs.batch "x"`, as error messages say it."""
        return f'{self.plural}{"." + self.group if self.group else ""} "{name}"'


PODS = Kind("", "v1", "pods", "Pod", short=("po",), subresources=("status", "log", "binding", "eviction"))
NODES = Kind("", "v1", "nodes", "Node", namespaced=False, short=("no",), subresources=("status",))
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), subresources=("status",))
EVENTS = Kind("", "v1", "events", "Event", short=("ev",))
SERVICES = Kind("", "v1", "services", "Service", short=("svc",), subresources=("status",))
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap", short=("cm",))
SECRETS = Kind("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",))
CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), subresources=("status",))
JOBS = Kind("batch", "v1", "jobs", "Job", subresources=("status",))
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
PRIORITY_CLASSES = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short=("pc",))
PYTORCH_JOBS = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", subresources=("status",))
LOCAL_QUEUES = Kind("kueue.x-k8s.io", "v1beta1", "localqueues", "LocalQueue", subresources=("status",))
ACCESS_REVIEWS = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
WORKLOADS = Kind("kueue.x-k8s.io", "v1beta1", "workloads", "Workload", subresources=("status",))

KINDS = (
    PODS,
    NODES,
    NAMESPACES,
    EVENTS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    CLAIMS,
    JOBS,
    LEASES,
    PRIORITY_CLASSES,
    PYTORCH_JOBS,
    LOCAL_QUEUES,
    WORKLOADS,
    ACCESS_REVIEWS,
)


def api_groups(kinds: Iterable[Kind]) -> Object:
    """The answer to GET /apis."""
    versions = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    groups = [
        {"name": group, "versions": [_version(group, version)], "preferredVersion": _version(group, version)}
        for group, version in versions
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _version(group: str, version: str) -> Object:
    return {"groupVersion": f"{group}/{version}", "version": version}


def api_resources(kinds: Iterable[Kind], path: str) -> Object | None:
    """The answer to GET /api/v1 or /apis/<group>/<version>; None where no kind is below that path."""
    members = [kind for kind in kinds if kind.path == path]
    if not members:
        return None
    resources = [entry for kind in members for entry in _entries(kind)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": members[0].api_version,
        "resources": resources,
    }


def _entries(kind: Kind) -> list[Object]:
    whole = {
        "name": kind.plural,
        "singularName": kind.name.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.name,
        "verbs": VERBS,
        "shortNames": list(kind.short),
    }
    parts = [
        {
            "name": f"{kind.plural}/{part}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": ["get", "patch", "update"],
        }
        for part in kind.subresources
    ]
    return [whole, *parts]
