"""The errors of Kubernetes' API as ours: what a refusal means to a person, here and nowhere else.

InvalidInput
├── NotFound       404: the object is not there, or the cluster knows no such kind
├── AlreadyThere   409: there is one of that name
├── Forbidden      403: this account is not allowed to
└── NoCluster      there is no cluster to ask
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
    """404: the object is not there, or the cluster knows no such kind."""


class AlreadyThere(InvalidInput):
    """409: there is one of that name."""


class Forbidden(InvalidInput):
    """403: this account is not allowed to."""


class NoCluster(InvalidInput):
    """This process is in no pod, and nothing says how to reach a cluster from here."""


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


def _words(error: Exception) -> str:
    try:
        said = str(json.loads(getattr(error, "body", ""))["message"])
    except (ValueError, KeyError, TypeError):
        status = getattr(error, "status", None)
        said = str(getattr(error, "reason", None) or error or type(error).__name__)
        said += f" (status {status})" if status else ""
    return said.strip().rstrip(".")
