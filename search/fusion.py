"""Several rankings of the same images as one, by rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import QueryError
from cbmir.filters import Where
from cbmir.schema import Hit, Vectors
from cbmir.search.query import Options
from cbmir.search.refining import first_of_groups, group_field, paged
from cbmir.store import Collection
from cbmir.store.ways import Found

RRF_K = 60
"""Constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): how little the first ranks stand out."""


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One of the rankings that are fused: by the cosine to a vector.

    Attributes:
        vector: (dim,) of unit length.
        weight: Of its ranks, above 0.
        seeks: Whether it looks for images; if not, it only moves those that others found.
    """

    vector: Vectors
    weight: float = 1.0
    seeks: bool = True


def reciprocal_ranks(scores: NDArray[np.floating], weights: Sequence[float]) -> NDArray[np.float64]:
    """Fused scores, ``sum of weight / (60 + rank)`` over the rankings, divided by the highest there can be.

    Args:
        scores: (rankings, n) scores; equal ones share the rank of the first.
        weights: One a ranking.

    Returns:
        (n,) between 0 and 1; 1 is the first of every ranking.
    """
    total = np.zeros(scores.shape[1])
    for row, weight in zip(scores, weights, strict=True):
        higher = np.searchsorted(np.sort(-row), -row, side="left")
        total += weight / (RRF_K + 1 + higher)
    return total * (RRF_K + 1) / sum(weights)


def fused(collection: Collection, directions: Sequence[Direction], how: Options, where: Where) -> Found:
    """The answer to several directions at once.

    Each direction that seeks finds its nearest images, `Options.pool` of them. All directions then rank all images
    found, by exact cosine, and the ranks are fused.

    Args:
        collection: What is asked.
        directions: Two or more, one of which seeks.
        how: Options; their filter is not looked at.
        where: The filter.

    Returns:
        Hits whose score is the fused one, see `reciprocal_ranks`; equal ones by id.

    Raises:
        QueryError: the options need cosines, which a fused answer hasn't, or the page lies beyond the pool.
        FilterError: hits can't be grouped by what is wanted.
    """
    if how.min_score is not None or how.diversity is not None:
        raise QueryError(
            "texts and images are fused by rank, which leaves no cosine for a least score or for diversity; mix their "
            "vectors, or ask with one of them"
        )
    how.check_page()
    field = group_field(how.group_by, collection) if how.group_by else None
    seeking = np.stack([item.vector for item in directions if item.seeks])
    answers = collection.search(seeking, how.pool, [where] * len(seeking), way=how.way)
    payloads: Mapping[str, Mapping[str, object]] = {hit.id: hit.payload for item in answers for hit in item.hits}
    stored = {point.id: point.vector for point in collection.get(sorted(payloads), fields=False, vectors=True)}
    ids = [id for id in sorted(payloads) if stored.get(id) is not None]
    if not ids:
        return Found([], answers[0].way)
    cosines = np.stack([item.vector for item in directions]) @ np.array([stored[id] for id in ids]).T
    scores = reciprocal_ranks(np.round(cosines, 6), [item.weight for item in directions])
    order = np.argsort(-scores, kind="stable")
    hits = [Hit(ids[row], 0, float(scores[row]), payloads[ids[row]]) for row in order]
    hits = first_of_groups(hits, field) if field else hits
    ways = {item.way for item in answers}
    return Found(paged(hits, how), max(ways, key=("exact", "graph", "approximate").index))
