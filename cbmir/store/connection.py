"""The way to a server: one node or several, a key, and one policy of what is tried again."""

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import httpx
from qdrant_client import QdrantClient
from qdrant_client.models import ReadConsistencyType

from cbmir.errors import StoreError
from cbmir.store.keys import PORTS, Key, Right, usual_port
from cbmir.store.retry import retried, silent, translate

TIMEOUT_S = 60
"""Time of one call."""
PING_S, PONG_S = 20.0, 40.0
"""Silence after which a connection is asked whether it lives, and time to answer; else a dead one stays in use."""
STREAMS = 4
"""Writes under way at once: the server works on one while others are on the wire."""

Node = tuple[str, QdrantClient]
"""Where it is, without any key, and the way to it."""

Consistency = Literal["majority", "quorum", "all"] | int
"""How many replicas must agree on what is read."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TRANSPORTS = ("auto", "grpc", "rest")

_REST_S = 5.0
"""Time for REST to answer where gRPC is silent."""
_log = logging.getLogger(__name__)

T = TypeVar("T")


class Connection:
    """One server, or the nodes of a cluster, of which one is asked as long as it answers.

    Attributes:
        nodes: All that may be asked.
        location: The same for people.
        streams: Writes that may be under way at once.
        read_consistency: Sent with every read; None for the server's default, one replica.
        key: That is sent with every call.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        streams: int = 1,
        read_consistency: Consistency | None = None,
        key: Key | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.location = ",".join(where for where, _ in nodes)
        self.streams = streams
        self.read_consistency = None if read_consistency is None else _consistency(read_consistency)
        self.key = key or Key()
        self._asked = 0
        self._moving = threading.Lock()

    @property
    def client(self) -> QdrantClient:
        """The node that is asked."""
        return self.nodes[self._asked][1]

    def call(self, work: Callable[[QdrantClient], T], about: str = "", doing: Right = "read") -> T:
        """Ask a node, again where that may help, and another one where it is silent; see `retried`.

        Args:
            work: Does the same each time.
            about: Named in messages besides the place.
            doing: What the key must allow, for messages.

        Raises:
            StoreError: an error that stays, or that hasn't passed in time.
        """

        def attempt() -> T:
            asked = self._asked
            try:
                return work(self.nodes[asked][1])
            except Exception as error:
                if silent(error):
                    self._leave(asked)
                raise

        return retried(f"{self.location} ({about})" if about else self.location, attempt, self.key, doing)

    def close(self) -> None:
        """Close the ways to all nodes."""
        for _, client in self.nodes:
            client.close()

    def _leave(self, asked: int) -> None:
        with self._moving:
            if self._asked == asked:  # else another thread has left it already
                self._asked = (asked + 1) % len(self.nodes)


@dataclass(frozen=True, slots=True)
class Way:
    """How servers are reached.

    Attributes:
        transport: ``grpc``; ``rest``, through the URL's own port; ``auto``: gRPC, but REST where the URL has a path or
            the port 80 or 443, as of a proxy, or where only REST answers.
        grpc_port: None for the one above the URL's.
    """

    transport: str = "auto"
    grpc_port: int | None = None

    @classmethod
    def chosen(cls, transport: str | None, grpc_port: int | None) -> "Way":
        """What was asked for, or else what the environment says in CBMIR_TRANSPORT and CBMIR_GRPC_PORT.

        Raises:
            StoreError: there is no such transport, or the port is none.
        """
        transport = transport or os.environ.get("CBMIR_TRANSPORT") or "auto"
        port = str(grpc_port or os.environ.get("CBMIR_GRPC_PORT") or "")
        if transport not in TRANSPORTS:
            raise StoreError(f"no transport {transport!r}; there are {', '.join(TRANSPORTS)}")
        if port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise StoreError(f"the gRPC port {port!r} is no port; give 1 to 65535")
        return cls(transport, int(port) if port else None)


def connect(
    urls: str, api_key: str | Key | None = None, read_consistency: str | None = None, way: Way | None = None
) -> Connection:
    """Reach a server.

    Args:
        urls: ``http(s)://host[:port][/path]``, the port 6333 unless given, with a path that of the scheme; or several
            nodes of a cluster, separated by commas.
        api_key: Sent with every call; never printed.
        read_consistency: ``majority``, ``quorum``, ``all`` or a number of replicas.
        way: Transport and gRPC port.

    Raises:
        StoreError: a URL or the key can't be one, no server answers, it refuses the key, or its version is too far
            from the client's.
    """
    way, key = way or Way(), api_key if isinstance(api_key, Key) else Key(api_key)
    _check_key(key)
    consistency = parse_consistency(read_consistency) if read_consistency else None
    places = [_Place.parse(url.strip()) for url in urls.split(",")]
    try:
        nodes = _greeted(places, key, way)
    except StoreError as error:
        if way.transport != "auto" or not silent(error.__cause__) or not any(map(_answers_rest, places)):
            raise
        nodes = _greeted(places, key, replace(way, transport="rest"))
        _log.warning(
            "no gRPC at port %d of %s: it goes on over REST, which is slower; --grpc-port names another port",
            *(places[0].grpc_port(way), places[0]),
        )
    if key.value and any(place.scheme == "http" and place.host not in LOOPBACK for place in places):
        _log.warning("the key travels unencrypted to %s: use https", ",".join(map(str, places)))
    return Connection(nodes, STREAMS, consistency, key)


