"""Keys of servers: the environment variable that holds each store's key, and the message when a key fails."""

import os
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from cbmir.errors import StoreError

STORE_KEY, TO_KEY, FROM_KEY = "QDRANT_API_KEY", "QDRANT_TO_API_KEY", "QDRANT_FROM_API_KEY"
"""Of ``--store``, ``--to`` and ``--from``."""

QDRANT_PORT = 6333
PORTS = {"http": 80, "https": 443}

_SIGNS = {".": "_", "-": "__"}

Right = Literal["read", "write", "manage"]
"""What a call needs: to read points; to write them; to make, change and drop collections and aliases."""

_MAY_NOT = {
    "read": "may not read this; the full key, the read-only key, or a token with access to the collection may",
    "write": "may not write points; the full key, or a token with rw access to the collection may",
    "manage": "may not make, change or drop collections, aliases and snapshots; the full key may",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key, which is never shown, and where it came from.

    Attributes:
        value: The key; None without one.
        variable: Of the environment, for messages.
    """

    value: str | None = field(default=None, repr=False)
    variable: str = STORE_KEY

    @classmethod
    def read(cls, variable: str) -> "Key":
        """The key in a variable of the environment, if it is there."""
        return cls(os.environ.get(variable) or None, variable)

    @classmethod
    def of_host(cls, urls: str) -> "Key":
        """The key of the store that a file names: it is sent only to the host that its variable names.

        Args:
            urls: Of the store, several separated by commas, or a directory, which has no key.

        Raises:
            StoreError: the nodes have hosts with different keys.
        """
        keys = [cls.read(variable) for variable in dict.fromkeys(map(host_variable, _hosts(urls)))]
        if not keys:
            return cls()
        if len({key.value for key in keys}) > 1:
            names = ", ".join(key.variable for key in keys)
            raise StoreError(f"the nodes of a cluster have one key, but {names} differ: set all of them to it")
        return keys[0]

    @classmethod
    def of_other(cls, variable: str, urls: str, store: str) -> "Key":
        """The key of ``--to`` or ``--from``; that of ``--store`` where both are the same server.

        Args:
            variable: Of the other store's key.
            urls: Of the other store.
            store: Of ``--store``.
        """
        key = cls.read(variable)
        same = _servers(urls) and _servers(urls) == _servers(store)
        return cls.read(STORE_KEY) if key.value is None and same else key

    def refusal(self, place: str, code: str, details: str, *, known: bool, doing: Right) -> str:
        """What is said when a server refuses the key.

        Args:
            place: Of the server.
            code: Of its answer.
            details: The server's own words.
            known: Whether the server knows the key, which then may not do what was asked.
            doing: What was asked.
        """
        if self.value is None:
            return f"{place} asks for a key ({code}): set {self.variable}"
        if not known:
            return f"{place} refuses the key in {self.variable}: it isn't known there ({code})"
        said = f"{code}: {details}" if details else code
        return f"{place} knows the key in {self.variable}, but it {_MAY_NOT[doing]} ({said})"


def host_variable(host: str) -> str:
    """The variable with the key of a host that a file names: ``QDRANT_API_KEY_QDRANT_EXAMPLE_ORG``.

    No two hosts that can be registered have the same one, else a file could have the key sent to a host that looks
    alike: a dot is ``_``, a dash ``__``, any other sign ``___``.
    """
    return f"{STORE_KEY}_{re.sub(r'[^A-Z0-9]', lambda sign: _SIGNS.get(sign[0], '___'), host.upper())}"


def _servers(urls: str) -> list[tuple[str, str, int, str]]:
    """Scheme, host, port and path of each node; nothing where it is a directory, or no URL."""
    if not re.match("https?://", urls, re.IGNORECASE):
        return []
    try:
        places = [urlsplit(url.strip()) for url in urls.split(",")]
        parts = [(place.scheme, place.hostname or "", place.port, place.path.rstrip("/")) for place in places]
    except ValueError:
        return []  # no URL, which is told when it is opened
    return [(scheme, host, port or usual_port(scheme, path), path) for scheme, host, port, path in parts]


def usual_port(scheme: str, path: str) -> int:
    """The port of a URL that names none: Qdrant's, or with a path that of a proxy."""
    return PORTS.get(scheme, QDRANT_PORT) if path else QDRANT_PORT


def _hosts(urls: str) -> list[str]:
    return [host for _, host, *_ in _servers(urls)]
