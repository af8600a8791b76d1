"""Classification by the nearest gallery images: k is chosen on validation images and measured on others."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.analyses.classification.assessment import EVERYONE, Assessment, Cohort, assess, named
from cbmir.evaluate.analyses.classification.classes import class_figures
from cbmir.evaluate.analyses.classification.report import MEASURES, ClassificationReport, LeftOut, Voting
from cbmir.evaluate.analyses.classification.splits import (
    VALIDATION,
    MissingValidationError,
    Splits,
    column_order,
    read_splits,
)
from cbmir.evaluate.analyses.classification.votes import (
    NONE,
    TEMPERATURE,
    VOTES,
    ClassVotes,
    Flags,
    Labels,
    Shares,
    Verdicts,
    Vote,
    micro_f1,
    predict,
    shares,
)
from cbmir.evaluate.protocol import CLASS, RetrievalProtocol
from cbmir.evaluate.ranking.description import describe, group_masks, resampler_of
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import Trial
from cbmir.evaluate.results import Row
from cbmir.filters import Where
from cbmir.search.ranker import Ranking
from cbmir.store import Collection


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRules:
    """How neighbours vote, and how many.

    Attributes:
        vote: ``mean`` or ``softmax``, see `ClassVotes`.
        temperature: Of the softmax, above 0.
        k: Neighbours that vote; None to choose the best on validation queries.
        paper: Vote as the published program does, to compare with its figures. A query is answered by no more
            neighbours than the gallery has images of its true class, which it can't know: the figures are too high.
            The k that it takes is one below the best of 1 to depth - 1, and ties go to the class whose column comes
            first in the label table.
        columns: The names of these columns in their order; none to take what the collection remembers of its table.

    Raises:
        ProtocolError: the vote is unknown, the temperature isn't above 0, or the paper's rules are asked of another
            vote than the mean.
        CutoffError: k is below 1.
    """

    vote: Vote = "mean"
    temperature: float = TEMPERATURE
    k: int | None = None
    paper: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vote not in VOTES:
            raise ProtocolError(f"no vote {self.vote!r}; there are {', '.join(VOTES)}")
        if not self.temperature > 0:
            raise ProtocolError(f"the temperature is {self.temperature}; it lies above 0")
        if self.paper and self.vote != "mean":
            raise ProtocolError(f"the paper's protocol has the mean vote, not {self.vote}")
        if self.k is not None and self.k < 1:
            raise CutoffError(f"k is {self.k}; ask for 1 neighbour or more")


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries and what was found for them.

    Attributes:
        places: (n, depth) gallery places in rank order, `NONE` where a hit is missing.
        cosines: (n, depth) their scores.
        truth: The classes of the queries.

    Raises:
        ProtocolError: there are no queries, or one has no label.
    """

    places: NDArray[np.int64]
    cosines: NDArray[np.floating[Any]]
    truth: Labels

    def __post_init__(self) -> None:
        if not len(self.truth) or len(self.truth) != len(self.places):
            raise ProtocolError(f"{len(self.places):,} answers met the labels of {len(self.truth):,} queries")
        if unlabelled := int((self.truth.codes == NONE).sum()):
            raise ProtocolError(f"queries without a label: {unlabelled:,} of {len(self.truth):,}; leave them out")


