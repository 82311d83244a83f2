"""How this package asks Kubernetes, and what a refusal means to a person: here and nowhere else.

Objects are plain JSON: the client's own models cost more CPU than the request. Which questions there are belongs to
cluster.py (a run's pods), multi_node/api.py (a training's nodes) and preflight_api.py (before a run).
"""

import http
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from neuron_ops.errors import InvalidInput, OpsError, Unavailable

Object = dict[str, Any]  # Any: the JSON of a Kubernetes object
JSON = "application/json"


class NotFound(InvalidInput):
    """404: the object is not there, or the cluster knows no such kind."""


class AlreadyThere(InvalidInput):
    """409: there is one of that name."""


class Forbidden(InvalidInput):
    """403: whoever asks is not allowed to."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Around a request; `what` completes "Kubernetes refused to …".

    Raises:
        NotFound, AlreadyThere, Forbidden: as their names say; another InvalidInput for what else the API refuses.
        Unavailable: it did not answer, or could not.
    """
    try:
        yield
    except (ApiException, HTTPError, OSError) as error:
        raise refusal(error, what) from None


def refusal(error: Exception, what: str) -> OpsError:
    """The error of a request as one of ours."""
    status, said = getattr(error, "status", None), _words(error)
    if status == http.HTTPStatus.UNAUTHORIZED:
        return InvalidInput(f"Kubernetes does not know who asks to {what}: {said}. Log in again, then try again.")
    if status == http.HTTPStatus.FORBIDDEN:
        return Forbidden(
            f"Kubernetes does not let this account {what}: {said}. Give its service account the verb "
            "(deployments/kubernetes), then try again."
        )
    if status == http.HTTPStatus.NOT_FOUND:
        return NotFound(f"Kubernetes cannot {what}: {said}. Check the name, and that the cluster has this kind.")
    if status == http.HTTPStatus.CONFLICT:
        return AlreadyThere(f"Kubernetes cannot {what}: {said}.")
    if isinstance(status, int) and 400 <= status < 500 and status != http.HTTPStatus.TOO_MANY_REQUESTS:
        return InvalidInput(f"Kubernetes refused to {what}: {said}.")
    return Unavailable(f"Kubernetes did not {what}: {said}.")


def request(
    client: ApiClient,
    verb: str,
    path: str,
    what: str,
    *,
    query: Sequence[tuple[str, str]] = (),
    body: object = None,
    accept: str = JSON,
    seconds: float = 30.0,
) -> Object:
    """The JSON of an answer; errors as of `translated`."""
    with translated(what):
        answer: Object = client.call_api(
            path,
            verb,
            query_params=list(query),
            header_params={"Accept": accept, "Content-Type": JSON},
            body=body,
            auth_settings=["BearerToken"],
            response_types_map={200: "object", 201: "object", 202: "object"},
            _return_http_data_only=True,
            _request_timeout=seconds,
        )
    return answer


def _words(error: Exception) -> str:
    try:
        said = str(json.loads(getattr(error, "body", ""))["message"])
    except (ValueError, KeyError, TypeError):
        status = getattr(error, "status", None)
        said = str(getattr(error, "reason", None) or error or type(error).__name__)
        said += f" (status {status})" if status else ""
    return said.strip().rstrip(".")
