"""95% intervals: from bootstrap resamples, of proportions, and of figures whose variance is known in closed form.

Everything is over clusters of queries, usually the images of a patient. None of the methods is right for every figure;
``docs/benchmarks.md`` has the coverage of each, measured by ``benchmarks/coverage.py``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from cbmir.evaluate.metrics import Scores

Method = Literal["expanded", "percentile", "bca", "wilson"]
METHODS: tuple[Method, ...] = ("expanded", "percentile", "bca", "wilson")
"""How intervals are made, see `resampled`; ``wilson`` is expanded for figures that are no share of queries."""

FEW = 20
"""With fewer clusters an interval is not to be relied on, whatever the method: results carry a warning."""

_TAIL = 0.025
_NORMAL = 1.959963984540054  # of the standard normal distribution, the point that a share of _TAIL lies above


@dataclass(frozen=True, slots=True)
class Interval:
    """95% intervals of m figures.

    Attributes:
        low: (m,) lower ends, NaN where there is no interval.
        high: (m,) upper ends.
    """

    low: Scores
    high: Scores

    @classmethod
    def none(cls, figures: int) -> "Interval":
        """No interval for any of some figures."""
        return cls(*np.full((2, figures), np.nan))

    def within(self, lowest: Any, highest: Any) -> "Interval":
        """The same, cut where a figure can't be: rounding puts ends a little outside."""
        return Interval(np.clip(self.low, lowest, highest), np.clip(self.high, lowest, highest))

    def holding(self, figures: Scores) -> "Interval":
        """The same, widened to the figure itself where skewed resamples leave it out."""
        return Interval(np.minimum(self.low, figures), np.maximum(self.high, figures))


def percentile_interval(values: Scores) -> tuple[Scores, Scores]:
    """Lower and upper ends of the 95% intervals of m figures: the 2.5th and 97.5th percentile.

    Efron, "Bootstrap methods: another look at the jackknife", 1979, doi:10.1214/aos/1176344552; between two draws the
    percentile is interpolated.

    Args:
        values: (draws, m) the figures of each draw; a NaN, of a draw without a value, is left out.

    Returns:
        Two (m,) arrays, NaN where no draw has a value.
    """
    tails = np.full(values.shape[1], _TAIL)
    return _quantiles(values, tails, 1 - tails)


def resampled(
    values: Scores,
    clusters: NDArray[np.int64],
    method: Method = "percentile",
    figures: Scores | None = None,
    jackknife: Scores | None = None,
) -> Interval:
    """The intervals of m figures from their bootstrap resamples.

    ``percentile``: see `percentile_interval`. It is too narrow with few clusters, as resamples of n clusters spread
    less than samples do, by a factor of sqrt((n - 1) / n), and as n is too small for the normal distribution.

    ``expanded``: percentiles further out, which mend both: those at which a normal distribution has as much in its tail
    as Student's t times that factor. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 69, 2015, doi:10.1080/00031305.2015.1089789, section 5.3.

    ``wilson``: as ``expanded``, for figures that are no share of queries; see `shares`.

    ``bca``: percentiles moved by the bias of the resamples and by how the variance changes with the figure. Efron,
    "Better Bootstrap Confidence Intervals", JASA 82, 1987, doi:10.1080/01621459.1987.10478410.

    Args:
        values: (draws, m) the figures of each draw; NaN are left out.
        clusters: (m,) clusters that have a value.
        method: One of `METHODS`.
        figures: (m,) the figures of the whole sample, for ``bca``.
        jackknife: (clusters, m) the figures without each cluster, for ``bca``.

    Returns:
        NaN where fewer than two clusters have a value.
    """
    tails = np.full((2, values.shape[1]), _TAIL)
    if method in ("expanded", "wilson"):
        tails[:] = _expanded(clusters)
    elif method == "bca" and figures is not None and jackknife is not None:
        tails = _accelerated(values, figures, jackknife)
    low, high = _quantiles(values, tails[0], 1 - tails[1])
    low[clusters < 2] = high[clusters < 2] = np.nan
    return Interval(low, high)


def wilson(shares: Scores, n: Scores, clusters: NDArray[np.int64]) -> Interval:
    """Wilson's score interval of proportions, with Student's t in place of the normal distribution.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927,
    doi:10.1080/01621459.1927.10502953. Unlike a percentile it has a width at 0 and at 1.

    Args:
        shares: (m,) proportions.
        n: (m,) independent observations that each is worth, see `effective`.
        clusters: (m,) clusters that they come from.

    Returns:
        NaN where there are fewer than two clusters.
    """
    quantile = _student(clusters)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = quantile**2 / n
        centre = (shares + square / 2) / (1 + square)
        half = quantile / (1 + square) * np.sqrt(shares * (1 - shares) / n + square / (4 * n))
        return Interval(np.where(clusters > 1, centre - half, np.nan), np.where(clusters > 1, centre + half, np.nan))


