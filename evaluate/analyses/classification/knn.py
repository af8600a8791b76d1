"""Classification by the nearest gallery images, from a collection to its report."""

from dataclasses import dataclass, field, replace

import numpy as np

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import EVERYONE, Cohort
from cbmir.evaluate.analyses.classification.classify import Asked, Classification, VoteRules, classify
from cbmir.evaluate.analyses.classification.labels import label_figures, named
from cbmir.evaluate.analyses.classification.method import LeftOut, Voting
from cbmir.evaluate.analyses.classification.report import MEASURES, ClassificationReport
from cbmir.evaluate.analyses.classification.splits import VALIDATION, MissingValidationError, Splits, read_splits
from cbmir.evaluate.analyses.classification.votes import Flags
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.ranking.description import describe, group_masks, patients
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import Trial
from cbmir.evaluate.results import Row
from cbmir.evaluate.significance import Resampler
from cbmir.filters import Where
from cbmir.search.ranker import Ranking
from cbmir.store import Collection

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
    splits = _read(session, protocol, terms)
    exclusion, free = (Exclusion(splits.test, fields) for fields in (protocol.excluded_fields, ()))
    contrast = exclusion.images > free.images
    found = _found(session, splits, (*([()] if contrast else []), protocol.excluded_fields))
    relevance = session.relevance(splits.test, exclusion)
    several = splits.coding.several
    result = _classified(splits, found[-1], cohort_of(splits.test, relevance.covered), terms.rules)
    together: tuple[Row, ...] = ()
    if contrast:
        covered = session.relevance(splits.test, free).covered
        plain = replace(cohort_of(splits.test, covered), groups={}, resampler=None)
        together = _rows(_classified(splits, found[0], plain, terms.rules), protocol, terms, several)
    gallery = np.bincount(splits.gallery().pairs()[1], minlength=len(splits.coding.classes))
    return ClassificationReport(
        setting=replace(
            describe(session.collection, splits.test, exclusion, relevance),
            measures=named(terms.measures, several),
            k=(result.choice.k,),
        ),
        encoder=session.collection.card,
        method=_voting(splits, result, terms),
        rows=_rows(result, protocol, terms, several),
        classes=splits.coding.classes,
        confusion=result.assessment.confusion,
        left_out=LeftOut.of(
            result.assessment, splits.coding.classes, np.flatnonzero(gallery == 0).tolist(), result.voteless
        ),
        together=together,
        labels=label_figures(result.verdicts, splits.coding.classes) if several else (),
    )


def cohort_of(trial: Trial, covered: Flags) -> Cohort:
    """The queries of a trial with their groups and the draws of their patients."""
    protocol = trial.protocol
    resampler = Resampler(patients(trial), protocol.draws, protocol.seed) if protocol.draws else None
    groups = group_masks(trial)
    return Cohort({name: groups[name] for name in groups if name != EVERYONE}, covered, resampler)


def _read(session: Session, protocol: RetrievalProtocol, terms: KnnTerms) -> Splits:
    if terms.rules.k is not None:
        return read_splits(session, protocol, None)
    try:
        return read_splits(session, protocol, terms.val)
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


def _voting(splits: Splits, result: Classification, terms: KnnTerms) -> Voting:
    rules, given = terms.rules, terms.rules.k is not None
    return Voting(
        vote=rules.vote,
        temperature=rules.temperature if rules.vote == "softmax" else None,
        chosen_k=result.choice.k,
        how="given" if given else "val",
        max_k=None if given else terms.max_k,
        rules="paper" if rules.paper else "default",
        several=splits.coding.several,
        val=splits.validation,
        val_scores=tuple(result.choice.scores.tolist()),
    )
