"""What an API server refuses, on both sides of the wire."""

from contextlib import suppress
from types import TracebackType

from tests.cluster.kinds import Kind


class ApiError(Exception):
    """A refusal that becomes a Kubernetes Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f"{kind.in_words(name)} not found")


class ignored(suppress):
    """Ignore refusals with these codes."""

    def __init__(self, *codes: int) -> None:
        super().__init__(ApiError)
        self._codes = codes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, ApiError) and error.code in self._codes
