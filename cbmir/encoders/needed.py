"""The encoder of a collection: which weights it needs, loading it for a query, and knowing it again."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.registry import at_hand, find, get, given
from cbmir.encoders.weights import GIVEN
from cbmir.errors import EncoderError, StoreError, WeightsError
from cbmir.fingerprint import EncoderCard
from cbmir.sourcefile import split_source
from cbmir.store.fused import FusedCollection

if TYPE_CHECKING:
    from cbmir.store import Collection

_log = logging.getLogger(__name__)


def encoder_of(collection: "Collection", settings: EncoderSettings) -> Encoder:
    """The encoder that made a collection's vectors, loaded and known again.

    What the collection's card names is looked up among cbmir's own encoders and those of installed packages. A file is
    run only where `EncoderSettings.asked` names it, which comes from the user.

    Raises:
        EncoderError: the vectors were made elsewhere, or the encoder isn't known here.
        FingerprintError: the encoder has other weights or another preprocessing here.
        WeightsError: its weights are not here.
    """
    if isinstance(collection, FusedCollection):
        return _fused(collection, settings)
    card, place = collection.card, f"collection {collection.name}"
    if card.is_external:
        raise EncoderError(
            f"{place} holds vectors of {card.name} that were made elsewhere: "
            "it can be asked by stored id or by vector, not by image"
        )
    asked = settings.asked
    try:
        if asked is not None and split_source(asked):
            loaded = given(asked, settings)
        else:
            loaded = get(check_weights(card, settings, place), settings)
    except WeightsError as error:
        if settings.weights or isinstance(error, _NotHereError):
            raise
        raise WeightsError(f"{needed(card, place)}; they are not here: give --weights FILE|DIR; {error}") from error
    loaded.card = replace(loaded.card, name=card.name)
    recognise(collection, loaded)
    return loaded


def _fused(collection: FusedCollection, settings: EncoderSettings) -> Encoder:
    from cbmir.encoders.fused import FusedEncoder

    if settings.weights is not None or settings.asked is not None:
        raise EncoderError(
            f"{collection.name} needs several encoders, so --weights and --encoder can't name one; ask the collections "
            "one by one, or with encoders that are at hand"
        )
    encoders = [encoder_of(part, settings) for part in collection.parts]
    return FusedEncoder(collection.card, encoders, collection.whole)


def recognise(collection: "Collection", encoder: Encoder) -> None:
    """Refuse an encoder that didn't make a collection's vectors; let a collection without probe vectors keep them.

    Where the key may not change the collection, or the disk is full, nothing is kept.

    Raises:
        FingerprintError: it is another encoder.
    """
    collection.card.require(encoder.card, f"collection {collection.name}")
    if collection.card.probes or not encoder.card.probes:
        return
    try:
        if collection.may_change():
            probes = replace(collection.card, probes=encoder.card.probes).notes().get("probes")
            collection.set_metadata({"probes": probes} if probes else {})
            collection.card = replace(collection.card, probes=encoder.card.probes)
    except StoreError as error:
        _log.info("collection %s doesn't keep the probe vectors of its encoder: %s", collection.name, error)


def needed(card: EncoderCard, place: str) -> str:
    """What a collection needs, in words: its encoder, and hash and origin of the weights."""
    origin = f", {card.origin}" if card.origin and card.origin != card.weights else ""
    return f"{place} needs the weights of {card.name} that it was made with ({card.weights[:19]}{origin})"


class _NotHereError(WeightsError):
    """What is needed has been said already."""


def check_weights(card: EncoderCard, settings: EncoderSettings, place: str) -> str:
    """Refuse an encoder that can't be the one of a collection, without fetching or loading weights.

    A warning says it where weights have to be downloaded first.

    Args:
        card: Of the collection.
        settings: How the encoder will be loaded.
        place: The collection, in words.

    Returns:
        The name by which the encoder is found here.

    Raises:
        EncoderError: no such encoder is known here.
        FingerprintError: the encoder of that name has another length or another preprocessing here.
        WeightsError: the weights that are given are not there, or the encoder's own can't be those that it needs.
    """
    weights = settings.weights
    name, spec = _found(card, settings, place)
    expected = _expected(card, spec)
    if card.differences(expected):
        card.require(expected, place)
    if weights is not None:
        if not _exists(weights):
            raise _NotHereError(f"no file or directory {weights}; {needed(card, place)}")
        return name
    if card.origin.startswith(GIVEN):
        raise _NotHereError(f"{needed(card, place)}, not {name}'s own: give --weights FILE|DIR")
    at_hub = "/" in spec.source and "://" not in spec.source and ":" not in spec.name
    if at_hub and not at_hand(spec):
        _log.warning("%s; %s is not on this machine, so it is fetched first", needed(card, place), spec.source)
    return name


def _found(card: EncoderCard, settings: EncoderSettings, place: str) -> tuple[str, EncoderSpec]:
    """The name and the spec of the encoder that a card needs, or that the user asks for; no file is run for a card."""
    if settings.asked is not None:
        return settings.asked, find(settings.asked, settings.weights)[1]
    names = [name for name in dict.fromkeys((card.name, card.asked_as)) if name and not _is_file(name)]
    reason = ""
    for name in names:
        try:
            return name, find(name, settings.weights)[1]
        except EncoderError as error:
            reason = reason or f": {error}"
    if _is_file(card.asked_as) or _is_file(card.name) or card.code:
        code = f"{card.asked_as or card.name}{f' ({card.code[:19]})' if card.code else ''}"
        raise EncoderError(
            f"{place} was made with {card.name}, an encoder of somebody's own, {code}: "
            "give --encoder FILE.py:FUNCTION, if you trust that file, or install the package that has it"
        )
    raise EncoderError(f"{place} was made with {card.name}, which is not known here{reason}")


def _is_file(name: str) -> bool:
    """Whether a name has the form of a file with a function, wherever that may be."""
    return ".py:" in name or name.endswith(".py")


def _exists(weights: Path) -> bool:
    """Whether a file is there, also as ``FILE#NAME``, or a directory."""
    return weights.exists() or ("#" in weights.name and weights.with_name(weights.name.rpartition("#")[0]).exists())


def _expected(card: EncoderCard, spec: EncoderSpec) -> EncoderCard:
    """The card that the encoder would have with the right weights, as far as that is known."""
    how = spec.preprocessing or spec.volume
    return EncoderCard(card.name, spec.dim or card.dim, card.weights, how.as_json() if how else card.preprocessing)
