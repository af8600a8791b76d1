"""How sure a figure is: bootstrap and randomisation over patients.

Images of one patient resemble each other, so that their scores are no independent observations. Everything here draws
whole clusters of queries, usually the images of a patient; intervals and tests over single images would promise more
than the data hold.

    resampler = Resampler(patients)
    micro, macro = intervals(scores, classes, resampler)
    test = paired_test(scores, scores_of_another_encoder, resampler)
"""

import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from cbmir.errors import ProtocolError
from cbmir.evaluate.intervals import Interval, Method, Spread, over_classes, resampled, shares
from cbmir.evaluate.metrics import Codes, Scores, group_sums, macro, micro, valued

DRAWS = 10_000
"""The lower end of a 95% interval is then the 250th of the draws; another seed moves it by about 1% of the width."""

BLOCK_CELLS = 1 << 22
"""Draws x clusters held at once: 16 MiB of counts."""

Rows = NDArray[np.integer[Any]]
"""Numbers of queries."""

TIE = 1e-9
"""Scores that differ by less are the same but for rounding, and so are means, in units of what they sum up."""


@dataclass(frozen=True, eq=False)
class Resampler:
    """Repeatable draws of clusters of queries.

    The same clusters, draws and seed give the same draws, whatever is computed from them, so that the figures of
    several measures rest on the same draws.

    Attributes:
        clusters: (queries,) code of each query's cluster; a negative code makes the query a cluster of its own.
        draws: How many; with 0 there are no intervals.
        seed: Of the random numbers.
        method: How draws become an interval, see `cbmir.evaluate.intervals.resampled`.
    """

    clusters: Codes
    draws: int = DRAWS
    seed: int = 0
    method: Method = "expanded"

    @functools.cached_property
    def codes(self) -> NDArray[np.int64]:
        """(queries,) number of each query's cluster, 0 to count - 1."""
        alone = self.clusters < 0
        distinct = np.asarray(self.clusters, np.int64).copy()
        distinct[alone] = distinct.max(initial=-1) + 1 + np.arange(np.count_nonzero(alone))
        return np.unique(distinct, return_inverse=True)[1].astype(np.int64, copy=False)

    @functools.cached_property
    def count(self) -> int:
        """Clusters. With fewer than two there is no interval; with fewer than about 20 intervals are too narrow."""
        return int(self.codes.max(initial=-1)) + 1

    @property
    def alone(self) -> int:
        """Queries that are clusters of their own, as their patient isn't known."""
        return int((self.clusters < 0).sum())

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Bootstrap draws of `count` clusters with replacement, the same at each call.

        Yields:
            (b, count) how often each cluster was drawn; the b sum to `draws`.
        """
        numbers = np.random.default_rng([self.seed, 0])
        for size in self._sizes():
            block = np.empty((size, self.count), np.float32)
            for row in block:
                row[:] = np.bincount(numbers.integers(self.count, size=self.count), minlength=self.count)
            yield block

    def flips(self) -> Iterator[NDArray[np.bool_]]:
        """Random halves of the clusters, each in or out with a chance of 1/2, the same at each call.

        Yields:
            (b, count) whether a cluster is in; the b sum to `draws`.
        """
        numbers = np.random.default_rng([self.seed, 1])
        for size in self._sizes():
            packed = numbers.integers(256, size=(size, (self.count + 7) // 8), dtype=np.uint8)
            yield np.unpackbits(packed, axis=1, count=self.count).view(np.bool_)

    def lacking(self) -> Iterator[NDArray[np.float32]]:
        """The whole sample without each cluster in turn, as a jackknife takes it; (b, count), like `blocks`."""
        start = 0
        for size in self._sizes(self.count):
            block = np.ones((size, self.count), np.float32)
            block[np.arange(size), np.arange(start, start := start + size)] = 0
            yield block

    def _sizes(self, rows: int | None = None) -> Iterator[int]:
        """Draws, or other rows, of each block."""
        if not self.count:
            return
        rows = self.draws if rows is None else rows
        step = max(1, BLOCK_CELLS // self.count)
        for start in range(0, rows, step):
            yield min(step, rows - start)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of m figures of two systems.

    Attributes:
        difference: (m,) mean of the first less mean of the second.
        p: (m,) two-sided p-values, at least 1 / (draws + 1); NaN where no query has both values.
        n: (m,) queries that have both values.
        keys: (m,) equal where the test is the same but for a factor: as many tests as there are keys were made.
    """

    difference: Scores
    p: Scores
    n: NDArray[np.int64]
    keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """On how many queries the first of two systems did better; (m,) each.

    Attributes:
        wins: Its score is higher.
        ties: The scores are the same.
        losses: Its score is lower.
    """

    wins: NDArray[np.int64]
    ties: NDArray[np.int64]
    losses: NDArray[np.int64]


