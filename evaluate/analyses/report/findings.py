"""What a report shows of each collection, measured one after the other; only what the page needs is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from cbmir.errors import FilterError, ProtocolError
from cbmir.evaluate.analyses.classification.knn import KnnTerms, VoteRules, evaluate_classification
from cbmir.evaluate.analyses.classification.report import ClassificationReport
from cbmir.evaluate.analyses.classification.splits import VALIDATION
from cbmir.evaluate.analyses.comparison import ComparedEncoder, compare_scores, compared_encoder
from cbmir.evaluate.analyses.comparison_report import ComparisonReport
from cbmir.evaluate.analyses.report.cases import Case, cases_of
from cbmir.evaluate.analyses.report.embedding_map import EmbeddingMap, map_of
from cbmir.evaluate.analyses.report.terms import AVERAGE_PRECISION, CURVE_K, ReportTerms
from cbmir.evaluate.analyses.retrieval import Measurement, measure, summarise
from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
from cbmir.evaluate.metrics import METRICS, micro, valued
from cbmir.evaluate.protocol import RetrievalProtocol, existing
from cbmir.evaluate.ranking.description import resampler_of
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.results import Row
from cbmir.evaluate.significance import holm, intervals
from cbmir.filters import Where, resolve
from cbmir.fingerprint import EncoderCard
from cbmir.search.shelf import Shelf
from cbmir.store import Collection, CollectionInfo, Store

T = TypeVar("T")

FIXED_K = 5
"""Neighbours that vote where no validation image tells how many."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a collection.

    Attributes:
        retrieval: At the cutoffs of the tables, by group.
        curve: Precision of all queries at 1, 2, ... places, micro.
        compared_encoder: The scores that it is compared by.
        votes: How well neighbours tell the classes.
        how_k: In words, how the number of voting neighbours came about.
        cases: The best and the worst queries.
    """

    retrieval: RetrievalReport
    curve: tuple[Row, ...]
    compared_encoder: ComparedEncoder
    votes: ClassificationReport
    how_k: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one collection.

    Attributes:
        collection: Its name.
        card: Its encoder.
        info: Its size, and what holds it.
        measured: Its figures; None where it can't be measured.
        reason: Why not; empty otherwise.
        drawn: Its map; None where there is none.
        no_map: Why not; empty otherwise.
    """

    collection: str
    card: EncoderCard
    info: CollectionInfo
    measured: Measured | None
    reason: str
    drawn: EmbeddingMap | None
    no_map: str


def find(store: Store, name: str, terms: ReportTerms) -> Finding:
    """Measure one collection, and let go of it.

    Raises:
        CollectionError: there is none of this name.
        StoreError: the store can't be read.
    """
    with store.open(name) as collection:
        session = Session(collection)
        measured, reason = _attempt(lambda: _measured(session, terms))
        drawn, no_map = None, "none was asked for"
        if terms.projection != "none":
            drawn, no_map = _attempt(lambda: _map(session, terms))
        return Finding(name, collection.card, collection.info(), measured, reason, drawn, no_map)


def compare_measured(measured: Sequence[Measured], deepest: int) -> ComparisonReport:
    """Compare collections with each other at the cutoffs of the tables.

    Of the mean average precision the deepest cutoff counts alone; Holm's correction is for the tests that are left.

    Args:
        measured: Two or more.
        deepest: The deepest of the cutoffs.

    Raises:
        ProtocolError: no query is in all of them.
    """
    report = compare_scores([item.compared_encoder for item in measured])
    rows = [row for row in report.rows if row.measure != AVERAGE_PRECISION or row.k == deepest]
    adjusted = holm(np.array([row.p for row in rows]), [row.test for row in rows])
    return replace(report, rows=tuple(replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)))


def _attempt(make: Callable[[], T]) -> tuple[T | None, str]:
    """What is made and no reason, or nothing and the reason why it can't be on these terms."""
    try:
        return make(), ""
    except (ProtocolError, FilterError) as error:
        return None, str(error)


def _map(session: Session, terms: ReportTerms) -> EmbeddingMap:
    where = resolve(terms.where, session.collection)
    return map_of(session.collection, where, terms.projection, terms.protocol.seed, session.ids(where))


def _measured(session: Session, terms: ReportTerms) -> Measured:
    """One scroll and one ranking serve retrieval, vote and cases: test and validation images ask together."""
    votes = replace(terms.deep, relevance="any", by=())
    val = VALIDATION + terms.where
    labelled = _labelled(session.collection, votes, val)
    session.expect(terms.deep, *([replace(votes, queries=val)] if labelled else []))
    deep = measure(session, terms.deep)
    shown = _at(deep, terms.cutoffs)
    voted, how_k = _votes(session, votes, val if labelled else None)
    return Measured(
        retrieval=summarise(shown),
        curve=_curve(deep, terms.measure),
        compared_encoder=compared_encoder(shown),
        votes=voted,
        how_k=how_k,
        cases=cases_of(session.collection, deep, Shelf(session.collection, terms.root), terms.pictures),
    )


def _at(measurement: Measurement, cutoffs: tuple[int, ...]) -> Measurement:
    """The same answers, looked at at other cutoffs."""
    trial = measurement.trial
    protocol = replace(trial.protocol, k=cutoffs)
    return replace(
        measurement, trial=replace(trial, protocol=protocol), setting=replace(measurement.setting, k=cutoffs)
    )


def _curve(measurement: Measurement, name: str) -> tuple[Row, ...]:
    """Precision at each place up to `CURVE_K` or the size of the gallery."""
    trial = measurement.trial
    protocol = trial.protocol
    ((search, answers),) = measurement.answers.items()
    reach = min(CURVE_K, len(trial.gallery))
    scores = METRICS[name](answers.gains)[:, :reach]
    means, counts = micro(scores), valued(scores)
    low, high = np.full((2, reach), np.nan)
    if protocol.draws:
        ends = intervals(scores, np.zeros(len(scores), np.int32), resampler_of(trial))[0]
        low, high = ends.low, ends.high
    coverage = float(measurement.relevance.covered.mean())
    return tuple(
        Row(name, k, "micro", "all", float(mean), int(n), coverage, search, float(below), float(above))
        for k, mean, n, below, above in zip(range(1, reach + 1), means, counts, low, high, strict=True)
    )


def _votes(session: Session, protocol: RetrievalProtocol, val: Where | None) -> tuple[ClassificationReport, str]:
    if val is not None:
        knn = KnnTerms(max_k=CURVE_K, val=val, measures=("accuracy",))
        return evaluate_classification(session, protocol, knn), f"the best of 1 to {CURVE_K} on validation images"
    knn = KnnTerms(rules=VoteRules(k=FIXED_K), measures=("accuracy",))
    report = evaluate_classification(session, protocol, knn)
    return report, f"fixed: no validation image (split=val) has {protocol.label}"


def _labelled(collection: Collection, protocol: RetrievalProtocol, where: Where) -> bool:
    """Whether an image with a label satisfies a filter."""
    try:
        return bool(collection.facet(protocol.label, existing(where, collection, "val"), limit=1))
    except ProtocolError:
        return False
