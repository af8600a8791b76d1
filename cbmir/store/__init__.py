"""Where collections live: a directory (Qdrant Edge, in this process) or a URL (a Qdrant server)."""

import re
from pathlib import Path

from cbmir.errors import StoreError
from cbmir.store.collection import Collection
from cbmir.store.info import CollectionInfo
from cbmir.store.keys import Key
from cbmir.store.layout import Layout
from cbmir.store.store import Store
from cbmir.terminal import without_passwords

__all__ = ["Collection", "CollectionInfo", "Key", "Layout", "Store", "open_store"]

_WITH_PORT = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}(?:[/,].*)?")
_SLIP = re.compile("https?:/*", re.IGNORECASE)
_HOST = re.compile(r"localhost|(?!\d+\.\d+$)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")


def open_store(
    location: str | Path,
    api_key: str | Key | None = None,
    read_consistency: str | None = None,
    *,
    transport: str | None = None,
    grpc_port: int | None = None,
) -> Store:
    """Open a store by its place.

    Args:
        location: A directory (made with the first collection), or an http(s) URL, or those of the nodes of a cluster,
            separated by commas. A text that looks like the name of a server is refused; a `Path` is a directory.
        api_key: Key for a URL.
        read_consistency: For a cluster: ``majority``, ``quorum``, ``all`` or a number of replicas that must agree.
        transport: ``grpc``, ``rest`` or ``auto``, see `cbmir.store.connection.connect`; None for the environment's
            CBMIR_TRANSPORT, or else ``auto``.
        grpc_port: Of gRPC; None for the environment's CBMIR_GRPC_PORT, or else the port one above the URL's.

    Raises:
        StoreError: the place is neither, can't be reached, or refuses the key.
    """
    text = str(location)
    if text.startswith(("http://", "https://")):
        from cbmir.store.connection import Way, connect
        from cbmir.store.server import ServerStore

        return ServerStore(connect(text, api_key, read_consistency, Way.chosen(transport, grpc_port)))
    if "://" in text:
        raise StoreError(f"the store {without_passwords(text)!r} is neither a directory nor an http(s) URL")
    if not isinstance(location, Path):
        _check_directory(text)
    from cbmir.store.edge import EdgeStore

    return EdgeStore(Path(text))


def _check_directory(text: str) -> None:
    """Refuse a text that may mean a server: it would become a new directory, and the server stay empty.

    Raises:
        StoreError: it has a port, or it begins like the name of a host and no such directory exists.
    """
    server = _SLIP.sub("", text)
    if server != text or "@" in server.partition("/")[0]:
        server = server.rpartition("@")[2]  # no user, no password
    named = _HOST.fullmatch(server.partition("/")[0]) and not Path(text.partition("/")[0]).is_dir()
    if _SLIP.match(text) or _WITH_PORT.fullmatch(server) or named:
        raise StoreError(
            f"the store {server!r} may be a server or a directory: write http://{server.replace(',', ',http://')} "
            f"(or https://) for the server, ./{server} for the directory"
        )
