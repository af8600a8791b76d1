"""What a classification picks out of a collection: gallery, validation and test images, their classes coded alike."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.votes import NONE, Flags, Labels
from cbmir.evaluate.analyses.retrieval.setting import Side
from cbmir.evaluate.protocol import RetrievalProtocol, existing, wording
from cbmir.evaluate.ranking.trial import Codes, Images, Trial, Vocabulary, read_trial
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

    def asked(self) -> Trial:
        """All queries as one trial, so that a large gallery is read once: those of `test`, then those of `val`."""
        if self.val is None:
            return self.test
        both = (self.test, self.val)
        names = tuple(sorted({name for trial in both for name in trial.class_names}))
        codes = {name: code for code, name in enumerate(names)}
        classes = [np.array([codes[name] for name in trial.class_names], np.int32)[trial.classes] for trial in both]
        queries = Images(
            np.concatenate([trial.queries.ids for trial in both]),
            {name: np.concatenate([trial.queries.codes[name] for trial in both]) for name in self.test.queries.codes},
        )
        return replace(
            self.test,
            queries=queries,
            classes=np.concatenate(classes),
            class_names=names,
            query_vectors=np.concatenate([trial.query_vectors for trial in both]),
            unlabelled=sum(trial.unlabelled for trial in both),
            own_places=np.concatenate([trial.own_places for trial in both]),
        )


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
    def of(cls, vocabulary: Iterable[tuple[str, ...]]) -> "Coding":
        """The classes that the values of a vocabulary are made of; images have several if one of its values does."""
        sets = list(vocabulary)
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


def read_splits(collection: Collection, protocol: RetrievalProtocol, val: Where | None) -> Splits:
    """Read the images of a classification.

    Args:
        collection: Where they are.
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
    test = read_trial(collection, protocol)
    if val is None:
        return Splits(test, None, Coding.of(test.vocabularies[protocol.label]), None)
    own = _read_val(collection, protocol, val)
    codes = {
        name: _recoded(column, own.vocabularies[name], test.vocabularies[name])
        for name, column in own.queries.codes.items()
    }
    trial = replace(
        own,
        queries=Images(own.queries.ids, codes),
        gallery=test.gallery,
        gallery_vectors=test.gallery_vectors,
        gallery_where=test.gallery_where,
        vocabularies=test.vocabularies,
        own_places=test.gallery.places(own.queries.ids),
    )
    in_test = int(np.isin(own.queries.ids, test.queries.ids).sum())
    return Splits(
        test, trial, Coding.of(test.vocabularies[protocol.label]), Validation(_side(collection, own), in_test)
    )


def _read_val(collection: Collection, protocol: RetrievalProtocol, val: Where) -> Trial:
    """The validation images, as queries and gallery of a trial of their own: so nothing else is read."""
    try:
        existing(val, collection, "val")
    except ProtocolError as error:
        raise MissingValidationError(str(error)) from error
    return read_trial(collection, replace(protocol, queries=val, gallery=val))


def _recoded(column: Codes, own: Vocabulary, shared: Vocabulary) -> Codes:
    """Codes of one vocabulary as those of another, which learns the values that it lacks."""
    return np.array([shared.code(values) for values in own], np.int32)[column]


def _side(collection: Collection, trial: Trial) -> Side:
    return Side(
        wording(trial.protocol.queries),
        len(trial.queries),
        trial.unlabelled,
        collection.facet("dataset", trial.queries_where),
    )
