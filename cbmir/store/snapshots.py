"""The snapshots of one node, over HTTP: qdrant-client neither fetches nor sends their files.

Source of the calls: Qdrant's REST reference, "Snapshots" and "Distributed".
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from cbmir.store.connection import TIMEOUT_S
from cbmir.store.keys import Key, Right
from cbmir.store.retry import retried, translate

WORK_S = 4 * 3600.0
"""Time in which a node packs or unpacks a collection, before it is given up."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that lies on a node.

    Attributes:
        name: Of its file there.
        sha256: Of the file, hexadecimal; None where the node doesn't tell.
    """

    name: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Peers:
    """The cluster as a node sees it.

    Attributes:
        own: Its own number; None outside a cluster.
        others: The other nodes' numbers and where they are.
    """

    own: int | None
    others: Mapping[int, str]


class SnapshotNode:
    """One node of a server.

    Attributes:
        url: Where it is.
    """

    def __init__(self, url: str, api_key: str | Key | None = None) -> None:
        self.url = url
        self._key = api_key if isinstance(api_key, Key) else Key(api_key)
        headers = {"api-key": self._key.value} if self._key.value else {}
        patience = httpx.Timeout(TIMEOUT_S, read=WORK_S, write=WORK_S)
        each_its_own = httpx.Limits(max_keepalive_connections=0)  # one that idles while a node packs may be cut
        self._http = httpx.Client(base_url=url, headers=headers, timeout=patience, limits=each_its_own)

    def version(self) -> str:
        """The node's version of Qdrant."""
        return str(self._ask("GET", "/")["version"])

    def peers(self) -> Peers:
        """The cluster it belongs to."""
        found = self._ask("GET", "/cluster")["result"]
        if found.get("status") != "enabled":
            return Peers(None, {})
        own = int(found["peer_id"])
        others = {int(number): str(peer.get("uri")) for number, peer in found.get("peers", {}).items()}
        return Peers(own, {number: uri for number, uri in others.items() if number != own})

    def create(self, collection: str) -> Snapshot:
        """Pack what the node has of a collection; not tried again once it may have begun, as it leaves a file there."""

        def make() -> Any:
            try:
                return self._answer(self._http.post(f"{_path(collection)}?wait=true"))
            except httpx.ConnectError as error:
                raise ResponseHandlingException(error) from error
            except httpx.TransportError as error:
                raise translate(error, self.url, self._key, "manage") from error

        made = retried(self.url, make, self._key, "manage")["result"]
        return Snapshot(str(made["name"]), made.get("checksum"))

    def fetch(self, collection: str, snapshot: Snapshot, path: Path) -> tuple[str, int]:
        """Write a snapshot to a file.

        Returns:
            Its SHA-256 and size.

        Raises:
            StoreError: the node doesn't answer, or what came isn't what it has.
            OSError: the file can't be written.
        """
        return retried(self.url, lambda: self._fetched(collection, snapshot, path), self._key)

    def delete(self, collection: str, snapshot: Snapshot) -> None:
        """Remove a snapshot from the node."""
        self._ask("DELETE", f"{_path(collection)}/{quote(snapshot.name, safe='')}?wait=true")

    def recover(self, collection: str, path: Path, sha256: str) -> None:
        """Make the node's part of a collection from a file, over what it has of it; the node checks the hash."""
        where = f"{_path(collection)}/upload?wait=true&priority=snapshot&checksum={sha256}"

        def send() -> Any:
            with path.open("rb") as file:
                return self._answer(self._http.post(where, files={"snapshot": (path.name, file)}))

        retried(self.url, lambda: _heard(send), self._key, "manage")

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, path: str) -> Any:
        doing: Right = "read" if method == "GET" else "manage"
        return retried(
            self.url, lambda: _heard(lambda: self._answer(self._http.request(method, path))), self._key, doing
        )

    def _answer(self, response: httpx.Response) -> Any:
        _refuse(response)
        return response.json()

    def _fetched(self, collection: str, snapshot: Snapshot, path: Path) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0

        def receive() -> None:
            nonlocal size
            where = f"{_path(collection)}/{quote(snapshot.name, safe='')}"
            with self._http.stream("GET", where) as response, path.open("wb") as file:
                if not response.is_success:
                    response.read()
                _refuse(response)
                for chunk in response.iter_bytes(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)

        _heard(receive)
        if snapshot.sha256 not in (None, digest.hexdigest()):
            raise ResponseHandlingException(ValueError(f"{snapshot.name} came with another SHA-256 than it has there"))
        return digest.hexdigest(), size


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}/snapshots"


def _refuse(response: httpx.Response) -> None:
    if not response.is_success:  # a redirection is none: the key is for this host
        raise UnexpectedResponse(response.status_code, response.reason_phrase, response.content, response.headers)


def _heard(call: Callable[[], Any]) -> Any:
    """A cut line as the error that is tried again."""
    try:
        return call()
    except httpx.TransportError as error:
        raise ResponseHandlingException(error) from error
