"""Where collections live: a directory (Qdrant Edge, in this process) or a URL (a Qdrant server)."""

from pathlib import Path

from cbmir.errors import StoreError
from cbmir.store.base import Collection, CollectionInfo, Store

__all__ = ["Collection", "CollectionInfo", "Store", "open_store"]


def open_store(location: str | Path, api_key: str | None = None) -> Store:
    """Open a store by its place.

    Args:
        location: A directory (made with the first collection), or an http(s) URL.
        api_key: Key for a URL.

    Raises:
        StoreError: the place is neither, can't be reached, or refuses the key.
    """
    text = str(location)
    if text.startswith(("http://", "https://")):
        from cbmir.store.server import connect

        return connect(text, api_key)
    if "://" in text:
        raise StoreError(f"the store {text!r} is neither a directory nor an http(s) URL")
    from cbmir.store.edge import EdgeStore

    return EdgeStore(Path(text))
