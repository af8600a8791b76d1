"""What a collection remembers of the sources that filled it; copies of the collection take it along."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbmir.aliases import plain
from cbmir.dicomcard import CARD, require_same
from cbmir.schema import INDEXED_FIELDS

if TYPE_CHECKING:
    from cbmir.store.collection import Collection

SOURCE = "source:"
"""What stands before the name of a source in the metadata: a key each, so that no run overwrites another's."""

_FILTERED = (*(field.name for field in INDEXED_FIELDS), "label")
SPELLINGS = "modalities"
"""Key of the spellings of modalities that users added."""


def sources_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """By name, how the sources of a collection were read."""
    return {key.removeprefix(SOURCE): value for key, value in metadata.items() if key.startswith(SOURCE)}


def read_columns(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What columns of a collection's tables became: a payload field that filters take, or ``label``.

    Returns:
        By the name that `cbmir.aliases.plain` gives to the column.
    """
    return {
        plain(str(column.get("name"))): str(column["became"])
        for reading in sources_of(metadata).values()
        for column in (reading.get("columns") if isinstance(reading, Mapping) else None) or ()
        if column.get("became") in _FILTERED
    }


def remembered(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a collection's metadata that is about its sources."""
    return {key: value for key, value in metadata.items() if key.startswith(SOURCE) or key in (SPELLINGS, CARD)}


def remember(collection: "Collection", sources: Mapping[str, Any], spellings: Mapping[str, str]) -> None:
    """Add sources and spellings to what a collection remembers; a source of the same name is replaced.

    Args:
        collection: Open.
        sources: By name, how they were read, as JSON.
        spellings: Of modalities, and their codes.
    """
    changes: dict[str, Any] = {SOURCE + name: reading for name, reading in sources.items()}
    if spellings:
        changes[SPELLINGS] = {**collection.spellings(), **spellings}
    if changes:
        collection.set_metadata(changes)


def check_dicom(metadata: Mapping[str, Any], target: "Collection") -> None:
    """Refuse to copy into a collection whose DICOM was read otherwise, by its metadata.

    Raises:
        KeyFileError, CollectionError: see `cbmir.dicomcard.require_same`.
    """
    card, known = metadata.get(CARD), target.metadata().get(CARD)
    if card and known:
        require_same(known, card, f"collection {target.name}")


def pass_on(metadata: Mapping[str, Any], target: "Collection") -> None:
    """Let a copy of a collection remember what the original remembers of its sources, and how its DICOM was read.

    Raises:
        KeyFileError, CollectionError: the copy holds DICOM that was read otherwise.
    """
    if card := metadata.get(CARD):
        check_dicom(metadata, target)
        target.set_metadata({CARD: card})
    remember(target, sources_of(metadata), metadata.get(SPELLINGS) or {})
