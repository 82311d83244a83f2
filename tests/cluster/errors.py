"""What an API server refuses, on both sides of the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

from aiohttp import ClientError

from tests.cluster.kinds import Kind

UNANSWERED = (ClientError, OSError, TimeoutError)
"""What a request raises that never got an answer."""


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


async def insist(request: Callable[[], Awaitable[object]], given_up: asyncio.Event) -> None:
    """Ask until an answer comes; that the object is gone, or is another one by now, is an answer."""
    while not given_up.is_set():
        try:
            with ignored(404, 409):
                await request()
            return
        except (ApiError, *UNANSWERED):
            await asyncio.sleep(0.2)