def parse_consistency(text: str) -> Consistency:
    """A read consistency as people write it.

    Raises:
        StoreError: it is none.
    """
    if re.fullmatch("[0-9]{1,9}", text) and int(text) > 0:
        return int(text)
    for name in ("majority", "quorum", "all"):
        if text == name:
            return name
    raise StoreError(f"read consistency {text!r} is none of majority, quorum, all, or a number of replicas")


def _check_key(key: Key) -> None:
    """Refuse a key that can't be sent; it isn't named.

    Raises:
        StoreError: it has a sign that no header of HTTP takes.
    """
    if key.value and not re.fullmatch(r"[\x21-\x7e]+", key.value):
        raise StoreError(f"the key has spaces, line ends or signs other than ASCII; see {key.variable}")


def _consistency(value: Consistency) -> int | ReadConsistencyType:
    return value if isinstance(value, int) else ReadConsistencyType(value)


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL in its parts; as text it has no password."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "_Place":
        try:
            parts = urlsplit(url)
            host, port, path = parts.hostname, parts.port, parts.path.rstrip("/")
        except ValueError as error:  # which may repeat a password
            why = "its user or password has a sign that must be percent-encoded" if "@" in url else str(error)
            raise StoreError(f"the store {_bare(url)!r} is no URL: {why}") from None
        if parts.scheme not in ("http", "https"):
            raise StoreError(f"the store {_bare(url)!r} is neither a directory nor an http(s) URL")
        if not host:
            raise StoreError(f"the store {_bare(url)!r} names no host")
        if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
            raise StoreError(f"the store {_bare(url)!r} has a host with signs that no host has; write its xn-- form")
        return cls(parts.scheme, host, port or usual_port(parts.scheme, path), path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def grpc_port(self, way: Way) -> int:
        return way.grpc_port or self.port + 1

    def over_grpc(self, way: Way) -> bool:
        if way.transport != "auto":
            return way.transport == "grpc"
        return way.grpc_port is not None or not (self.path or self.port in PORTS.values())


def _greeted(places: Sequence[_Place], key: Key, way: Way) -> list[Node]:
    nodes = [(str(place), _client(place, key.value, way)) for place in places]
    try:
        _greet(nodes, key)
    except StoreError:
        for _, client in nodes:
            client.close()
        raise
    return nodes


def _client(place: _Place, api_key: str | None, way: Way) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # `connect` says so itself
        return QdrantClient(
            url=str(place),
            grpc_port=place.grpc_port(way),
            prefer_grpc=place.over_grpc(way),
            api_key=api_key,
            timeout=TIMEOUT_S,
            check_compatibility=False,
            grpc_options={
                "grpc.max_receive_message_length": -1,
                "grpc.keepalive_time_ms": int(PING_S * 1000),
                "grpc.keepalive_timeout_ms": int(PONG_S * 1000),
                "grpc.http2.ping_timeout_ms": int(PONG_S * 1000),  # a ping of its own kind may be on the way
                "grpc.http2.max_pings_without_data": 0,
                "grpc.max_reconnect_backoff_ms": 5000,  # else a server that is back is found after up to two minutes
            },
        )


def _answers_rest(place: _Place) -> bool:
    """Whether a Qdrant server answers at the URL itself, where gRPC doesn't."""
    try:
        return "version" in httpx.get(f"{place}/", timeout=_REST_S, follow_redirects=False).json()
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def _bare(url: str) -> str:
    """A URL without a user and a password, which may hold any sign."""
    scheme, colon, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"


def _greet(nodes: list[Node], key: Key) -> None:
    """Look for the first node that answers and put it in front; a key that is refused is refused by all."""
    silence: StoreError | None = None
    for number, (where, client) in enumerate(nodes):
        try:
            _check_version(client.info().version, where)
            client.get_collections()
        except Exception as error:
            failed = translate(error, where, key)
            if number == len(nodes) - 1 or not silent(error):
                raise silence or failed from error
            silence = silence or failed
            continue
        nodes.insert(0, nodes.pop(number))
        return


def _check_version(server: str, where: str) -> None:
    ours = version("qdrant-client")
    (major, minor), (our_major, our_minor) = (
        tuple(int(part) for part in re.findall(r"\d+", text)[:2]) for text in (server, ours)
    )
    if major != our_major or abs(minor - our_minor) > 1:
        raise StoreError(
            f"{where} runs Qdrant {server}, qdrant-client here is {ours}: "
            "Qdrant supports a distance of one minor version"
        )
