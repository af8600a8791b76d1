"""Measures of a ranking: one small function each, at every cutoff at once.

A measure gives each query a value at each cutoff, NaN where its definition says 0/0; such queries are left out of its
means, and their share shows as coverage. To add one, decorate a function with `metric`; the command offers it at once.

In the docstrings R is the number of relevant images that a query may find, and a place without a hit is irrelevant.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import CutoffError, ProtocolError

Scores = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Gains:
    """The judged answers to all queries.

    Attributes:
        hits: (queries, depth) whether the image at this rank is relevant; False where there is no hit.
        relevant: (queries,) relevant gallery images that the query may find, whether they were found or not.
        grades: (queries, depth) graded relevance in rank order, 0 = nothing in common or no hit.
        ideal: (queries, depth) the highest grades that the gallery has for the query, falling.

    Raises:
        ProtocolError: the shapes don't fit, or a query found more relevant images than there are.
    """

    hits: NDArray[np.bool_]
    relevant: NDArray[np.int64]
    grades: NDArray[np.float32]
    ideal: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.hits.ndim != 2 or not self.hits.shape == self.grades.shape == self.ideal.shape:
            raise ProtocolError(
                f"hits of shape {self.hits.shape} met grades of {self.grades.shape} and an ideal of {self.ideal.shape}"
            )
        if self.relevant.shape != self.hits.shape[:1]:
            raise ProtocolError(f"hits of shape {self.hits.shape} met counts of shape {self.relevant.shape}")
        total = np.count_nonzero(self.hits, axis=1)
        if (surplus := np.flatnonzero(total > self.relevant)).size:
            row = surplus[0]
            raise ProtocolError(f"query {row} found {total[row]} relevant images where there are {self.relevant[row]}")

    @classmethod
    def binary(cls, hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> Self:
        """Answers that are right or wrong: grade 1 for each relevant image."""
        places = np.arange(hits.shape[-1])
        ideal = (places < relevant[:, np.newaxis]).astype(np.float32)
        return cls(hits, relevant, hits.astype(np.float32), ideal)

    @property
    def depth(self) -> int:
        """Places that were retrieved a query."""
        return int(self.hits.shape[1])

    @functools.cached_property
    def ranks(self) -> NDArray[np.int32]:
        """(depth,) 1, 2, 3, ...: the rank of each place, and the cutoff of each column."""
        return np.arange(1, self.depth + 1, dtype=np.int32)

    @functools.cached_property
    def found(self) -> NDArray[np.int32]:
        """(queries, depth) relevant images up to and with each place; summed once, read by most measures."""
        return np.cumsum(self.hits, axis=1, dtype=np.int32)

    @property
    def findable(self) -> NDArray[np.int32]:
        """(queries, depth) relevant images that the first k places could hold: min(k, R)."""
        return np.minimum(self.ranks, np.minimum(self.relevant, self.depth).astype(np.int32)[:, np.newaxis])

    @property
    def early(self) -> NDArray[np.bool_]:
        """(queries, depth) the relevant images at the first R places."""
        return self.hits & (self.ranks <= self.relevant[:, np.newaxis])


Measure = Callable[[Gains], Scores]

METRICS: dict[str, Measure] = {}
"""The measures by name; filled by `metric`. Each gives (queries, depth), column k - 1 for the cutoff k."""


def metric(name: str) -> Callable[[Measure], Measure]:
    """Register a measure under a name."""

    def register(measure: Measure) -> Measure:
        METRICS[name] = measure
        return measure

    return register


def at(name: str, gains: Gains, ks: Sequence[int]) -> Scores:
    """(queries, cutoffs) a measure at some cutoffs.

    Args:
        name: One of `METRICS`.
        gains: The judged answers.
        ks: Cutoffs in places, each 1 to depth.

    Raises:
        CutoffError: a cutoff lies outside 1 to depth.
    """
    for k in ks:
        if not 1 <= k <= gains.depth:
            raise CutoffError(f"{name} at {k} needs a cutoff in 1 to {gains.depth}, the places that were retrieved")
    return METRICS[name](gains)[:, np.asarray(ks, np.intp) - 1]


@metric("precision_capped")
def precision_capped(gains: Gains) -> Scores:
    """Share of relevant images in the first min(k, R) places; NaN where R is 0.

    The P@N of Denner et al., "Leveraging foundation models for content-based image retrieval in radiology", 2025,
    doi:10.1016/j.compbiomed.2025.110640; a query of a rare class can reach 1 at every k.
    """
    return _ratio(np.cumsum(gains.early, axis=1, dtype=np.int32), gains.findable)


@metric("precision")
def precision(gains: Gains) -> Scores:
    """Share of the first k places that hold a relevant image; 0 where R is 0."""
    return _ratio(gains.found, gains.ranks)


@metric("recall")
def recall(gains: Gains) -> Scores:
    """Share of all relevant images that the first k places hold; NaN where R is 0."""
    return _ratio(gains.found, gains.relevant[:, np.newaxis])


@metric("hit_rate")
def hit_rate(gains: Gains) -> Scores:
    """1 where the first k places hold a relevant image, else 0; 0 where R is 0.

    Metric learning calls it recall@k; here that is the share of the relevant images.
    """
    return (gains.found > 0).astype(np.float64)


@metric("mrr")
def mrr(gains: Gains) -> Scores:
    """1 / rank of the first relevant image, 0 where the first k places hold none; 0 where R is 0."""
    first = np.argmax(gains.hits, axis=1) + 1
    return _ratio(gains.found > 0, first[:, np.newaxis])


@metric("map")
def map_(gains: Gains) -> Scores:
    """Average precision at k: the sum of P@i over the relevant places i up to k, over min(k, R); NaN where R is 0.

    A denominator of all R could not reach 1 at a small k. One of the relevant images found, which some publications
    use, would forgive every image that was missed.
    """
    sums = _precisions(gains, gains.hits)
    np.cumsum(sums, axis=1, out=sums)
    return _ratio(sums, gains.findable, out=sums)


@metric("map_r")
def map_r(gains: Gains) -> Scores:
    """MAP@R: the sum of P@i over the relevant places i among the first R, over R.

    Musgrave et al., "A Metric Learning Reality Check", ECCV 2020, doi:10.1007/978-3-030-58595-2_41. It has no cutoff:
    all columns from R on are the same, and those before it are NaN, because they don't reach R places; so are all
    where R is 0.
    """
    return _from_r_on(gains, _precisions(gains, gains.early).sum(axis=1))


@metric("r_precision")
def r_precision(gains: Gains) -> Scores:
    """Share of the first R places that hold a relevant image; NaN at the cutoffs before R, and where R is 0.

    Manning et al., "Introduction to Information Retrieval", 2008, section 8.4. All columns from R on are the same.
    """
    return _from_r_on(gains, gains.early.sum(axis=1))


@metric("ndcg")
def ndcg(gains: Gains) -> Scores:
    """Discounted cumulative gain over that of the ideal ranking, with the grade as gain and log2(1 + rank) as discount.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, doi:10.1145/582415.582418, with
    the discount that trec_eval's ``ndcg_cut`` has. NaN where all grades of the gallery are 0; with graded relevance
    that is rarer than R = 0, as an image of the right modality has a grade without being relevant.
    """
    gained = _discounted(gains.grades, gains.ranks)
    return _ratio(gained, _discounted(gains.ideal, gains.ranks), out=gained)


@metric("majority_vote")
def majority_vote(gains: Gains) -> Scores:
    """1 where more than half of the first k places are relevant, else 0; 0 where R is 0.

    The mMV@k of searches in histopathology, in its strict form: half of the places is no majority, nor is being the
    most frequent of several classes.
    """
    return (gains.found > gains.ranks // 2).astype(np.float64)


def valued(scores: Scores) -> NDArray[np.int64]:
    """(m,) queries that have a value in each column of (queries, m) scores."""
    counts: NDArray[np.int64] = np.count_nonzero(~np.isnan(scores), axis=0)
    return counts


def micro(scores: Scores) -> Scores:
    """(m,) mean of each column of (queries, m) scores over the queries that have a value; NaN where none has."""
    return _ratio(np.nansum(scores, axis=0), valued(scores))


def macro(scores: Scores, classes: Codes) -> Scores:
    """Mean over the classes of each class's mean, over the queries that have a value; NaN where none has.

    Args:
        scores: (queries, m) values.
        classes: (queries,) code of each query's class, 0 or more.

    Returns:
        (m,) a mean for each column.
    """
    there = ~np.isnan(scores)
    return micro(_ratio(group_sums(np.where(there, scores, 0), classes), group_sums(there, classes)))


def group_sums(values: NDArray[Any], groups: Codes) -> Scores:
    """Sums over the rows of each group.

    Args:
        values: (n, m) numbers or truth values.
        groups: (n,) the group of each row, 0 or more.

    Returns:
        (highest group + 1, m) sums, 0 for a group without rows.
    """
    if not values.size:
        return np.zeros((0, values.shape[1]))
    columns = values.T.copy()  # once; else each column is picked out of all rows
    return np.stack([np.bincount(groups, weights=column) for column in columns], axis=1)


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any], out: Scores | None = None) -> Scores:
    """The quotient, NaN for 0/0."""
    with np.errstate(invalid="ignore"):
        quotient: Scores = np.divide(numerator, denominator, out=out)
    return quotient


def _precisions(gains: Gains, places: NDArray[np.bool_]) -> Scores:
    """(queries, depth) P@i at some of the places, 0 at the others."""
    precisions = precision(gains)
    precisions *= places
    return precisions


def _from_r_on(gains: Gains, sums: NDArray[Any]) -> Scores:
    """(queries, depth) what the first R places sum to, over R; NaN at the cutoffs before R."""
    reached = gains.ranks >= gains.relevant[:, np.newaxis]
    return np.where(reached, _ratio(sums, gains.relevant)[:, np.newaxis], np.nan)


def _discounted(grades: NDArray[np.float32], ranks: NDArray[np.int32]) -> Scores:
    """(queries, depth) discounted cumulative gain."""
    sums: Scores = grades / np.log2(ranks + 1.0)
    return np.cumsum(sums, axis=1, out=sums)
