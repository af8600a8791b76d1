"""Many writes to a server at once: its graph is put off until all is there."""

import re

from cbmir.errors import StoreError
from cbmir.store import Collection, Store


def is_unused_version(store: Store, name: str) -> bool:
    """Whether nobody searches a collection yet: a version of a server, ``NAME__vN``, to which no alias leads."""
    if "://" not in store.location or not re.search(r"__v\d+$", name):
        return False
    from cbmir.store.server import ServerStore

    return isinstance(store, ServerStore) and name not in store.aliases().values()


def put_off(collection: Collection, *, wanted: bool) -> None:
    """Build no graph until the collection is finished.

    Args:
        collection: To be filled.
        wanted: Whether the user has asked for it; else a key that may not is no error.

    Raises:
        StoreError: the key may not, and it was asked for.
    """
    from cbmir.store.retry import refused

    try:
        collection.defer_index()
    except StoreError as error:
        if wanted or not refused(error.__cause__):
            raise
