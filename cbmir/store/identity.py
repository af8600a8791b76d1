"""What a collection is called, and whose vectors it holds."""

import re
from typing import Any

from cbmir.errors import CollectionError
from cbmir.fingerprint import EncoderCard


def default_name(encoder: str) -> str:
    """The name that a collection of an encoder has unless another is given."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", encoder)


def check_name(name: str) -> None:
    """Refuse names that one of the engines can't hold.

    Raises:
        CollectionError: the name has other signs than letters, digits, dot, dash and underscore, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", name):
        raise CollectionError(
            f"a collection can't be named {name!r}: use letters, digits, dot, dash and underscore, 120 at most"
        )


def metadata(card: EncoderCard) -> dict[str, Any]:
    """What a collection remembers of itself besides its points."""
    from cbmir import __version__

    return {
        "format": 1,
        "created_by": f"cbmir {__version__}",
        "encoder": card.as_json(),
        "fingerprint": card.fingerprint,
        **card.notes(),
    }


def card_from(metadata: Any, place: str) -> EncoderCard:
    """The encoder card in a collection's metadata.

    Raises:
        CollectionError: the metadata is not ours, damaged, or of a later version.
    """
    try:
        if metadata["format"] != 1:
            raise CollectionError(f"{place} has format {metadata['format']}; this cbmir reads 1: update cbmir")
        card = EncoderCard.from_json(metadata["encoder"]).noted(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise CollectionError(f"{place} was not made by cbmir or its metadata is damaged ({error!r})") from error
    if card.fingerprint != metadata.get("fingerprint"):
        raise CollectionError(
            f"{place}: the encoder in its metadata doesn't have the fingerprint that stands beside it"
        )
    return card
