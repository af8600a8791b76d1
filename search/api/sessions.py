"""What a browser holds instead of a key: a cookie that scripts can't read, and a token against forged requests."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from cbmir.search.api.access import Principal
from cbmir.search.api.errors import ServiceError

COOKIE = "cbmir_session"
CSRF_HEADER = "x-csrf-token"
IDLE_S = 30 * 60.0
_MOST = 10_000


@dataclass
class Session:
    """One browser.

    Attributes:
        principal: Whose key it was.
        csrf: Comes back in the header `CSRF_HEADER` of requests that aren't plain reads.
        used: When it was last used.
    """

    principal: Principal
    csrf: str
    used: float


class Sessions:
    """Sessions in memory; they end with the service."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def begin(self, principal: Principal) -> tuple[str, Session]:
        """A new session and the value of its cookie."""
        now = self._clock()
        self._sessions = {name: item for name, item in self._sessions.items() if now - item.used < IDLE_S}
        while len(self._sessions) >= _MOST:
            del self._sessions[min(self._sessions, key=lambda name: self._sessions[name].used)]
        value = secrets.token_urlsafe(32)
        session = Session(principal, secrets.token_urlsafe(32), now)
        self._sessions[_name(value)] = session
        return value, session

    def of(self, value: str) -> Session | None:
        """The session of a cookie, unless it has been idle for too long."""
        session = self._sessions.get(_name(value))
        now = self._clock()
        if session is None or now - session.used >= IDLE_S:
            self.end(value)
            return None
        session.used = now
        return session

    def end(self, value: str) -> None:
        """Forget a session."""
        self._sessions.pop(_name(value), None)


def check_csrf(session: Session, token: str | None) -> None:
    """Refuse a request of a browser that another page may have made.

    Raises:
        ServiceError: it has not the session's token.
    """
    if token is None or not hmac.compare_digest(session.csrf.encode(), token.encode()):
        raise ServiceError(403, f"the header {CSRF_HEADER} is missing or wrong")


def _name(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