@dataclass(frozen=True, slots=True)
class Choice:
    """How many neighbours vote, and why.

    Attributes:
        k: Neighbours.
        scores: (depth,) micro-averaged F1 on the validation queries for k = 1, 2, ..., the accuracy where an image has
            one class; empty where k was given.
        best: The smallest k with the highest score: `k`, but under the paper's rules one more, or 1.
    """

    k: int
    scores: Shares
    best: int


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of a vote.

    Attributes:
        choice: The k, and how it was chosen.
        assessment: The figures.
        verdicts: What was said of each query.
        voteless: Queries of which no neighbour has a label: wrong in every figure.
    """

    choice: Choice
    assessment: Assessment
    verdicts: Verdicts
    voteless: int


def classify(
    gallery: Labels, test: Asked, cohort: Cohort, rules: VoteRules | None = None, val: Asked | None = None
) -> Classification:
    """Measure how well the nearest gallery images tell the classes of the queries.

    Args:
        gallery: The classes of the gallery.
        test: The queries that are measured.
        cohort: Their groups and patients.
        rules: How neighbours vote; the default is the mean vote of the best k.
        val: The queries on which k is chosen; needed where the rules give none.

    Raises:
        ProtocolError: k can't be chosen without validation queries, or queries and gallery don't share their classes.
        CutoffError: k is above the places that were retrieved.
    """
    rules = rules or VoteRules()
    choice = choose_k(gallery, val, rules)
    votes = class_votes(gallery, test, rules)
    verdicts = Verdicts(test.truth, predict(votes, choice.k), shares(votes, choice.k))
    voteless = int(np.count_nonzero(~verdicts.scores.any(axis=1)))
    return Classification(choice, assess(verdicts, cohort), verdicts, voteless)


def choose_k(gallery: Labels, val: Asked | None, rules: VoteRules) -> Choice:
    """The k that the rules give, or the smallest of those that do best on the validation queries.

    Raises:
        ProtocolError: neither the rules nor validation queries say.
    """
    if rules.k is not None:
        return Choice(rules.k, np.empty(0), rules.k)
    if val is None:
        raise ProtocolError("k is chosen on validation queries and there are none; name them, or give k")
    scores = micro_f1(class_votes(gallery, val, rules), val.truth)
    if not rules.paper:
        best = int(np.argmax(scores)) + 1
        return Choice(best, scores, best)
    best = int(np.argmax(scores[: max(1, len(scores) - 1)])) + 1
    return Choice(max(1, best - 1), scores, best)  # 0, where their program stops, is taken as 1


def class_votes(gallery: Labels, asked: Asked, rules: VoteRules) -> ClassVotes:
    """The votes of the neighbours that were found for some queries, under some rules.

    Raises:
        ProtocolError: queries and gallery don't share their classes, or images have several, which the paper leaves
            out.
    """
    several = asked.truth.members is not None
    if asked.truth.classes != gallery.classes or several != (gallery.members is not None):
        raise ProtocolError("queries and gallery don't share their classes; code both alike")
    if rules.paper and several:
        raise ProtocolError("the paper's protocol knows images of one class only; choose a label with one value")
    return ClassVotes(
        places=asked.places,
        cosines=asked.cosines,
        labels=gallery,
        vote=rules.vote,
        temperature=rules.temperature,
        ties="lowest" if rules.paper else "nearest",
        reach=_images_of_true_class(gallery, asked.truth) if rules.paper else None,
    )


def _images_of_true_class(gallery: Labels, truth: Labels) -> NDArray[np.int64]:
    images = np.bincount(gallery.codes[gallery.codes != NONE], minlength=gallery.classes)
    return images[truth.codes]


MAX_K = 100
"""The largest k that is tried unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnTerms:
    """What a classification by neighbours needs beyond a protocol.

    Attributes:
        rules: How neighbours vote, and how many.
        max_k: The largest k that is tried on the validation images, where the rules give none.
        val: The validation images.
        measures: Which of `MEASURES` to report.
    """

    rules: VoteRules = field(default_factory=VoteRules)
    max_k: int = MAX_K
    val: Where = VALIDATION
    measures: tuple[str, ...] = MEASURES

    @property
    def depth(self) -> int:
        """Neighbours to find."""
        return self.rules.k or self.max_k


def evaluate_classification(
    collection: Collection | Session, protocol: RetrievalProtocol, terms: KnnTerms | None = None
) -> ClassificationReport:
    """Measure how well the nearest gallery images tell the classes of the queries.

    Args:
        collection: What is measured, or the session of a run that measures more.
        protocol: Who asks, what is searched by the first of its searches, and which label tells the classes; its
            measures and cutoffs have no part.
        terms: How neighbours vote; by default the mean vote of the best k of 1 to `MAX_K` on ``split=val``.

    Raises:
        ProtocolError: images or labels are missing, the terms don't fit, or the collection changed meanwhile.
    """
    terms = terms or KnnTerms()
    protocol = replace(protocol, k=(terms.depth,), searches=protocol.searches[:1])
    session = Session.of(collection)
    columns: tuple[str, ...] = ()
    ties = ""
    if terms.rules.paper:
        columns, ties = column_order(session.collection, terms.rules.columns)
    splits = _read(session, protocol, terms, columns)
    exclusion, free = (Exclusion(splits.test, fields) for fields in (protocol.excluded_fields, ()))
    contrast = exclusion.images > free.images
    found = _found(session, splits, (*([()] if contrast else []), protocol.excluded_fields))
    relevance = session.relevance(splits.test, exclusion)
    several = splits.coding.several
    cohort = cohort_of(splits.test, relevance.covered)
    result = _classified(splits, found[-1], cohort, terms.rules)
    together: tuple[Row, ...] = ()
    if contrast:
        covered = session.relevance(splits.test, free).covered
        plain = replace(cohort, covered=covered, groups={}, resampler=replace(cohort.resampler, draws=0))
        together = _rows(_classified(splits, found[0], plain, terms.rules), protocol, terms, several)
    gallery = np.bincount(splits.gallery().pairs()[1], minlength=len(splits.coding.classes))
    return ClassificationReport(
        setting=replace(
            describe(session.collection, splits.test, exclusion, relevance),
            measures=named(terms.measures, several),
            k=(result.choice.k,),
        ),
        encoder=session.collection.card,
        method=_voting(splits, result, terms, ties),
        rows=_rows(result, protocol, terms, several),
        classes=splits.coding.classes,
        confusion=result.assessment.confusion,
        left_out=LeftOut.of(
            result.assessment,
            splits.coding.classes,
            np.flatnonzero(gallery == 0).tolist(),
            result.voteless,
            groups_of_class(protocol),
        ),
        together=together,
        labels=class_figures(result.verdicts, splits.coding.classes, cohort.resampler),
    )


