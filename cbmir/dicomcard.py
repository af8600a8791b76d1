"""What a collection keeps of how its DICOM was read: window, orientation, decoder, and the check value of the key."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbmir.errors import CollectionError, KeyFileError
from cbmir.keyfile import Key, default_place, read_key

if TYPE_CHECKING:
    from cbmir.media.dicom_settings import DicomSettings
    from cbmir.store import Collection

CARD = "dicom"
"""Key in the metadata of a collection."""

_REMEDY = "restore the key file of that check value, or name it in CBMIR_DICOM_KEY"


def claim(collection: "Collection", settings: "DicomSettings") -> None:
    """Let a collection remember how its DICOM is read; one that does must be read the same way.

    Raises:
        KeyFileError: its identifiers were hashed with another key.
        CollectionError: its images have another window, or other words for regions.
    """
    card, known = settings.as_json(), collection.metadata().get(CARD)
    if not known:
        collection.set_metadata({CARD: card})
        return
    require_same(known, card, f"collection {collection.name}")


def require_same(known: Mapping[str, Any], card: Mapping[str, Any], place: str) -> None:
    """Refuse DICOM that was read otherwise.

    Args:
        known: What `place` keeps.
        card: Of what is to be added to it.
        place: For messages.

    Raises:
        KeyFileError: another key.
        CollectionError: another window, or other words for regions.
    """
    if known.get("key_check") != card.get("key_check"):
        raise KeyFileError(
            f"{place} holds DICOM whose identifiers were hashed with the key of check value {known.get('key_check')}, "
            f"and this key has the check value {card.get('key_check')}: {_REMEDY}"
        )
    if known.get("window") != card.get("window"):
        raise CollectionError(
            f"{place} holds DICOM read with --window {known.get('window')}, not {card.get('window')}: give that "
            "window, or another --collection"
        )
    if (known.get("rules") or []) != (card.get("rules") or []):
        raise CollectionError(
            f"{place} holds DICOM read with other --region-words: give the same, or another --collection"
        )
    if known.get("decoder") != card.get("decoder"):
        raise CollectionError(
            f"{place} holds DICOM read by version {known.get('decoder')} of the decoder, and this is version "
            f"{card.get('decoder')}: make another collection"
        )


def settings_of(collection: "Collection") -> "DicomSettings | None":
    """How the DICOM of a collection is read, with the key if it is at hand; None where it has no DICOM.

    Raises:
        KeyFileError: the key file can't be read.
    """
    return settings_from(collection.metadata().get(CARD))


def settings_from(card: object) -> "DicomSettings | None":
    """The same, from what a collection keeps under `CARD`.

    Raises:
        KeyFileError: the key file can't be read.
    """
    if not isinstance(card, Mapping):
        return None
    from cbmir.media.dicom_settings import DicomSettings  # Pillow: a search by id needs none

    return DicomSettings.from_json(card, key_at_hand(card))


def key_at_hand(card: Mapping[str, Any]) -> Key | None:
    """The key of a collection, if it is the one of this user; None otherwise.

    Raises:
        KeyFileError: the key file can't be read.
    """
    key = read_key(default_place())
    return key if key is not None and key.check == card.get("key_check") else None


def why_no_key(card: Mapping[str, Any]) -> str:
    """Why the key of a collection isn't at hand, and what to do."""
    key = read_key(default_place())
    here = f"{default_place()} has the check value {key.check}" if key else f"there is no key file {default_place()}"
    made = f"the identifiers of its DICOM were hashed with the key of check value {card.get('key_check')}"
    return f"{made}, and {here}: {_REMEDY}"
