"""Which weights a collection needs, and what can be known of those at hand before any is fetched or loaded."""

import logging
from pathlib import Path

from cbmir.encoders.base import EncoderSettings, EncoderSpec
from cbmir.encoders.registry import at_hand, find
from cbmir.encoders.weights import GIVEN
from cbmir.errors import EncoderError, WeightsError
from cbmir.fingerprint import EncoderCard

_log = logging.getLogger(__name__)


def needed(card: EncoderCard, place: str) -> str:
    """What a collection needs, in words: its encoder, and hash and origin of the weights."""
    origin = f", {card.origin}" if card.origin and card.origin != card.weights else ""
    return f"{place} needs the weights of {card.name} that it was made with ({card.weights[:19]}{origin})"


def check_weights(card: EncoderCard, settings: EncoderSettings, place: str) -> None:
    """Refuse an encoder that can't be the one of a collection, without fetching or loading weights.

    A warning says it where weights have to be downloaded first.

    Args:
        card: Of the collection.
        settings: How the encoder will be loaded.
        place: The collection, in words.

    Raises:
        EncoderError: no such encoder is known here.
        FingerprintError: the encoder of that name has another length or another preprocessing here.
        WeightsError: the weights that are given are not there, or the encoder's own can't be those that it needs.
    """
    weights = settings.weights
    try:
        _, spec = find(card.name, weights)
    except EncoderError as error:
        raise EncoderError(f"{place} was made with {card.name}, which is not known here: {error}") from error
    card.require(_expected(card, spec), place)
    if weights is not None:
        if not _exists(weights):
            raise WeightsError(f"no file or directory {weights}; {needed(card, place)}")
        return
    if card.origin.startswith(GIVEN):
        raise WeightsError(f"{needed(card, place)}, not {card.name}'s own: give --weights FILE|DIR")
    at_hub = "/" in spec.source and "://" not in spec.source and ":" not in spec.name
    if at_hub and not at_hand(spec):
        _log.warning("%s; %s is not on this machine, so it is fetched first", needed(card, place), spec.source)


def _exists(weights: Path) -> bool:
    """Whether a file is there, also as ``FILE#NAME``, or a directory."""
    return weights.exists() or ("#" in weights.name and weights.with_name(weights.name.rpartition("#")[0]).exists())


def _expected(card: EncoderCard, spec: EncoderSpec) -> EncoderCard:
    """The card that the encoder would have with the right weights, as far as that is known."""
    how = spec.preprocessing or spec.volume
    return EncoderCard(card.name, spec.dim or card.dim, card.weights, how.as_json() if how else card.preprocessing)
