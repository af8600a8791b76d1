"""The folders that a collection's images were read from, by data set: a default for whoever shows them.

They are absolute paths of the machine that read the images, so they stay with the collection: copies to another store,
exports and backups of a directory don't have them. The snapshot that a server makes of itself holds all it has.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOTS = "roots"
"""Name of the folders in a collection's metadata."""

_REMEMBERED = 4
"""Folders kept of a data set: its tables may lie in several, and machines that divide the work mount it elsewhere."""

Roots = dict[str, list[str]]
"""Absolute paths by data set, the one that was read last first."""


def roots_from(metadata: Any) -> Roots:
    """The folders in a collection's metadata; none where it has none, or what stands there is of another form."""
    found = metadata.get(ROOTS) if isinstance(metadata, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(name): [str(item) for item in items] for name, items in found.items() if isinstance(items, list)}


def with_root(roots: Mapping[str, list[str]], root: Path, datasets: Iterable[str]) -> Roots:
    """The folders, with one more at the front of some data sets; unchanged where its path is no Unicode text."""
    path = str(root.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:  # the engine stores text
        return dict(roots)
    new = {name: [path, *(item for item in roots.get(name, ()) if item != path)][:_REMEMBERED] for name in datasets}
    return {**roots, **new}