def intervals(
    scores: Scores, classes: Codes, resampler: Resampler, owners: Rows | None = None
) -> tuple[Interval, Interval]:
    """95% intervals of the micro and macro means of per-query scores.

    NaN are left out, as in the means. Some resamples contain no query of a rare class: there the class keeps the mean
    that it has in the whole sample, so that every resample is a mean over the same classes. A column of which fewer
    than two clusters have a value has no interval. The differences of two systems' scores are scores too.

    Time grows with draws x clusters, and with draws x (cluster, class) pairs x columns: on two cores 10,000 draws of
    6,500 queries of 2,000 patients, 40 classes and 4 columns take about a second, of 200,000 queries of 60,000 patients
    about 10. Memory beyond the scores: a few `BLOCK_CELLS`, and 16 bytes a draw and column.
    Draws are summed in single precision: the ends are right to about 1e-6 of the spread of the scores.

    Args:
        scores: (queries, m) values.
        classes: (queries,) code of each query's class, 0 or more; or with `owners`, one a query and class.
        resampler: Of the same queries.
        owners: (pairs,) the query of each of `classes`, where a query may have several; None where it has one.

    Returns:
        The intervals of the m micro means and of the m macro means.

    Raises:
        ProtocolError: the queries are not the resampler's.
    """
    _check_queries(len(resampler.clusters), scores, classes, owners)
    if not len(scores):
        return Interval.none(scores.shape[1]), Interval.none(scores.shape[1])
    centre = micro(scores)  # what all scores share would only cost digits
    sums = _Sums.of(scores - centre, classes, resampler, owners)
    values = [sums.means(block) for block in resampler.blocks()]
    jackknife = [sums.means(block) for block in resampler.lacking()] if resampler.method == "bca" else []
    means = micro(scores), macro(scores if owners is None else scores[owners], classes)
    clusters = np.count_nonzero(group_sums(~np.isnan(scores), resampler.codes), axis=0)
    ranges = np.full((2, scores.shape[1]), np.nan)
    there = clusters > 0
    ranges[:, there] = np.nanmin(scores[:, there], axis=0), np.nanmax(scores[:, there], axis=0)
    found = []
    for average, figures in enumerate(means):
        draws, without = (
            np.concatenate([np.empty((0, scores.shape[1])), *(part[average] + centre for part in parts)])
            for parts in (values, jackknife)
        )
        interval = (
            over_classes(draws, sums.spread(resampler.count), resampler.method, figures, without)
            if average
            else resampled(draws, clusters, resampler.method, figures, without)
        )
        interval = interval.within(*ranges)
        if resampler.method == "wilson" and not average:
            interval = _shares(scores, interval, resampler)
        found.append(interval.holding(figures))
    return found[0], found[1]


def _shares(scores: Scores, others: Interval, resampler: Resampler) -> Interval:
    """The intervals with Wilson's where all scores of a column are 0 or 1."""
    there = ~np.isnan(scores)
    binary = ((scores == 0) | (scores == 1) | ~there).all(axis=0)
    tables = (group_sums(table, resampler.codes) for table in (np.where(there, scores, 0), there))
    ours = shares(*tables)
    return Interval(np.where(binary, ours.low, others.low), np.where(binary, ours.high, others.high))


