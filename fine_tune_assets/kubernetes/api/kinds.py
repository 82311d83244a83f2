"""The kinds of objects that this package requests, with the API path of each."""

from typing import Any

Object = dict[str, Any]  # Any: the JSON of a Kubernetes object

KUEUE = "kueue.x-k8s.io"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "PyTorchJob": "/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs",
    "LocalQueue": f"/apis/{KUEUE}/{{version}}/namespaces/{{namespace}}/localqueues",
}
