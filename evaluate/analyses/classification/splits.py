"""What a classification picks out of a collection: gallery, validation and test images, their classes coded alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.votes import NONE, Flags, Labels
from cbmir.evaluate.protocol import RetrievalProtocol, existing, unlabelled, wording
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import Codes, Trial
from cbmir.evaluate.setting import Side
from cbmir.filters import Condition, Where
from cbmir.schema import label_slug
from cbmir.store import Collection
from cbmir.store.sources import sources_of

VALIDATION: Where = (Condition("split", "=", ("val",)),)


class MissingValidationError(ProtocolError):
    """No image is among the validation images."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The images on which a choice is made.

    Attributes:
        side: Who they are.
        in_test: How many of them are test images too: the figures flatter where there are any.
    """

    side: Side
    in_test: int


@dataclass(frozen=True, slots=True)
class Splits:
    """The images of a classification.

    Attributes:
        test: The queries that are measured, and the gallery.
        val: The queries on which a choice is made, with the same gallery and the same codes; None without a choice.
        coding: The classes of all of them.
        validation: What `val` is, for a report; None without one.
    """

    test: Trial
    val: Trial | None
    coding: "Coding"
    validation: Validation | None

    @property
    def label(self) -> str:
        """The field that the classes are values of."""
        return self.test.protocol.label

    def truth(self, trial: Trial) -> Labels:
        """The classes of the queries of `test` or `val`."""
        return self.coding.labels(trial.queries.codes[self.label])

    def gallery(self) -> Labels:
        """The classes of the gallery, `NONE` for images without a label."""
        return self.coding.labels(self.test.gallery.codes[self.label])


@dataclass(frozen=True, slots=True)
class Coding:
    """What the codes of a label field mean as classes.

    Attributes:
        classes: Names of the classes, sorted, or in the order of a table's columns.
        firsts: (codes,) class of each code, `NONE` for no label.
        members: (codes, classes) the classes of each code; None where no image has several.
    """

    classes: tuple[str, ...]
    firsts: Codes
    members: Flags | None

    @classmethod
    def of(
        cls,
        vocabulary: Iterable[tuple[str, ...]],
        used: NDArray[np.integer] | None = None,
        columns: Sequence[str] = (),
    ) -> "Coding":
        """The classes that the values of a vocabulary are made of; images have several if one of its values does.

        Args:
            vocabulary: The values by code; the first is none at all.
            used: Codes that images have; others count as no value. None for all.
            columns: Names in whose order classes are numbered; those that are not among them come after.
        """
        sets = list(vocabulary)
        if used is not None:
            there = set(used.tolist())
            sets = [values if code in there else () for code, values in enumerate(sets)]
        classes = ordered({name for values in sets for name in values}, columns)
        codes = {name: code for code, name in enumerate(classes)}
        firsts = np.array([codes[values[0]] if values else NONE for values in sets], np.int32)
        if max(map(len, sets)) < 2:
            return cls(classes, firsts, None)
        members = np.zeros((len(sets), len(classes)), np.bool_)
        for row, values in zip(members, sets, strict=True):
            row[[codes[name] for name in values]] = True
        return cls(classes, firsts, members)

    @property
    def several(self) -> bool:
        """Whether an image may have several classes."""
        return self.members is not None

    def labels(self, codes: Codes) -> Labels:
        """The classes of images from the codes of their label field."""
        if self.members is None:
            return Labels(self.firsts[codes], len(self.classes))
        return Labels.of_sets(codes, self.members)


def ordered(names: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Names of classes in the order of a table's columns, which may be the whole label or its last part."""
    places: dict[str, int] = {}
    for place, name in enumerate(columns):
        places.setdefault(name, place)

    def key(name: str) -> tuple[int, str]:
        return places.get(name, places.get(name.rpartition("/")[2], len(columns))), name

    return tuple(sorted(names, key=key))


def column_order(collection: Collection, given: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The order of the label columns of the table that a collection was made of.

    Args:
        collection: It remembers how its tables were read, in the order in which they were.
        given: The order itself, as a ``config.json`` has it; it comes first.

    Returns:
        Labels as they are stored, and where their order is from, in words.

    Raises:
        RecordError: one of those that were given is no label.
    """
    if given:
        return tuple(map(label_slug, given)), "the order of label_columns"
    readings = sources_of(collection.metadata()).values()
    dated = sorted((item for item in readings if isinstance(item, Mapping)), key=lambda item: str(item.get("read_at")))
    names = dict.fromkeys(str(name) for item in dated for name in item.get("label_columns") or ())
    if names:
        return tuple(map(label_slug, names)), "the order of the label columns of its table"
    return (), "alphabetical order, as the order of its label columns isn't known"


def read_splits(
    collection: Collection | Session, protocol: RetrievalProtocol, val: Where | None, columns: Sequence[str] = ()
) -> Splits:
    """Read the images of a classification.

    Args:
        collection: Where they are, or the session of a run that measures more.
        protocol: Its queries are the test images, its gallery is learnt from; ``relevance`` is ``any``.
        val: The validation images; None where nothing is chosen.
        columns: See `Coding.of`.

    Raises:
        MissingValidationError: there are no validation images.
        ProtocolError: test or gallery images are missing, images have no label, or the protocol asks for another
            relevance.
    """
    if protocol.relevance != "any":
        raise ProtocolError(
            f"relevance {protocol.relevance} means nothing to a classifier, which tells the values of "
            f"{protocol.label} apart; leave it at any"
        )
    session = Session.of(collection)
    session.expect(protocol)
    chosen = replace(protocol, queries=val) if val is not None else None
    if chosen is not None:
        _check_val(session.collection, chosen)
        session.expect(chosen)
    test = session.trial(protocol)
    own = session.trial(chosen) if chosen is not None else None
    if own is not None and own.without_label(own.queries) == len(own.queries):  # "no label" alone is no choice
        raise unlabelled(session.collection, own.queries_where, protocol.label, "queries")
    images = [test.queries, test.gallery, *([own.queries] if own else [])]
    used = np.unique(np.concatenate([item.codes[protocol.label] for item in images]))
    validation = None
    if own is not None:
        in_test = int(np.isin(own.queries.ids, test.queries.ids).sum())
        validation = Validation(_side(session.collection, own), in_test)
    return Splits(test, own, Coding.of(test.vocabularies[protocol.label], used, columns), validation)


def _check_val(collection: Collection, protocol: RetrievalProtocol) -> None:
    """Refuse validation images that don't exist, after queries and gallery that don't.

    Raises:
        MissingValidationError: there are none.
        ProtocolError: their filter can't be read.
    """
    try:
        existing(protocol.queries, collection, "val")
    except ProtocolError as error:
        raise MissingValidationError(str(error)) from error


def _side(collection: Collection, trial: Trial) -> Side:
    return Side(
        wording(trial.protocol.queries),
        len(trial.queries),
        trial.unlabelled,
        collection.facet("dataset", trial.queries_where),
    )
