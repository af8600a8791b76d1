"""Where collections live: a directory (Qdrant Edge, in this process) or a URL (a Qdrant server)."""

from pathlib import Path

from cbmir.errors import StoreError
from cbmir.store.base import Collection, CollectionInfo, Store
from cbmir.store.layout import Layout

__all__ = ["Collection", "CollectionInfo", "Layout", "Store", "open_store"]


def open_store(location: str | Path, api_key: str | None = None, read_consistency: str | None = None) -> Store:
    """Open a store by its place.

    Args:
        location: A directory (made with the first collection), or an http(s) URL, or those of the nodes of a cluster,
            parted by commas.
        api_key: Key for a URL.
        read_consistency: For a cluster: ``majority``, ``quorum``, ``all`` or a number of replicas that must agree.

    Raises:
        StoreError: the place is neither, can't be reached, or refuses the key.
    """
    text = str(location)
    if text.startswith(("http://", "https://")):
        from cbmir.store.connection import connect
        from cbmir.store.server import ServerStore

        return ServerStore(connect(text, api_key, read_consistency))
    if "://" in text:
        raise StoreError(f"the store {text!r} is neither a directory nor an http(s) URL")
    from cbmir.store.edge import EdgeStore

    return EdgeStore(Path(text))
