"""How sure a figure is: bootstrap and randomisation over patients.

Images of one patient resemble each other, so that their scores are no independent observations. Everything here draws
whole clusters of queries, usually the images of a patient; intervals and tests over single images would promise more
than the data hold.

    resampler = Resampler(patients)
    micro, macro = intervals(scores, classes, resampler)
    test = paired_test(scores, scores_of_another_encoder, resampler)
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from cbmir.errors import ProtocolError
from cbmir.evaluate.metrics import Codes, Scores, group_sums, macro, micro, valued

DRAWS = 10_000
"""The lower end of a 95% interval is then the 250th of the draws; another seed moves it by about 1% of the width."""

BLOCK_CELLS = 1 << 22
"""Draws x clusters held at once: 16 MiB of counts."""

_TIE = 1e-9
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
    """

    clusters: Codes
    draws: int = DRAWS
    seed: int = 0

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

    def interval(self, values: Scores) -> "Interval":
        """The 95% interval of figures computed from `blocks`; NaN where there are fewer than two clusters.

        Args:
            values: (draws, m) the figures of each draw.
        """
        if self.count < 2:
            return Interval(*np.full((2, values.shape[1]), np.nan))
        return Interval(*percentile_interval(values))

    def _sizes(self) -> Iterator[int]:
        """Draws of each block."""
        if not self.count:
            return
        step = max(1, BLOCK_CELLS // self.count)
        for start in range(0, self.draws, step):
            yield min(step, self.draws - start)


@dataclass(frozen=True, slots=True)
class Interval:
    """95% intervals of m figures.

    Attributes:
        low: (m,) lower ends, NaN where there is no interval.
        high: (m,) upper ends.
    """

    low: Scores
    high: Scores


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of m figures of two systems.

    Attributes:
        difference: (m,) mean of the first less mean of the second.
        p: (m,) two-sided p-values, at least 1 / (draws + 1); NaN where no query has both values.
        n: (m,) queries that have both values.
    """

    difference: Scores
    p: Scores
    n: NDArray[np.int64]


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


def percentile_interval(values: Scores) -> tuple[Scores, Scores]:
    """Lower and upper ends of the 95% intervals of m figures: the 2.5th and 97.5th percentile.

    Efron, "Bootstrap methods: another look at the jackknife", 1979, doi:10.1214/aos/1176344552; between two draws the
    percentile is interpolated.

    Args:
        values: (draws, m) the figures of each draw; a NaN, of a draw without a value, is left out.

    Returns:
        Two (m,) arrays, NaN where no draw has a value.
    """
    ends = np.full((2, values.shape[1]), np.nan)
    there = ~np.isnan(values).all(axis=0)
    if there.any():
        ends[:, there] = np.nanquantile(values[:, there], (0.025, 0.975), axis=0)
    return ends[0], ends[1]


def intervals(scores: Scores, classes: Codes, resampler: Resampler) -> tuple[Interval, Interval]:
    """95% intervals of the micro and macro means of per-query scores.

    NaN are left out, as in the means. A class that gets no query in a draw is left out of that draw's macro mean; as
    this is the lot of rare classes, which may be the low ones, the draws are moved so that their mean is the figure. A
    column of which fewer than two clusters have a value has no interval. The differences of two systems' scores are
    scores too.

    Time grows with draws x clusters, and with draws x (cluster, class) pairs x columns: on two cores 10,000 draws of
    6,500 queries of 2,000 patients, 40 classes and 4 columns take about a second, of 200,000 queries of 60,000 patients
    about 10. Memory beyond the scores: a few `BLOCK_CELLS`, and 16 bytes a draw and column.
    Draws are summed in single precision: the ends are right to about 1e-6 of the spread of the scores.

    Args:
        scores: (queries, m) values.
        classes: (queries,) code of each query's class, 0 or more.
        resampler: Of the same queries.

    Returns:
        The intervals of the m micro means and of the m macro means.

    Raises:
        ProtocolError: the queries are not the resampler's.
    """
    _check_queries(len(resampler.clusters), scores.shape, classes.shape)
    centre = micro(scores)  # what all scores share would only cost digits
    parts = _class_sums(scores - centre, classes, resampler)
    columns = scores.shape[1]
    micros, macros = np.empty((2, resampler.draws, columns))
    done = 0
    with threadpool_limits(1, "blas"):  # many small products: threads would cost more than they bring
        for block in resampler.blocks():
            rows = slice(done, done := done + len(block))
            micros[rows], macros[rows] = (means + centre for means in _means(block, parts, columns))
    macros = _moved(macros, macro(scores, classes), scores)
    lone = np.count_nonzero(group_sums(~np.isnan(scores), resampler.codes), axis=0) < 2
    micros[:, lone] = macros[:, lone] = np.nan
    return resampler.interval(micros), resampler.interval(macros)


def paired_test(first: Scores, second: Scores, resampler: Resampler, classes: Codes | None = None) -> Comparison:
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

    Raises:
        ProtocolError: the queries are not the resampler's, or the scores differ in shape.
    """
    labels = np.zeros(len(first), np.int64) if classes is None else classes
    _check_queries(len(resampler.clusters), first.shape, labels.shape)
    if first.shape != second.shape:
        raise ProtocolError(f"scores of shape {first.shape} can't be compared with scores of shape {second.shape}")
    gaps = first - second
    n = valued(gaps)
    shares = group_sums(np.nan_to_num(gaps * _weights(gaps, labels)), resampler.codes)
    totals = shares.sum(axis=0)
    least = np.abs(totals) - _TIE * np.abs(shares).sum(axis=0)
    extreme = np.ones(len(totals), np.int64)
    for block in resampler.flips():
        swapped = totals - 2 * (block.astype(np.float64) @ shares)
        extreme += np.count_nonzero(np.abs(swapped) >= least, axis=0)
    p = extreme / (resampler.draws + 1)
    return Comparison(np.where(n > 0, totals, np.nan), np.where(n > 0, p, np.nan), n)


def holm(p: Scores) -> Scores:
    """P-values adjusted for h comparisons, so that the chance of any false alarm stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979; valid
    however the tests depend on each other.

    Args:
        p: (h,) p-values of one family; a NaN is no test and stays NaN.
    """
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
    wins, losses = np.count_nonzero(gaps > _TIE, axis=0), np.count_nonzero(gaps < -_TIE, axis=0)
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


def _class_sums(scores: Scores, classes: Codes, resampler: Resampler) -> list[_ClassSums]:
    """One part a class: a draw then needs no more than a small matrix product a class."""
    pairs, rows = np.unique(classes.astype(np.int64) * resampler.count + resampler.codes, return_inverse=True)
    there = ~np.isnan(scores)
    sums = group_sums(np.hstack([np.where(there, scores, 0), there]), rows).astype(np.float32)
    owners, clusters = np.divmod(pairs, max(resampler.count, 1))
    starts = np.flatnonzero(np.diff(owners)) + 1
    return [_ClassSums(*part) for part in zip(np.split(clusters, starts), np.split(sums, starts), strict=True)]


def _means(block: NDArray[np.float32], parts: list[_ClassSums], columns: int) -> tuple[Scores, Scores]:
    """Two (b, m) micro and macro means of the draws of a block."""
    totals = np.zeros((len(block), 2 * columns))
    means, classes = np.zeros((2, len(block), columns))
    for part in parts:
        sums = np.take(block, part.clusters, axis=1) @ part.sums
        totals += sums
        drawn = sums[:, columns:] > 0
        means += np.divide(sums[:, :columns], sums[:, columns:], out=np.zeros(drawn.shape), where=drawn)
        classes += drawn
    with np.errstate(invalid="ignore"):  # a draw without any value: 0/0 is NaN
        return totals[:, :columns] / totals[:, columns:], means / classes


def _moved(draws: Scores, figures: Scores, scores: Scores) -> Scores:
    """(draws, m) the draws around the figures, within the range of the scores."""
    there = ~np.isnan(draws).all(axis=0) & ~np.isnan(figures)
    moved = np.full(draws.shape, np.nan)
    if not there.any():
        return moved
    centred = draws[:, there] - np.nanmean(draws[:, there], axis=0) + figures[there]
    moved[:, there] = np.clip(centred, np.nanmin(scores[:, there], axis=0), np.nanmax(scores[:, there], axis=0))
    return moved


def _weights(scores: Scores, classes: Codes) -> Scores:
    """(queries, m) factors with which the scores sum to their macro mean; with one class, to their micro mean."""
    counts = group_sums(~np.isnan(scores), classes)
    with np.errstate(divide="ignore"):  # a class without a value: no score meets its weight
        weights: Scores = 1 / (counts * np.count_nonzero(counts, axis=0))
    return weights[classes]


def _check_queries(queries: int, scores: tuple[int, ...], classes: tuple[int, ...]) -> None:
    if len(scores) != 2 or scores[0] != queries or classes != (queries,):
        raise ProtocolError(f"scores of {scores} and classes of {classes} met the clusters of {queries} queries")
