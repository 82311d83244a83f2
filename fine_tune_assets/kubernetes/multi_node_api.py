"""The few requests to Kubernetes that a training on several nodes needs, in plain JSON; refusals become OpsErrors here.

One way for every kind of object: its path follows from its own apiVersion, kind and name.
"""

import contextlib
import http
import json
from collections.abc import Iterator

from kubernetes import client, config
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from fine_tune_assets.kubernetes.multi_node_manifests import Object
from neuron_ops.errors import InvalidInput, OpsError, Unavailable

SECONDS = 30
"""Until a request counts as unanswered."""
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
        with contextlib.suppress(_AlreadyThere):
            self._request("POST", _path(manifest), what=f"create {_words(manifest)}", body=manifest)

    def find(self, manifest: Object) -> Object | None:
        """The object as it is now, or None."""
        return self._get(_path(manifest, manifest["metadata"]["name"]), f"read {_words(manifest)}")

    def delete(self, manifest: Object) -> None:
        """Delete an object and what belongs to it."""
        path = _path(manifest, manifest["metadata"]["name"])
        with contextlib.suppress(_Missing):
            body = {"propagationPolicy": "Background"}
            self._request("DELETE", path, what=f"delete {_words(manifest)}", body=body)

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod, or None."""
        return self._get(f"/api/v1/namespaces/{namespace}/pods/{name}", f"read pod {name}")

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """Pods with these labels."""
        query = [("labelSelector", selector)]
        found = self._request("GET", f"/api/v1/namespaces/{namespace}/pods", what="list pods", query=query)
        return list(found["items"])

    def log(self, pod: Object, since: str | None) -> Iterator[str]:
        """Lines of a pod's log as they come, each with its time in front; from a moment on, or from the start."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        query = [("follow", "true"), ("timestamps", "true"), ("container", pod["spec"]["containers"][0]["name"])]
        if since is not None:
            query.append(("sinceTime", since))
        with self._translated(f"read the log of pod {metadata['name']}"):
            response = self._client.call_api(
                path,
                "GET",
                query_params=query,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(SECONDS, LOG_SECONDS),
            )
            yield from _lines(response.stream(decode_content=False))

    def _get(self, path: str, what: str) -> Object | None:
        try:
            return self._request("GET", path, what=what)
        except _Missing:
            return None

    def _request(
        self, verb: str, path: str, what: str, query: list[tuple[str, str]] | None = None, body: Object | None = None
    ) -> Object:
        with self._translated(what):
            response = self._client.call_api(
                path,
                verb,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                response_types_map={200: "object", 201: "object", 202: "object"},
                _return_http_data_only=True,
                _request_timeout=SECONDS,
            )
            answer: Object = response
            return answer

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise _refusal(what, error) from None
        except HTTPError as error:
            raise Unavailable(f"Kubernetes did not answer when asked to {what} ({type(error).__name__}).") from None


class _Missing(InvalidInput):
    """404."""


class _AlreadyThere(InvalidInput):
    """409."""


def _refusal(what: str, error: ApiException) -> OpsError:
    said = _message(error)
    if error.status == http.HTTPStatus.NOT_FOUND:
        return _Missing(f"Kubernetes cannot {what}: {said}. Check that the cluster has this kind of object.")
    if error.status == http.HTTPStatus.CONFLICT:
        return _AlreadyThere(f"Kubernetes cannot {what}: {said}.")
    if error.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return InvalidInput(f"Kubernetes refuses to {what}: {said}. Grant it to the service account of the step's pod.")
    if 400 <= int(error.status) < 500 and error.status != http.HTTPStatus.TOO_MANY_REQUESTS:
        return InvalidInput(f"Kubernetes refuses to {what}: {said}.")
    return Unavailable(f"Kubernetes failed to {what}: {said} (status {error.status}).")


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"]).rstrip(".")
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


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
