"""The few requests to Kubernetes that a training on several nodes needs.

One way for every kind of object: its path follows from its own apiVersion, kind and name.
"""

import contextlib
from collections.abc import Iterator

from kubernetes import client, config

from fine_tune_assets.kubernetes.requests import AlreadyThere, NotFound, Object, request, translated
from neuron_ops.errors import InvalidInput

CONNECT_SECONDS = 30
LOG_SECONDS = 300
"""Until a log without a new line is asked for again."""


class Api:
    """One connection, with the credentials of this process's pod or else of the kubeconfig."""

    def __init__(self, kubeconfig: str | None = None) -> None:
        settings = client.Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(kubeconfig, client_configuration=settings)
        except config.ConfigException as error:
            raise InvalidInput(
                f"No Kubernetes API can be reached from here ({error}). Several nodes under "
                "FINE_TUNE_DEPLOYMENT=kubernetes are started from a step's pod."
            ) from error
        self._client = client.ApiClient(settings)

    def create(self, manifest: Object) -> None:
        """Create an object; one that is there already is an answer that got lost."""
        with contextlib.suppress(AlreadyThere):
            request(self._client, "POST", _path(manifest), f"create {_words(manifest)}", body=manifest)

    def find(self, manifest: Object) -> Object | None:
        """The object as it is now, or None."""
        return self._get(_path(manifest, manifest["metadata"]["name"]), f"read {_words(manifest)}")

    def delete(self, manifest: Object) -> None:
        """Delete an object and what belongs to it."""
        path = _path(manifest, manifest["metadata"]["name"])
        with contextlib.suppress(NotFound):
            body = {"propagationPolicy": "Background"}
            request(self._client, "DELETE", path, f"delete {_words(manifest)}", body=body)

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod, or None."""
        return self._get(f"/api/v1/namespaces/{namespace}/pods/{name}", f"read pod {name}")

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """Pods with these labels."""
        query = [("labelSelector", selector)]
        found = request(self._client, "GET", f"/api/v1/namespaces/{namespace}/pods", "list pods", query=query)
        return list(found["items"])

    def log(self, pod: Object, since: str | None) -> Iterator[str]:
        """Lines of a pod's log as they come, each with its time in front; from a moment on, or from the start."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        query = [("follow", "true"), ("timestamps", "true"), ("container", pod["spec"]["containers"][0]["name"])]
        if since is not None:
            query.append(("sinceTime", since))
        with translated(f"read the log of pod {metadata['name']}"):
            response = self._client.call_api(
                path,
                "GET",
                query_params=query,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, LOG_SECONDS),
            )
            yield from _lines(response.stream(decode_content=False))

    def _get(self, path: str, what: str) -> Object | None:
        try:
            return request(self._client, "GET", path, what)
        except NotFound:
            return None


def _path(manifest: Object, name: str | None = None) -> str:
    version, kind = manifest["apiVersion"], manifest["kind"].lower() + "s"
    root = "apis" if "/" in version else "api"
    path = f"/{root}/{version}/namespaces/{manifest['metadata']['namespace']}/{kind}"
    return path if name is None else f"{path}/{name}"


def _words(manifest: Object) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")
