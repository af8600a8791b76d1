"""What a classification picks out of a collection: gallery, validation and test images, their classes coded alike."""

from collections.abc import Iterable
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
from cbmir.store import Collection

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
        classes: Names of the classes, sorted.
        firsts: (codes,) class of each code, `NONE` for no label.
        members: (codes, classes) the classes of each code; None where no image has several.
    """

    classes: tuple[str, ...]
    firsts: Codes
    members: Flags | None

    @classmethod
    def of(cls, vocabulary: Iterable[tuple[str, ...]], used: NDArray[np.integer] | None = None) -> "Coding":
        """The classes that the values of a vocabulary are made of; images have several if one of its values does.

        Args:
            vocabulary: The values by code; the first is none at all.
            used: Codes that images have; others count as no value. None for all.
        """
        sets = list(vocabulary)
        if used is not None:
            there = set(used.tolist())
            sets = [values if code in there else () for code, values in enumerate(sets)]
        classes = tuple(sorted({name for values in sets for name in values}))
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


def read_splits(collection: Collection | Session, protocol: RetrievalProtocol, val: Where | None) -> Splits:
    """Read the images of a classification.

    Args:
        collection: Where they are, or the session of a run that measures more.
        protocol: Its queries are the test images, its gallery is learnt from; ``relevance`` is ``any``.
        val: The validation images; None where nothing is chosen.

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
    return Splits(test, own, Coding.of(test.vocabularies[protocol.label], used), validation)


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
