"""What the endpoints share: who asks, the queue, the audit log, and thumbnails kept in memory."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from cbmir.errors import CbmirError
from cbmir.search.api.access import Keys, Principal, Role
from cbmir.search.api.asked import Scope, Served
from cbmir.search.api.audit import Audit
from cbmir.search.api.errors import ServiceError, as_service
from cbmir.search.api.meter import Meter
from cbmir.search.api.pool import DRAW, SEARCH, Pool
from cbmir.search.api.sessions import COOKIE, CSRF_HEADER, Session, Sessions, check_csrf

UPLOAD_BYTES = 64_000_000
_KEPT_BYTES, _KEPT_S = 64_000_000, 600.0

_LOCAL: tuple[Role, ...] = ("search", "images", "admin")


class Service:
    """The state of a running service.

    Attributes:
        pool: Processes that hold the collections.
        keys: Who may ask; None for everybody on this machine.
        audit: Where it is kept what was shown to whom.
        upload_bytes: Largest file that is taken.
    """

    def __init__(
        self,
        pool: Pool,
        keys: Keys | None = None,
        audit: Audit | None = None,
        *,
        shows_paths: bool = False,
        upload_bytes: int = UPLOAD_BYTES,
    ) -> None:
        """Put it together.

        Args:
            pool: Started.
            keys: See there.
            audit: See there.
            shows_paths: Without keys: whether users of this machine see file paths, ids of patients and own columns.
            upload_bytes: See there.
        """
        self.pool = pool
        self.keys = keys
        self.audit = audit or Audit(None)
        self.upload_bytes = upload_bytes
        self.sessions = Sessions()
        self.meter = Meter()
        roles = (*_LOCAL, "identify", "vectors") if shows_paths else _LOCAL
        self._local = Principal("local", frozenset(roles))
        self._kept: OrderedDict[tuple[Scope, str], tuple[float, bytes]] = OrderedDict()
        self._kept_bytes = 0

    def session(self, request: Request) -> Session | None:
        """The session of a browser, if it has one."""
        value = request.cookies.get(COOKIE)
        return self.sessions.of(value) if value and self.keys is not None else None

    def principal(self, request: Request) -> Principal:
        """Who asks.

        Raises:
            ServiceError: nobody knows, or a browser's request may have been forged.
        """
        if self.keys is None:
            return self._local
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            found = self.keys.of(key.strip())
            if found is None:
                raise ServiceError(401, "the key is not known")
            return found
        session = self.session(request)
        if session is None:
            raise ServiceError(401, "give a key: the header Authorization: Bearer KEY, or sign in on the page")
        if request.method not in ("GET", "HEAD"):
            check_csrf(session, request.headers.get(CSRF_HEADER))
        return session.principal

    def collection(self, principal: Principal, name: str | None) -> Served:
        """A collection by name, or the first that somebody may see.

        Raises:
            ServiceError: there is none, or they may not see it.
        """
        for served in self.pool.served:
            if principal.may_open(served.name) and name in (None, served.name):
                return served
        raise ServiceError(404, "no such collection is served")

    async def call(self, who: Principal, method: str, *arguments: Any, priority: int = SEARCH) -> Any:
        """The result of a method of the engine.

        Raises:
            ServiceError: what it raised, in words that they may see.
        """
        try:
            return await asyncio.wrap_future(self.pool.submit(method, *arguments, priority=priority))
        except CbmirError as error:
            raise as_service(error, restricted=bool(who.where)) from error

    async def thumbnail(self, who: Principal, scope: Scope, id: str) -> bytes:
        """A thumbnail as JPEG, kept for a while for those who may see the same."""
        kept = self._kept.get((scope, id))
        if kept is not None and time.monotonic() - kept[0] < _KEPT_S:
            self._kept.move_to_end((scope, id))
            return kept[1]
        data: bytes = await self.call(who, "draw", scope, id, False, priority=DRAW)
        _, before = self._kept.pop((scope, id), (0.0, b""))
        self._kept[scope, id] = (time.monotonic(), data)
        self._kept_bytes += len(data) - len(before)
        while self._kept_bytes > _KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
        return data


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(service_of)]


def needs(role: Role | None) -> Callable[[Request, Service], Principal]:
    """A dependency: who asks, if they have a role; None for everybody with a key."""

    def principal(request: Request, service: Serving) -> Principal:
        found = service.principal(request)
        request.state.who = found.name
        if role is not None:
            found.require(role)
        return found

    return principal