def paired_test(
    first: Scores, second: Scores, resampler: Resampler, classes: Codes | None = None, owners: Rows | None = None
) -> Comparison:
    """Randomisation test of the difference of two systems' means on the same queries.

    If the systems were alike, the two scores of a query could as well be swapped; all queries of a cluster are swapped
    together, as they are no independent observations. The p-value is the share of random swaps with a difference of at
    least the size observed, the observed one counted among them: Smucker et al., "A comparison of statistical
    significance tests for information retrieval evaluation", 2007, doi:10.1145/1321440.1321528.

    Args:
        first: (queries, m) scores; a query with a NaN in either is left out.
        second: (queries, m) scores of the other system.
        resampler: Of the same queries.
        classes: (queries,) code of each query's class to test the macro means; None tests the micro means.
        owners: As in `intervals`.

    Raises:
        ProtocolError: the queries are not the resampler's, or the scores differ in shape.
    """
    labels = np.zeros(len(first), np.int64) if classes is None else classes
    _check_queries(len(resampler.clusters), first, labels, owners)
    if first.shape != second.shape:
        raise ProtocolError(f"scores of shape {first.shape} can't be compared with scores of shape {second.shape}")
    gaps = first - second
    n = valued(gaps)
    rows = np.arange(len(gaps)) if owners is None else owners
    shares = group_sums(np.nan_to_num(gaps[rows] * _weights(gaps[rows], labels)), resampler.codes[rows])
    totals = shares.sum(axis=0)
    least = np.abs(totals) - TIE * np.abs(shares).sum(axis=0)
    extreme = np.ones(len(totals), np.int64)
    for block in resampler.flips():
        swapped = totals - 2 * (block.astype(np.float64) @ shares)
        extreme += np.count_nonzero(np.abs(swapped) >= least, axis=0)
    p = extreme / (resampler.draws + 1)
    return Comparison(np.where(n > 0, totals, np.nan), np.where(n > 0, p, np.nan), n, _keys(shares))


def least_draws(tests: int, level: float = 0.05) -> int:
    """Random swaps with which the smallest p-value, after Holm's correction for some tests, can reach a level."""
    return max(0, math.ceil(round(tests / level, 9)) - 1)


def holm(p: Scores, keys: Sequence[Hashable] | None = None) -> Scores:
    """P-values adjusted for h comparisons, so that the chance of any false alarm stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979; valid
    however the tests depend on each other.

    Args:
        p: (h,) p-values of one family; a NaN is no test and stays NaN.
        keys: (h,) equal for rows that are one test, which counts once; None where all are different.
    """
    if keys is not None:
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        kept = sorted(first.values())
        once = dict(zip(kept, holm(p[kept]), strict=True))
        return np.array([once[first[key]] for key in keys], np.float64)
    adjusted: Scores = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # a NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def tally(first: Scores, second: Scores) -> Tally:
    """Count the queries on which one system beats another; a query with a NaN in either is left out.

    Scores that differ in the last digits only, as sums in another order do, are the same.

    Args:
        first: (queries, m) scores.
        second: (queries, m) scores of the other system.
    """
    gaps = first - second
    wins, losses = np.count_nonzero(gaps > TIE, axis=0), np.count_nonzero(gaps < -TIE, axis=0)
    return Tally(wins, valued(gaps) - wins - losses, losses)


