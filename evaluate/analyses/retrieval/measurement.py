"""The retrieval measurement, from a collection to its report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.analyses.retrieval.report import RetrievalReport
from cbmir.evaluate.analyses.retrieval.setting import Setting
from cbmir.evaluate.metrics import Gains, Scores, at, macro, micro, valued
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.ranking.description import describe, group_masks, patients
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import Relevance, judge
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import Trial
from cbmir.evaluate.results import Average, Row
from cbmir.evaluate.significance import Interval, Resampler, intervals
from cbmir.fingerprint import EncoderCard
from cbmir.search.ranker import Ranking
from cbmir.store import Collection


@dataclass(frozen=True, slots=True)
class Answers:
    """What one search found, and how right it was.

    Attributes:
        neighbours: What it found.
        gains: The same, judged.
    """

    neighbours: Ranking
    gains: Gains


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that a retrieval measurement knows, before means are taken.

    Attributes:
        trial: Queries and gallery.
        exclusion: What the queries were not to find.
        relevance: Which answers are right.
        answers: By search.
        together: The answers of the first search when nothing but the query itself is excluded; None where that would
            change nothing.
        setting: The terms.
        card: The encoder of the vectors.
    """

    trial: Trial
    exclusion: Exclusion
    relevance: Relevance
    answers: Mapping[str, Answers]
    together: Answers | None
    setting: Setting
    card: EncoderCard

    def scores(self, search: str, measure: str, k: int) -> Scores:
        """(queries,) one measure of every query, NaN where it has none."""
        return at(measure, self.answers[search].gains, (k,))[:, 0]


def evaluate_retrieval(collection: Collection | Session, protocol: RetrievalProtocol | None = None) -> RetrievalReport:
    """Measure how well a collection retrieves.

    Args:
        collection: What is measured, or the session of a run that measures more.
        protocol: The terms; the default asks with ``split=test`` and searches ``split=train``.

    Raises:
        ProtocolError: there are no queries, no gallery or no labels, or the collection changed meanwhile.
    """
    return summarise(measure(collection, protocol or RetrievalProtocol()))


def measure(collection: Collection | Session, protocol: RetrievalProtocol) -> Measurement:
    """Find and judge the neighbours of every query; see `evaluate_retrieval`."""
    session = Session.of(collection)
    trial = session.trial(protocol)
    exclusion = Exclusion(trial, protocol.excluded_fields)
    free = Exclusion(trial, ())
    relevance, grades = session.relevance(trial, exclusion), session.grades(trial, exclusion)
    contrast = exclusion.images > free.images
    answers: dict[str, Answers] = {}
    together = None
    for number, search in enumerate(protocol.searches):
        if number == 0 and contrast:
            plain, found = session.rank(trial, search, ((), protocol.excluded_fields), protocol.depth)
            gains = judge(trial, session.relevance(trial, free), session.grades(trial, free), plain.positions)
            together = Answers(plain, gains)
        else:
            (found,) = session.rank(trial, search, (protocol.excluded_fields,), protocol.depth)
        answers[search] = Answers(found, judge(trial, relevance, grades, found.positions))
    setting = describe(session.collection, trial, exclusion, relevance)
    return Measurement(trial, exclusion, relevance, answers, together, setting, session.collection.card)


def summarise(measurement: Measurement) -> RetrievalReport:
    """Take means, and find how sure they are."""
    trial = measurement.trial
    protocol = trial.protocol
    groups = group_masks(trial)
    rows: list[Row] = []
    for search, answers in measurement.answers.items():
        rows += _rows(trial, answers.gains, groups, search)
    together: list[Row] = []
    if measurement.together is not None:
        everyone = {"all": groups["all"]}
        together += _rows(trial, measurement.together.gains, everyone, protocol.searches[0])
    return RetrievalReport(measurement.setting, measurement.card, tuple(rows), tuple(together))


def _rows(trial: Trial, gains: Gains, groups: Mapping[str, NDArray[np.bool_]], search: str) -> Iterator[Row]:
    protocol = trial.protocol
    columns = [(name, k) for name in protocol.measures for k in protocol.k]
    scores = np.hstack([at(name, gains, protocol.k) for name in protocol.measures])
    covered = gains.relevant > 0
    clusters = patients(trial)
    for group, rows in groups.items():
        mine, classes = scores[rows], trial.classes[rows]
        counts, coverage = valued(mine), float(covered[rows].mean())
        means: dict[Average, Scores] = {"micro": micro(mine), "macro": macro(mine, classes)}
        ends = dict(zip(means, _intervals(mine, classes, clusters[rows], protocol), strict=True))
        for column, (name, k) in enumerate(columns):
            for average, values in means.items():
                row = Row(name, k, average, group, float(values[column]), int(counts[column]), coverage, search)
                interval = ends[average]
                yield replace(row, low=float(interval.low[column]), high=float(interval.high[column]))


def _intervals(
    scores: Scores, classes: NDArray[np.int32], clusters: NDArray[np.int64], protocol: RetrievalProtocol
) -> tuple[Interval, Interval]:
    if not protocol.draws:
        none = Interval(*np.full((2, scores.shape[1]), np.nan))
        return none, none
    return intervals(scores, classes, Resampler(clusters, protocol.draws, protocol.seed))