_FINDINGS = ("primary_label", "labels", "pathology")


def groups_of_class(protocol: RetrievalProtocol) -> tuple[str, ...]:
    """The groups asked for that the class decides: they are left out, as each class has figures of its own.

    A group of one true class has no false alarms, so that its precision would say nothing.
    """
    own = {CLASS, protocol.label, *(_FINDINGS if protocol.label in _FINDINGS else ())}
    return tuple(name for name in protocol.by if name in own)


def cohort_of(trial: Trial, covered: Flags) -> Cohort:
    """The queries of a trial with their groups and the draws of their patients; see `groups_of_class`."""
    left_out = tuple(f"{name}=" for name in groups_of_class(trial.protocol))
    groups = group_masks(trial)
    kept = {name: mask for name, mask in groups.items() if name != EVERYONE and not name.startswith(left_out)}
    return Cohort(kept, covered, resampler_of(trial))


def _read(session: Session, protocol: RetrievalProtocol, terms: KnnTerms, columns: tuple[str, ...]) -> Splits:
    if terms.rules.k is not None:
        return read_splits(session, protocol, None, columns)
    try:
        return read_splits(session, protocol, terms.val, columns)
    except MissingValidationError as error:
        raise ProtocolError(f"k is chosen on validation images: {error}; or give -k") from error


_Pair = tuple[Ranking, Ranking | None]
"""Neighbours of the test images, and of the validation images where there are any."""


def _found(session: Session, splits: Splits, exclusions: tuple[tuple[str, ...], ...]) -> list[_Pair]:
    """The neighbours for each of some sets of fields to exclude by, the widest last."""
    protocol = splits.test.protocol
    trials = [trial for trial in (splits.test, splits.val) if trial is not None]
    found = [session.rank(trial, protocol.searches[0], exclusions, protocol.depth) for trial in trials]
    return list(zip(found[0], found[1] if len(found) > 1 else [None] * len(exclusions), strict=True))


def _classified(splits: Splits, found: _Pair, cohort: Cohort, rules: VoteRules) -> Classification:
    asked = [
        Asked(ranking.positions, ranking.scores, splits.truth(trial))
        for trial, ranking in zip((splits.test, splits.val), found, strict=True)
        if trial is not None and ranking is not None
    ]
    return classify(splits.gallery(), asked[0], cohort, rules, asked[1] if len(asked) > 1 else None)


def _rows(result: Classification, protocol: RetrievalProtocol, terms: KnnTerms, several: bool) -> tuple[Row, ...]:
    rows = result.assessment.rows(result.choice.k, protocol.searches[0])
    return tuple(row for row in rows if row.measure in named(terms.measures, several))


def _voting(splits: Splits, result: Classification, terms: KnnTerms, ties: str) -> Voting:
    rules, given = terms.rules, terms.rules.k is not None
    return Voting(
        vote=rules.vote,
        temperature=rules.temperature if rules.vote == "softmax" else None,
        chosen_k=result.choice.k,
        how="given" if given else "val",
        max_k=None if given else terms.max_k,
        rules="paper" if rules.paper else "default",
        ties=ties or "the class that was met first",
        several=splits.coding.several,
        val=splits.validation,
        val_scores=tuple(result.choice.scores.tolist()),
    )
