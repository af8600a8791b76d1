"""The way to a server: one node or several, a key, and one policy of what is tried again."""

import re
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from qdrant_client import QdrantClient
from qdrant_client.models import ReadConsistencyType

from cbmir.errors import StoreError
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

T = TypeVar("T")


class Connection:
    """One server, or the nodes of a cluster, of which one is asked as long as it answers.

    Attributes:
        nodes: All that may be asked.
        location: The same for people.
        streams: Writes that may be under way at once.
        read_consistency: Sent with every read; None for the server's default, one replica.
    """

    def __init__(self, nodes: Sequence[Node], streams: int = 1, read_consistency: Consistency | None = None) -> None:
        self.nodes = tuple(nodes)
        self.location = ",".join(where for where, _ in nodes)
        self.streams = streams
        self.read_consistency = None if read_consistency is None else _consistency(read_consistency)
        self._asked = 0
        self._moving = threading.Lock()

    @property
    def client(self) -> QdrantClient:
        """The node that is asked."""
        return self.nodes[self._asked][1]

    def call(self, work: Callable[[QdrantClient], T], about: str = "") -> T:
        """Ask a node, again where that may help, and another one where it is silent; see `retried`.

        Args:
            work: Does the same each time.
            about: Named in messages besides the place.

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

        return retried(f"{self.location} ({about})" if about else self.location, attempt)

    def close(self) -> None:
        """Close the ways to all nodes."""
        for _, client in self.nodes:
            client.close()

    def _leave(self, asked: int) -> None:
        with self._moving:
            if self._asked == asked:  # else another thread has left it already
                self._asked = (asked + 1) % len(self.nodes)


def connect(urls: str, api_key: str | None = None, read_consistency: str | None = None) -> Connection:
    """Reach a server, over gRPC on the port one above the URL's.

    Args:
        urls: ``http(s)://host[:port]``, the port 6333 unless given; or several nodes of a cluster, parted by commas.
        api_key: Sent with every call; never printed.
        read_consistency: ``majority``, ``quorum``, ``all`` or a number of replicas.

    Raises:
        StoreError: a URL is none, no server answers, it refuses the key, or its version is too far from the client's.
    """
    consistency = parse_consistency(read_consistency) if read_consistency else None
    nodes: list[Node] = []
    try:
        for url in urls.split(","):
            nodes.append(_node(url.strip(), api_key))
        _greet(nodes)
    except StoreError:
        for _, client in nodes:
            client.close()
        raise
    return Connection(nodes, STREAMS, consistency)


def parse_consistency(text: str) -> Consistency:
    """A read consistency as people write it.

    Raises:
        StoreError: it is none.
    """
    if text.isdigit() and int(text) > 0:
        return int(text)
    for name in ("majority", "quorum", "all"):
        if text == name:
            return name
    raise StoreError(f"read consistency {text!r} is none of majority, quorum, all, or a number of replicas")


def _consistency(value: Consistency) -> int | ReadConsistencyType:
    return value if isinstance(value, int) else ReadConsistencyType(value)


def _node(url: str, api_key: str | None) -> Node:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6333
    except ValueError as error:
        raise StoreError(f"the store {_bare(url)!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise StoreError(f"the store {_bare(url)!r} is neither a directory nor an http(s) URL")
    if not host:
        raise StoreError(f"the store {_bare(url)!r} names no host")
    with warnings.catch_warnings():
        if host in LOOPBACK:
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        client = QdrantClient(
            url=url,
            port=port,
            grpc_port=port + 1,
            prefer_grpc=True,
            api_key=api_key,
            timeout=TIMEOUT_S,
            check_compatibility=False,
            grpc_options={
                "grpc.max_receive_message_length": -1,
                "grpc.keepalive_time_ms": int(PING_S * 1000),
                "grpc.keepalive_timeout_ms": int(PONG_S * 1000),
                "grpc.http2.ping_timeout_ms": int(PONG_S * 1000),  # a ping of its own kind may be on the way
                "grpc.http2.max_pings_without_data": 0,
            },
        )
    return f"{parts.scheme}://{host}:{port}", client


def _bare(url: str) -> str:
    """A URL without a password that stands in it."""
    return re.sub(r"//[^/]*@", "//", url)


def _greet(nodes: list[Node]) -> None:
    """Look for the first node that answers and put it in front; a key that is refused is refused by all."""
    silence: StoreError | None = None
    for number, (where, client) in enumerate(nodes):
        try:
            _check_version(client.info().version, where)
            client.get_collections()
        except Exception as error:
            failed = translate(error, where)
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
