"""What is tried again against a server and for how long, and its errors in our words."""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import grpc
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from cbmir.errors import StoreError, StoreFullError, StoreKeyError, StoreUnreachableError, one_line
from cbmir.store.keys import Key, Right

RETRIES = 6
"""Tries of a call."""
DEADLINE_S = 300.0
"""Time from the first try after which no other is begun, however long the server asks to wait."""

_RETRIED_HTTP = (408, 429, 500, 502, 503, 504)
_RETRIED_GRPC = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_SILENT_GRPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_UNKNOWN_HTTP, _UNKNOWN_GRPC = 401, grpc.StatusCode.UNAUTHENTICATED
_KEY_HTTP = (_UNKNOWN_HTTP, 403)
_KEY_GRPC = (_UNKNOWN_GRPC, grpc.StatusCode.PERMISSION_DENIED)

T = TypeVar("T")
_most: ContextVar[int | None] = ContextVar("tries of a call, other than RETRIES", default=None)
_log = logging.getLogger(__name__)


@contextmanager
def tries(most: int) -> Iterator[None]:
    """Let calls of this thread be tried no more often meanwhile: where somebody waits who can try again themselves."""
    token = _most.set(most)
    try:
        yield
    finally:
        _most.reset(token)


def retried(place: str, call: Callable[[], T], key: Key | None = None, doing: Right = "read") -> T:
    """Call again on what passes by itself; ids are deterministic, so a write may be repeated.

    Tried again are 408, 429 and server errors of HTTP, and of gRPC UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED
    and ABORTED, after a wait that doubles and is partly random, or as long as the server asks. Each wait is logged.
    Anything else fails at once.

    Args:
        place: Named in messages.
        call: Does the same each time.
        key: That was sent, for messages.
        doing: What the call needs, for messages.

    Raises:
        StoreError: an error that stays, or that has not passed after `RETRIES` tries, or those of `tries`, or
            `DEADLINE_S`.
    """
    started = time.monotonic()
    most = _most.get() or RETRIES
    for attempt in range(most):
        try:
            return call()
        except Exception as error:
            wait_s = retry_after_s(error, attempt)
            failed = translate(error, place, key, doing)
            if wait_s is None or attempt == most - 1:
                raise failed from error
            if time.monotonic() - started + wait_s > DEADLINE_S:
                raise StoreUnreachableError(f"{failed}; it asks to wait {wait_s:.0f} s: try again later") from error
        _log.warning("%s; trying again in %.0f s", failed, wait_s)
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def translate(error: Exception, place: str, key: Key | None = None, doing: Right = "read") -> StoreError:
    """An error of the client as one of ours, in one line and without any key; one of ours stays."""
    key = key or Key()
    if isinstance(error, StoreError):
        return error
    if isinstance(error, UnexpectedResponse):
        said = one_line(error.content.decode(errors="replace"))
        if refused(error):
            known = error.status_code != _UNKNOWN_HTTP and not _invalid(said)
            return StoreKeyError(key.refusal(place, f"HTTP {error.status_code}", said, known=known, doing=doing))
        kind = _kind(said, busy=error.status_code in _RETRIED_HTTP)
        return kind(f"{place} answered HTTP {error.status_code}: {said}{_remedy(said)}")
    if isinstance(error, grpc.RpcError):
        code, details = error.code(), one_line(error.details() or "")
        if refused(error):
            known = code != _UNKNOWN_GRPC and not _invalid(details)
            return StoreKeyError(key.refusal(place, code.name, details, known=known, doing=doing))
        if silent(error):
            return StoreUnreachableError(f"no Qdrant server answers at {place}: {details}")
        kind = _kind(details, busy=code in _RETRIED_GRPC)
        return kind(f"{place} answered {code.name}: {details}{_remedy(details)}")
    if silent(error):
        return StoreUnreachableError(f"no Qdrant server answers at {place}: {one_line(error)}")
    return StoreError(f"{place}: {type(error).__name__}: {one_line(error)}")


def _kind(said: str, *, busy: bool) -> type[StoreError]:
    """The class of what a server answered, by its words where it has no code of its own."""
    if re.search("no space left|out of disk|insufficient disk", said, re.IGNORECASE):
        return StoreFullError
    return StoreUnreachableError if busy else StoreError


def _remedy(details: str) -> str:
    """What to do where a server in strict mode refuses to filter by an own column without an index."""
    unindexed = "Index required" in details and "extra." in details
    return "; make an index of the column: cbmir collections index NAME COLUMN" if unindexed else ""


def silent(error: BaseException | None) -> bool:
    """Whether an error of the client means that nobody answers there."""
    if isinstance(error, grpc.RpcError):
        return error.code() in _SILENT_GRPC
    return isinstance(error, ResponseHandlingException | httpx.HTTPError)


def refused(error: BaseException | None) -> bool:
    """Whether an error of the client means that the key is unknown, or may not do that."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _KEY_HTTP
    return isinstance(error, grpc.RpcError) and error.code() in _KEY_GRPC


def retry_after_s(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next try, None for errors that stay."""
    backoff_s = random.uniform(0.5, 1.0) * min(2.0**attempt, 30.0)  # noqa: S311  it spreads tries, and hides nothing
    if isinstance(error, UnexpectedResponse) and error.status_code in _RETRIED_HTTP:
        asked = error.headers.get("retry-after") if error.headers else None
        return float(asked) if asked and re.fullmatch("[0-9]{1,9}", asked) else backoff_s
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, grpc.RpcError) and error.code() in _RETRIED_GRPC:
        return backoff_s
    if isinstance(error, ResponseHandlingException):
        return backoff_s
    return None


def _invalid(details: str) -> bool:
    """Whether a server says that it doesn't know the key; older ones do so by the code of a key that may not."""
    return "invalid api" in details.lower()