@dataclass(frozen=True, slots=True)
class _ClassSums:
    """The scores of one class, summed a cluster.

    Attributes:
        clusters: (c,) the clusters that have queries of the class, rising.
        sums: (c, 2m) sums of the scores and counts of the queries that have one, a column each.
    """

    clusters: NDArray[np.int64]
    sums: NDArray[np.float32]

    def means(self, block: NDArray[np.float32]) -> Scores:
        """(b, m) means of each draw; of the whole sample where a draw has no query, NaN where that has none either."""
        columns = self.sums.shape[1] // 2
        drawn, whole = np.take(block, self.clusters, axis=1) @ self.sums, self.sums.sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            means = np.tile(whole[:columns] / whole[columns:], (len(block), 1))
        np.divide(drawn[:, :columns], drawn[:, columns:], out=means, where=drawn[:, columns:] > 0)
        return means


@dataclass(frozen=True, slots=True)
class _Sums:
    """The scores of all queries, and of each class, summed a cluster.

    Attributes:
        whole: All queries.
        classes: A part a class: a draw then needs no more than a small matrix product a class.
    """

    whole: _ClassSums
    classes: list[_ClassSums]

    @classmethod
    def of(cls, scores: Scores, classes: Codes, resampler: Resampler, owners: Rows | None) -> "_Sums":
        """Sum scores; arguments are those of `intervals`."""
        there = ~np.isnan(scores)
        table = np.hstack([np.where(there, scores, 0), there])
        whole = _ClassSums(np.arange(resampler.count), group_sums(table, resampler.codes).astype(np.float32))
        table, codes = (table, resampler.codes) if owners is None else (table[owners], resampler.codes[owners])
        pairs, rows = np.unique(classes.astype(np.int64) * resampler.count + codes, return_inverse=True)
        sums = group_sums(table, rows).astype(np.float32)
        belongs, clusters = np.divmod(pairs, max(resampler.count, 1))
        starts = np.flatnonzero(np.diff(belongs)) + 1
        parts = zip(np.split(clusters, starts), np.split(sums, starts), strict=True)
        return cls(whole, [_ClassSums(*part) for part in parts])

    def spread(self, count: int) -> Spread:
        """How much the macro means vary."""
        columns = self.whole.sums.shape[1] // 2
        tables = ((part.clusters, part.sums.astype(np.float64)) for part in self.classes)
        parts = ((clusters, table[:, :columns], table[:, columns:]) for clusters, table in tables)
        return Spread.of(parts, count, columns)

    def means(self, block: NDArray[np.float32]) -> tuple[Scores, Scores]:
        """Two (b, m) micro and macro means of the draws of a block; a draw without any value keeps the sample's."""
        columns = self.whole.sums.shape[1] // 2
        total, classes = np.zeros((len(block), columns)), np.zeros(columns)
        with threadpool_limits(1, "blas"):  # many small products: threads would cost more than they bring
            for part in self.classes:
                means = part.means(block)
                total += np.nan_to_num(means)
                classes += ~np.isnan(means[0])
            with np.errstate(invalid="ignore"):
                return self.whole.means(block), total / classes


def _keys(shares: Scores) -> tuple[bytes, ...]:
    """One a column: what each cluster adds to the difference, relative to the largest."""
    scale = np.abs(shares).max(axis=0, initial=0)
    relative = np.round(np.divide(shares, scale, out=np.zeros(shares.shape), where=scale > 0), 9) + 0.0
    return tuple(column.tobytes() for column in relative.T)


def _weights(scores: Scores, classes: Codes) -> Scores:
    """(queries, m) factors with which the scores sum to their macro mean; with one class, to their micro mean."""
    counts = group_sums(~np.isnan(scores), classes)
    with np.errstate(divide="ignore"):  # a class without a value: no score meets its weight
        weights: Scores = 1 / (counts * np.count_nonzero(counts, axis=0))
    return weights[classes]


def _check_queries(queries: int, scores: Scores, classes: Codes, owners: Rows | None = None) -> None:
    pairs = (queries,) if owners is None else owners.shape
    if scores.ndim != 2 or len(scores) != queries or classes.shape != pairs:
        raise ProtocolError(
            f"scores of {scores.shape} and classes of {classes.shape} met the clusters of {queries} queries"
        )