def shares(hits: Scores, totals: Scores) -> Interval:
    """Wilson's interval of shares of queries of which those of a cluster may be alike; arguments are `effective`'s."""
    with np.errstate(invalid="ignore"):
        values = hits.sum(axis=0) / totals.sum(axis=0)
    return wilson(values, *effective(hits, totals)).within(0, 1)


def effective(hits: Scores, totals: Scores) -> tuple[Scores, NDArray[np.int64]]:
    """How many independent observations each proportion is worth: its observations over their design effect.

    The design effect is the variance of the proportion between clusters, over that of as many independent
    observations. Rao and Scott, "A simple method for the analysis of clustered binary data", Biometrics 48, 1992,
    doi:10.2307/2532311. It isn't taken below 1; where the proportion is 0 or 1 the clusters are counted, as nothing is
    known of how alike their observations are.

    Args:
        hits: (clusters, m) observations of each cluster that count.
        totals: (clusters, m) its observations.

    Returns:
        Effective observations, and clusters with an observation, (m,) each.
    """
    n, clusters = totals.sum(axis=0), np.count_nonzero(totals, axis=0).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = hits.sum(axis=0) / n
        spread = ((hits - totals * shares) ** 2).sum(axis=0) * clusters / (clusters - 1)
        design = np.maximum(spread / (n * shares * (1 - shares)), 1)
        worth = np.where((shares <= 0) | (shares >= 1), clusters, n / design)
    single = totals.max(axis=0, initial=0) <= 1
    return np.where(single, n, worth), clusters


