"""Areas under ROC curves, one class against the rest, for many weightings of the same queries at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cbmir.evaluate.analyses.classification.votes import Flags, Shares

CELLS = 1 << 22
"""Sums held at once, levels x draws: 32 MiB in float64."""

Draws = NDArray[np.float32]
Values = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve before it is weighted: how many items each cluster of queries has at each level of the score.

    A level is one score, or several that no item of the other kind lies between. The negatives of the lowest level,
    most of all where few classes get votes, follow from the others and are not held.

    Attributes:
        positives: (levels, clusters) sparse counts by rising score.
        negatives: (levels, clusters) the same of the other items; none at the lowest level.
        breadth: Items of each query.
    """

    positives: Any
    negatives: Any
    breadth: int

    @property
    def entries(self) -> int:
        """Multiplications a draw."""
        return int(self.positives.nnz + self.negatives.nnz)

    def areas(self, draws: Draws, queries: Values) -> Values:
        """The area of every draw: how often a positive scores higher than a negative, half counted where they tie.

        The weighted Mann-Whitney statistic, as scikit-learn's ``roc_auc_score`` has it.

        Args:
            draws: (clusters, b) weight of each cluster.
            queries: (b,) weight of all queries together.

        Returns:
            (b,) areas in 0 to 1; NaN where the draw has no positive or no negative.
        """
        step = max(1, CELLS // self.positives.shape[0])
        slices = (slice(start, start + step) for start in range(0, draws.shape[1], step))
        return np.concatenate([self._areas(draws[:, some], queries[some]) for some in slices])

    def _areas(self, draws: Draws, queries: Values) -> Values:
        positives = (self.positives @ draws).astype(np.float64)
        negatives = (self.negatives @ draws).astype(np.float64)
        positive = positives.sum(axis=0)
        negative = self.breadth * queries - positive
        negatives[0] = negative - negatives.sum(axis=0)
        below = np.cumsum(negatives, axis=0)
        below -= negatives / 2
        pairs = positive * negative
        area: Values = np.full(len(queries), np.nan)
        np.divide(np.einsum("lb,lb->b", positives, below), pairs, out=area, where=pairs > 0)
        return area


def curve(scores: Shares, positive: Flags, clusters: Integers, count: int) -> Curve:
    """Gather the items of a curve.

    Args:
        scores: (n, m) score of each item of each query.
        positive: (n, m) which items are right, one at least.
        clusters: (n,) cluster of each query, 0 to count - 1.
        count: Clusters.
    """
    lowest = scores.min()
    held = np.flatnonzero((scores > lowest) | positive)
    held = held[np.argsort(scores.ravel()[held], kind="stable")]
    right = positive.ravel()[held]
    levels = _levels(scores.ravel()[held], right, lowest)
    owners = clusters[held // scores.shape[1]]
    shape = (int(levels[-1]) + 1, count)
    others = ~right & (levels > 0)
    positives, negatives = (counts(levels[chosen], owners[chosen], shape) for chosen in (right, others))
    return Curve(positives, negatives, scores.shape[1])


def counts(rows: Integers, columns: Integers, shape: tuple[int, int]) -> Any:
    """A sparse table of how often each pair of row and column occurs."""
    return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _levels(scores: Shares, right: Flags, lowest: float) -> Integers:
    """(items,) the level of each item by rising score; level 0 has the lowest score, also where none of them has it."""
    distinct = np.cumsum(np.diff(scores, prepend=lowest) > 0)
    count = int(distinct[-1]) + 1
    positive = np.bincount(distinct[right], minlength=count) > 0
    negative = np.bincount(distinct[~right], minlength=count) > 0
    negative[0] = True  # those that are not held
    kinds = positive + 2 * negative
    starts = (np.diff(kinds, prepend=0) != 0) | (kinds == 3)  # a run of one kind is one level
    return (np.cumsum(starts) - 1)[distinct]
