"""What Kubernetes' answers mean to a person, whoever asked."""

import json

import pytest
from kubernetes.client.rest import ApiException
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import ReadTimeoutError

from fine_tune_assets.kubernetes.api.errors import AlreadyThere, Forbidden, NotFound, refusal, translated
from neuron_ops.errors import InvalidInput, OpsError, Unavailable


def answer(status: int, message: str = "") -> ApiException:
    """An error as the client raises it; without a message, as a proxy in between would answer."""
    error = ApiException(status=status, reason="Some Reason")
    error.body = json.dumps({"message": message}) if message else "<html>"
    return error


@pytest.mark.parametrize(
    ("status", "kind", "retry"),
    [
        (401, InvalidInput, False),
        (403, Forbidden, False),
        (404, NotFound, False),
        (409, AlreadyThere, False),
        (422, InvalidInput, False),
        (429, Unavailable, True),
        (500, Unavailable, True),
        (503, Unavailable, True),
    ],
)
def test_only_what_the_server_may_answer_otherwise_later_is_worth_another_try(
    status: int, kind: type[OpsError], retry: bool
) -> None:
    found = refusal(answer(status, "no such thing."), "list pods in namespace team")

    assert type(found) is kind
    assert found.retry is retry
    assert "list pods in namespace team: no such thing." in str(found)


def test_an_answer_that_is_no_json_shows_its_status() -> None:
    assert str(refusal(answer(502), "get job train")) == "Kubernetes did not get job train: Some Reason (status 502)."


@pytest.mark.parametrize(
    "error", [ReadTimeoutError(HTTPConnectionPool("api"), "/api", "timed out"), ConnectionResetError("reset")]
)
def test_no_answer_is_unavailable_and_brings_no_stack(error: Exception) -> None:
    with (
        pytest.raises(Unavailable, match=r"^Kubernetes did not get job train: ") as raised,
        translated("get job train"),
    ):
        raise error

    assert raised.value.__cause__ is None