def closed_form(figures: Scores, influence: Scores, clusters: NDArray[np.int64]) -> Interval:
    """The intervals of figures in 0 to 1 whose variance is the sum of squares of what each cluster adds.

    They are symmetric on the logit scale, with Student's t. A figure of exactly 0 or 1 has no variance there: its other
    end is that of an exact binomial interval of n successes in n, which takes no more than one observation a cluster.

    Args:
        figures: (m,) values.
        influence: (clusters, m) what each cluster adds to the error of each figure.
        clusters: (m,) clusters that limit what is known, such as the patients with the class.

    Returns:
        NaN where there are fewer than two clusters.
    """
    quantile, error = _student(clusters), np.sqrt((influence**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        logit = np.log(figures / (1 - figures))
        half = quantile * error / (figures * (1 - figures))
        low, high = (1 / (1 + np.exp(-(logit + side * half))) for side in (-1, 1))
        exact = _TAIL ** (1 / np.maximum(clusters, 1))
    low = np.where(figures >= 1, exact, np.where(figures <= 0, 0.0, low))
    high = np.where(figures <= 0, 1 - exact, np.where(figures >= 1, 1.0, high))
    known = (clusters > 1) & ~np.isnan(figures)
    return Interval(np.where(known, low, np.nan), np.where(known, high, np.nan))


Part = tuple[NDArray[np.int64], Scores, Scores]
"""Of a class: (c,) its clusters, and for each (c, m) numerators and denominators of m ratios."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much m means over classes vary, each class a ratio of sums over clusters.

    Attributes:
        factor: (m,) by how much wider they spread than their resamples do.
        error: (m,) standard errors.
        clusters: (m,) one more than their degrees of freedom.
    """

    factor: Scores
    error: Scores
    clusters: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Iterable[Part], count: int, columns: int) -> "Spread":
        """Linearise the means.

        Resamples of a class with k clusters spread less than samples by a factor of sqrt((k - 1) / k), and of a class
        with one cluster not at all. The variance is that of stratified samples, a class a stratum, with what one
        cluster adds to several classes added before it is squared; a class of one cluster differs from the mean of all
        classes instead of its own. Rao and Wu, "Resampling Inference with Complex Survey Data", JASA 83, 1988,
        doi:10.1080/01621459.1988.10478591, stretch resamples by such a factor. Degrees of freedom are Satterthwaite's.

        Args:
            parts: Of each class.
            count: Clusters.
            columns: Of each part.
        """
        parts = list(parts)
        seen, mended = np.zeros((2, count, columns))
        asked = np.zeros((count, columns), np.bool_)
        ratios, variances, freedoms = [], [], []
        for clusters, above, below in parts:
            totals, having = below.sum(axis=0), np.count_nonzero(below, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = above.sum(axis=0) / totals
                rest = np.nan_to_num((above - below * ratio) / totals)
                factor = np.where(having > 1, np.sqrt(having / (having - 1)), 0)
            seen[clusters] += rest
            mended[clusters] += rest * factor
            asked[clusters] |= below > 0
            ratios.append(ratio)
            variances.append(((rest * factor) ** 2).sum(axis=0))
            freedoms.append(having - 1)
        if not ratios:
            return cls(np.ones(columns), np.zeros(columns), np.zeros(columns, np.int64))
        table, moments, degrees = np.stack(ratios), np.stack(variances), np.stack(freedoms)
        classes, n = np.count_nonzero(~np.isnan(table), axis=0), np.count_nonzero(asked, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            grand = np.nansum(table, axis=0) / classes
            apart = np.where((degrees == 0) & ~np.isnan(table), table - grand, 0)
        mended += _alone(parts, apart, mended.shape)
        moments = moments + apart**2
        with np.errstate(divide="ignore", invalid="ignore"):
            free = moments.sum(axis=0) ** 2 / (moments**2 / np.maximum(degrees, 1)).sum(axis=0)
            squares = (mended**2).sum(axis=0)
            factor = np.sqrt(squares / (seen**2).sum(axis=0)) / np.sqrt(n / (n - 1))
            error = np.sqrt(squares) / classes
        free = np.where(np.isnan(free), n - 1, np.floor(free + 1e-9))
        return cls(factor, error, np.minimum(n, 1 + free.astype(np.int64)))


def _alone(parts: Iterable[Part], apart: Scores, shape: tuple[int, ...]) -> Scores:
    """What the classes of one cluster add to that cluster."""
    added = np.zeros(shape)
    for (clusters, _, below), gaps in zip(parts, apart, strict=True):
        added[clusters] += (below > 0) * gaps
    return added


def over_classes(values: Scores, spread: Spread, method: Method, figures: Scores, jackknife: Scores) -> Interval:
    """The intervals of m means over classes from their resamples, see `resampled`.

    But for plain percentiles, resamples are stretched by the factor of `Spread`. Where they don't vary at all, as every
    class is of one cluster, the interval is the standard error times Student's t.
    """
    if method == "percentile":
        return resampled(values, spread.clusters, method)
    stiff = ~np.isfinite(spread.factor)
    factor = np.where(stiff, 1, spread.factor)
    stretched, lacking = (figures + (table - figures) * factor for table in (values, jackknife))
    found = resampled(stretched, spread.clusters, method, figures, lacking)
    half = np.where(spread.clusters > 1, _student(spread.clusters) * spread.error, np.nan)
    return Interval(np.where(stiff, figures - half, found.low), np.where(stiff, figures + half, found.high))


def stacked(parts: Iterable[Interval]) -> Interval:
    """The intervals of several groups of figures as one."""
    low, high = zip(*((item.low, item.high) for item in parts), strict=True)
    return Interval(np.concatenate(low), np.concatenate(high))


def _student(clusters: NDArray[np.int64]) -> Scores:
    """(m,) the point that a share of `_TAIL` of Student's t lies above, with a degree of freedom less than clusters."""
    points: Scores = stdtrit(np.maximum(clusters - 1, 1), 1 - _TAIL)
    return points


def _expanded(clusters: NDArray[np.int64]) -> Scores:
    """(m,) the tails of an expanded percentile interval."""
    n = np.maximum(clusters, 2)
    tails: Scores = ndtr(-np.sqrt(n / (n - 1)) * _student(n))
    return tails


def _accelerated(values: Scores, figures: Scores, jackknife: Scores) -> Scores:
    """(2, m) the lower and upper tails of a BCa interval."""
    there = np.maximum(np.count_nonzero(~np.isnan(values), axis=0), 1)
    below = np.count_nonzero(values < figures, axis=0) + np.count_nonzero(values == figures, axis=0) / 2
    bias = ndtri(np.clip(below / there, 1 / (there + 1), 1 - 1 / (there + 1)))
    gaps = np.nanmean(jackknife, axis=0) - jackknife if len(jackknife) else np.zeros((1, values.shape[1]))
    squares = np.nansum(gaps**2, axis=0)
    speed = np.divide(np.nansum(gaps**3, axis=0), 6 * squares**1.5, out=np.zeros(len(figures)), where=squares > 0)
    tails = []
    for point in (-_NORMAL, _NORMAL):
        moved = bias + point
        tails.append(ndtr(bias + moved / (1 - speed * moved)))
    return np.stack([tails[0], 1 - tails[1]])


def _quantiles(values: Scores, lower: Scores, upper: Scores) -> tuple[Scores, Scores]:
    """(m,) the quantile of each column at its own share, and another; NaN where a column has no value."""
    ends = np.full((2, values.shape[1]), np.nan)
    shares = np.stack([lower, upper])
    there = ~np.isnan(values).all(axis=0)
    alike = len(np.unique(shares[:, there], axis=1).T) == 1
    if alike and there.any():
        ends[:, there] = np.nanquantile(values[:, there], shares[:, np.argmax(there)], axis=0)
    else:
        for column in np.flatnonzero(there):
            ends[:, column] = np.nanquantile(values[:, column], np.clip(shares[:, column], 0, 1))
    return ends[0], ends[1]
