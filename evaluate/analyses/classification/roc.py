"""Areas under ROC and precision-recall curves, with what each cluster of queries adds to their error.

Scores that differ by rounding only are the same: softmax votes that are equal differ in the last digits by the order in
which they were summed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.analyses.classification.votes import TIE, Flags, Shares
from cbmir.evaluate.intervals import Interval, closed_form

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Area:
    """An area under a curve.

    Attributes:
        value: 0 to 1; NaN without a positive or without a negative.
        influence: (clusters,) what each cluster adds to its error; the sum of squares is its variance.
        clusters: Clusters that limit what is known of it: those with a positive, or those with a negative, where fewer.
        owner: The cluster that has all positives, or all negatives, where there is only one such; else -1.
    """

    value: float
    influence: Values
    clusters: int
    owner: int = -1

    @classmethod
    def none(cls, clusters: int) -> "Area":
        """No area, of some clusters."""
        return cls(np.nan, np.zeros(clusters), 0)

    @classmethod
    def mean(cls, areas: "list[Area]", clusters: int) -> "Area":
        """The mean of the areas of classes; what one cluster adds to several of them is added before it is squared.

        The area of a class of one cluster differs from the mean of all areas by as much as it may be wrong, see
        `cbmir.evaluate.intervals.Spread`. Degrees of freedom are Welch's and Satterthwaite's for independent areas.
        """
        known = [area for area in areas if not np.isnan(area.value)]
        if not known:
            return cls.none(clusters)
        mean = float(np.mean([area.value for area in known]))
        each = np.stack([area.influence for area in known])
        for row, area in zip(each, known, strict=True):
            if area.owner >= 0:
                row[area.owner] += area.value - mean
        variances = (each**2).sum(axis=1)
        parts = float(sum(variances**2 / [max(area.clusters - 1, 1) for area in known]))
        freedom = variances.sum() ** 2 / parts if parts else max(area.clusters - 1 for area in known)
        having = len(np.unique(np.nonzero(each)[1]))
        return cls(mean, each.mean(axis=0), min(max(having, 1), 1 + int(freedom + 1e-9)))

    @property
    def interval(self) -> Interval:
        """Its 95% interval, an array of one; NaN where one cluster has all positives or all negatives."""
        return closed_form(np.array([self.value]), self.influence[:, np.newaxis], np.array([self.clusters]))


def roc_auc(scores: Shares, positive: Flags, clusters: NDArray[np.int64], count: int) -> Area:
    """The area under a ROC curve: how often a positive scores higher than a negative, half counted where they tie.

    The variance is that of Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997,
    doi:10.2307/2533958, and where each cluster is one item that of DeLong et al., 1988, doi:10.2307/2531595. The
    factor for the covariance of positives and negatives of one cluster is the geometric mean of those of the variances.

    Args:
        scores: (n, m) score of each item of each query.
        positive: (n, m) which items are right.
        clusters: (n,) cluster of each query, 0 to count - 1.
        count: Clusters.
    """
    flat, right = scores.ravel(), positive.ravel()
    lowest = flat.min() if flat.size else 0.0
    held = np.flatnonzero((flat > lowest) | right)  # the others, most items where few classes get votes, are one level
    order = held[np.argsort(flat[held], kind="stable")]
    levels, right, owners = _levels(flat[order], lowest), right[order], clusters[order // scores.shape[1]]
    depth = int(levels[-1]) + 1 if len(levels) else 1
    positives = np.bincount(levels[right], minlength=depth).astype(np.float64)
    negatives = np.bincount(levels[~right], minlength=depth).astype(np.float64)
    rest = np.bincount(clusters, minlength=count) * float(scores.shape[1]) - np.bincount(owners, minlength=count)
    negatives[0] += rest.sum()
    n, m = positives.sum(), negatives.sum()
    if not n or not m:
        return Area.none(count)
    below = (np.cumsum(negatives) - negatives / 2) / m
    above = (n - np.cumsum(positives) + positives / 2) / n
    area = float(positives @ below / n)
    sides = np.zeros((2, count))
    sides[0] = np.bincount(owners[right], weights=below[levels[right]] - area, minlength=count) / n
    sides[1] = np.bincount(owners[~right], weights=above[levels[~right]] - area, minlength=count)
    sides[1] = (sides[1] + rest * (above[0] - area)) / m
    having = np.bincount(owners[right], minlength=count) > 0, (np.bincount(owners[~right], minlength=count) + rest) > 0
    return _corrected(area, sides, having)


def average_precision(scores: Values, positive: Flags, clusters: NDArray[np.int64], count: int) -> Area:
    """The area under a precision-recall curve: precision at the score of each positive, averaged over the positives.

    As scikit-learn's ``average_precision_score`` has it. The variance is the infinitesimal jackknife: Jaeckel, "The
    infinitesimal jackknife", 1972; Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6.

    Args:
        scores: (n,) score of each query.
        positive: (n,) which queries are right.
        clusters: (n,) cluster of each query, 0 to count - 1.
        count: Clusters.
    """
    if not positive.any() or positive.all():
        return Area.none(count)
    order = np.argsort(scores, kind="stable")
    levels, right, owners = _levels(scores[order], scores.min()), positive[order], clusters[order]
    depth = int(levels[-1]) + 1
    hits = np.bincount(levels[right], minlength=depth).astype(np.float64)
    found = np.cumsum(np.bincount(levels, minlength=depth)[::-1])[::-1]  # items of each level or above
    precision = np.cumsum(hits[::-1])[::-1] / found
    n = hits.sum()
    area = float(hits @ precision / n)
    once, twice = np.cumsum(hits / found), np.cumsum(hits * precision / found)
    moved = right * (precision[levels] - area + once[levels]) - twice[levels]
    influence = np.bincount(owners, weights=moved, minlength=count) / n
    having = [int(np.count_nonzero(np.bincount(owners[flags], minlength=count))) for flags in (right, ~right)]
    everyone = int(np.count_nonzero(np.bincount(owners, minlength=count)))
    factor = np.sqrt(everyone / max(everyone - 1, 1))
    return Area(area, influence * factor, min(having))


def _corrected(area: float, sides: Values, having: tuple[Flags, Flags]) -> Area:
    """An area from what the positives and the negatives of each cluster add, and which clusters have such."""
    numbers = [int(np.count_nonzero(flags)) for flags in having]
    factors = [np.sqrt(number / max(number - 1, 1)) for number in numbers]
    owners = [int(np.argmax(flags)) for flags, number in zip(having, numbers, strict=True) if number == 1]
    return Area(area, factors[0] * sides[0] + factors[1] * sides[1], min(numbers), owners[0] if owners else -1)


def _levels(scores: Values, lowest: float) -> NDArray[np.int64]:
    """(items,) the level of each item by rising score; level 0 has the lowest score, also where none of them has it."""
    before = np.concatenate([[lowest], scores[:-1]])
    levels: NDArray[np.int64] = np.cumsum(scores - before > TIE * np.maximum(np.abs(scores), np.abs(before)))
    return levels
