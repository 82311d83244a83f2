"""The errors of the Kubernetes API as ours: the only place that says what a refusal means to a user.

InvalidInput
├── NotFound       404: the object does not exist, or the cluster does not know its kind
├── AlreadyThere   409: an object of that name exists
├── Forbidden      403: this account is not allowed to
└── NoCluster      no cluster is configured
Unavailable        the API server does not answer, or cannot now
"""

import http
import json
from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from neuron_ops.errors import InvalidInput, OpsError, Unavailable


class NotFound(InvalidInput):
    """404: the object does not exist, or the cluster does not know its kind."""


class AlreadyThere(InvalidInput):
    """409: an object of that name exists."""


class Forbidden(InvalidInput):
    """403: this account is not allowed to."""


class NoCluster(InvalidInput):
    """This process does not run in a pod, and no kubeconfig says how to reach a cluster."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate the errors of the request in this block; `what` completes "Kubernetes refused to …".

    Raises:
        NotFound, AlreadyThere, Forbidden: as their names say.
        InvalidInput: the API refuses for another reason.
        Unavailable: the API server does not answer, or cannot now.
    """
    try:
        yield
    except (ApiException, HTTPError, OSError) as error:
        raise refusal(error, what) from None


def refusal(error: Exception, what: str) -> OpsError:
    """The error of a request as one of ours."""
    status, said = getattr(error, "status", None), _words(error)
    if status == http.HTTPStatus.UNAUTHORIZED:
        return InvalidInput(f"Kubernetes does not accept these credentials to {what}: {said}. Log in and try again.")
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


def _words(error: Exception) -> str:
    try:
        said = str(json.loads(getattr(error, "body", ""))["message"])
    except (ValueError, KeyError, TypeError):
        status = getattr(error, "status", None)
        said = str(getattr(error, "reason", None) or error or type(error).__name__)
        said += f" (status {status})" if status else ""
    return said.strip().rstrip(".")
