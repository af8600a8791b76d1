"""Measures of a ranking: one small function each, over one matrix of gains.

A measure gives one value a query, NaN where its definition says 0/0; such queries are left out of its means, and their
share shows as coverage. To add one, decorate a function with `metric`; the command offers it at once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import CutoffError, ProtocolError

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Gains:
    """The judged answers to all queries.

    Attributes:
        gains: (queries, depth) relevance in rank order, 0 = irrelevant or no hit at this place.
        relevant: (queries,) how many gallery images are relevant, whether they were found or not.

    Raises:
        ProtocolError: the shapes don't fit.
    """

    gains: NDArray[np.float32]
    relevant: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.gains.ndim != 2 or self.relevant.shape != self.gains.shape[:1]:
            raise ProtocolError(f"gains of shape {self.gains.shape} met counts of shape {self.relevant.shape}")

    @property
    def depth(self) -> int:
        """Places that were retrieved a query."""
        return int(self.gains.shape[1])

    @functools.cached_property
    def found(self) -> NDArray[np.int32]:
        """(queries, depth) relevant images up to and with each place; summed once, read by every measure and cutoff."""
        return np.cumsum(self.gains > 0, axis=1, dtype=np.int32)


Measure = Callable[[Gains, int], Scores]

METRICS: dict[str, Measure] = {}
"""The measures by name; filled by `metric`."""


def metric(name: str) -> Callable[[Measure], Measure]:
    """Register a measure under a name, and have its cutoff checked.

    The measure then raises CutoffError where k lies outside 1 to depth.
    """

    def register(measure: Measure) -> Measure:
        @functools.wraps(measure)
        def checked(gains: Gains, k: int) -> Scores:
            if not 1 <= k <= gains.depth:
                raise CutoffError(f"{name} at {k} needs a cutoff in 1 to {gains.depth}, the places that were retrieved")
            return measure(gains, k)

        METRICS[name] = checked
        return checked

    return register


@metric("precision_capped")
def precision_capped(gains: Gains, k: int) -> Scores:
    """Share of relevant images in the first min(k, R) places, R the relevant images of the gallery.

    The P@N of Denner et al., "Leveraging foundation models for content-based image retrieval in radiology", 2025,
    doi:10.1016/j.compbiomed.2025.110640; a query of a rare class can reach 1 at every k.

    Args:
        gains: The judged answers.
        k: Cutoff in places, 1 to depth.

    Returns:
        (queries,) values in 0 to 1; NaN where no gallery image is relevant.
    """
    places = np.minimum(gains.relevant, k)
    hits = gains.found[np.arange(len(places)), np.maximum(places, 1) - 1]
    scores: Scores = np.full(len(places), np.nan)
    np.divide(hits, places, out=scores, where=places > 0)
    return scores


@metric("precision")
def precision(gains: Gains, k: int) -> Scores:
    """Share of the first k places that hold a relevant image.

    Missing places count as irrelevant, and so do all places where no gallery image is relevant.

    Args:
        gains: The judged answers.
        k: Cutoff in places, 1 to depth.

    Returns:
        (queries,) values in 0 to 1.
    """
    hits: Scores = gains.found[:, k - 1].astype(np.float64)
    return hits / k


def micro(scores: Scores) -> float:
    """Mean over the queries that have a value; NaN where none has."""
    valued = scores[~np.isnan(scores)]
    return float(valued.mean()) if valued.size else float("nan")


def macro(scores: Scores, classes: NDArray[np.int32]) -> float:
    """Mean over the classes of each class's mean, over the queries that have a value; NaN where none has.

    Args:
        scores: (queries,) values of one measure.
        classes: (queries,) code of each query's class, 0 or more.
    """
    valued = ~np.isnan(scores)
    counts = np.bincount(classes[valued])
    sums = np.bincount(classes[valued], weights=scores[valued])
    there = counts > 0
    return float((sums[there] / counts[there]).mean()) if there.any() else float("nan")
