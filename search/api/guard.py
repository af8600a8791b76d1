"""What every request passes: where it comes from, what its answer forbids browsers to do, and errors as one line."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from cbmir.search.api.errors import ServiceError
from cbmir.search.api.meter import Meter

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_FORWARDED = ("forwarded", "x-real-ip", "via")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_log = logging.getLogger(__name__)


class Guard:
    """The outermost part of the service, in ASGI."""

    def __init__(self, app: _App, meter: Meter, open_to_loopback: bool) -> None:
        """Put it around an app.

        Args:
            app: What answers.
            meter: Counts requests.
            open_to_loopback: Whether nobody needs a key: then only this machine may ask, under its own name.
        """
        self._app = app
        self._meter = meter
        self._open = open_to_loopback

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        began, status = time.perf_counter(), 0

        async def guarded(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refused = refusal(scope["method"], scope["path"], headers, self._open)
            if refused is None:
                await self._app(scope, receive, guarded)
            else:
                await _answer(guarded, refused)
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__)  # the text of an error may hold what was sent
            if not status:
                await _answer(guarded, ServiceError(500, "an error of the service"))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._meter.count(route, status or 500, time.perf_counter() - began)


def refusal(method: str, path: str, headers: Mapping[str, str], open_to_loopback: bool) -> ServiceError | None:
    """Why a request is refused before anything looks at it; None where it isn't.

    Args:
        method: Of HTTP.
        path: That is asked for.
        headers: By lower-case name.
        open_to_loopback: Whether nobody needs a key.
    """
    host = headers.get("host", "").lower()
    if open_to_loopback:
        name, _, port = host.rpartition(":")
        if not (port.isdecimal() and name):
            name = host
        if name not in LOOPBACK:
            return ServiceError(403, "without keys the service answers to localhost, 127.0.0.1 and [::1] only")
        if any(header in _FORWARDED or header.startswith("x-forwarded-") for header in headers):
            return ServiceError(403, "without keys the service can't stand behind a proxy; give --keys FILE")
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host:
        return ServiceError(403, "requests of other web pages are refused")
    site = headers.get("sec-fetch-site", "none")
    is_visit = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if site not in ("none", "same-origin") and not is_visit:
        return ServiceError(403, "requests of other web pages are refused")
    return None


def _with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    ours = ((name.encode(), value.encode()) for name, value in HEADERS.items())
    return given + [(name, value) for name, value in ours if name not in names]


async def _answer(send: _Send, error: ServiceError) -> None:
    body = json.dumps({"error": str(error)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
