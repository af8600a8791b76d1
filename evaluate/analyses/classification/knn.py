"""Classification by the nearest gallery images, from a collection to its report."""

from dataclasses import dataclass, field, replace

import numpy as np

from cbmir.device import place
from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import EVERYONE, Cohort
from cbmir.evaluate.analyses.classification.classify import Asked, Classification, VoteRules, classify
from cbmir.evaluate.analyses.classification.labels import label_figures, named
from cbmir.evaluate.analyses.classification.method import LeftOut, Voting
from cbmir.evaluate.analyses.classification.report import MEASURES, ClassificationReport
from cbmir.evaluate.analyses.classification.splits import VALIDATION, MissingValidationError, Splits, read_splits
from cbmir.evaluate.analyses.classification.votes import Flags
from cbmir.evaluate.analyses.retrieval.measurement import describe, group_masks, patients
from cbmir.evaluate.analyses.retrieval.report import Row
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.neighbours import Neighbours, ask, scan
from cbmir.evaluate.ranking.relevance import find_relevance
from cbmir.evaluate.ranking.trial import Trial
from cbmir.evaluate.significance import Resampler
from cbmir.filters import Where
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
    collection: Collection, protocol: RetrievalProtocol, terms: KnnTerms | None = None
) -> ClassificationReport:
    """Measure how well the nearest gallery images tell the classes of the queries.

    Args:
        collection: What is measured.
        protocol: Who asks, what is searched by the first of its searches, and which label tells the classes; its
            measures and cutoffs have no part.
        terms: How neighbours vote; by default the mean vote of the best k of 1 to `MAX_K` on ``split=val``.

    Raises:
        ProtocolError: images or labels are missing, the terms don't fit, or the collection changed meanwhile.
    """
    terms = terms or KnnTerms()
    protocol = replace(protocol, k=(terms.depth,), searches=protocol.searches[:1])
    splits = _read(collection, protocol, terms)
    exclusion, free = (Exclusion(splits.test, fields) for fields in (protocol.excluded_fields, ()))
    contrast = exclusion.images > free.images
    found = _found(collection, splits.asked(), (*([()] if contrast else []), protocol.excluded_fields))
    relevance = find_relevance(splits.test, exclusion)
    several = splits.coding.several
    result = _classified(splits, found[-1], cohort_of(splits.test, relevance.covered), terms.rules)
    together: tuple[Row, ...] = ()
    if contrast:
        plain = replace(cohort_of(splits.test, find_relevance(splits.test, free).covered), groups={}, resampler=None)
        together = _rows(_classified(splits, found[0], plain, terms.rules), protocol, terms, several)
    gallery = np.bincount(splits.gallery().pairs()[1], minlength=len(splits.coding.classes))
    return ClassificationReport(
        setting=replace(
            describe(collection, splits.test, exclusion, relevance),
            measures=named(terms.measures, several),
            k=(result.choice.k,),
        ),
        encoder=collection.card,
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


def _read(collection: Collection, protocol: RetrievalProtocol, terms: KnnTerms) -> Splits:
    if terms.rules.k is not None:
        return read_splits(collection, protocol, None)
    try:
        return read_splits(collection, protocol, terms.val)
    except MissingValidationError as error:
        raise ProtocolError(f"k is chosen on validation images: {error}; or give -k") from error


def _found(collection: Collection, trial: Trial, terms: tuple[tuple[str, ...], ...]) -> list[Neighbours]:
    """The neighbours of all queries for each of some sets of fields to exclude by, the widest last."""
    protocol = trial.protocol
    exclusions = tuple(Exclusion(trial, fields) for fields in terms)
    (search,) = protocol.searches
    if search == "exact":
        return scan(collection, trial, exclusions, protocol.depth, place(protocol.device, "fp32").device)
    exact = search == "qdrant-exact"
    return [ask(collection, trial, exclusion, protocol.depth, exact=exact) for exclusion in exclusions]


def _classified(splits: Splits, found: Neighbours, cohort: Cohort, rules: VoteRules) -> Classification:
    count = len(splits.test.queries)
    test = Asked(found.places[:count], found.scores[:count], splits.truth(splits.test))
    val = None
    if splits.val is not None:
        val = Asked(found.places[count:], found.scores[count:], splits.truth(splits.val))
    return classify(splits.gallery(), test, cohort, rules, val)


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
