"""What searches in a collection find and take, measured on its own vectors after the index is built.

The queries are stored vectors, as a search like a stored image has them, and stored vectors that were moved to a cosine
of .8, as new images have them. What is true is what a scan of all images finds.
"""

import time
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cbmir.filters import Condition, Where
from cbmir.schema import Hit, Vectors, normalise
from cbmir.store.profile import MANY, FilterRecall, SearchProfile
from cbmir.store.ways import PROBE, WIDTHS, among

if TYPE_CHECKING:
    from cbmir.store.collection import Collection

MEASURED_FROM = 5_000
"""Images from which the HNSW graph may be faster than a scan, so that it is worth measuring."""

FIELDS = ("modality", "anatomic_region", "dataset", "split", "sex", "view", "primary_label")
"""Filter fields of which the `VALUES` most frequent values are measured."""

VALUES = 4
QUERIES = 128
PASSES = 10
"""Filters are measured until the images that pass them add up to so many times the collection."""

TIE = 1e-6
"""Cosines that differ by no more are equal but for rounding: either image is a right answer."""

_K = 10
_TIMED = 15
_MOVED = 0.75  # length of the step that moves a unit vector to a cosine of .8
_SERVED = 0.95  # of the queries: a wider beam is not tried
_HOPEFUL = 0.99  # recall over the first half of the queries below which the other half is not asked
_OPEN = 0.994  # recall from which on more queries may show that it holds
_MENDABLE = 0.9  # recall below which a wider beam was never enough
_SEED = 0


def measure_search(collection: "Collection", progress: Callable[[str], None] | None = None) -> SearchProfile | None:
    """Measure the searches of a collection; it takes a few seconds.

    Args:
        collection: Indexed.
        progress: Called with a line about each part of the work.

    Returns:
        What was measured; None for a collection that is too small for an HNSW graph to matter, or has none.
    """
    info = collection.info()
    if info.points < MEASURED_FROM or not info.indexed:
        return None
    if progress:
        progress("measuring searches")
    queries = _queries(collection, QUERIES, _SEED)
    exact = collection.search(queries, PROBE, way="exact", fields=False)
    true = [item.hits for item in exact]
    ef, floor, found = _width(collection, queries, true)
    shares = [recall(hits[:_K], best[:_K]) for hits, best in zip(found, true, strict=True)]
    some = queries[:_TIMED]
    scan_ms = _median_ms(lambda row: collection.query(some[row], _K, way="exact", fields=False))
    graph_ms = _median_ms(lambda row: collection.query(some[row], PROBE, way="approximate", ef=ef, fields=False))
    few = [among((), hits) for hits in found]
    check_ms = _median_ms(lambda row: collection.query(some[row], _K, few[row], way="exact", fields=False))
    scan_us = 1000 * scan_ms / info.points
    pace_ms = graph_ms / ef
    filters = measure_filters(
        collection, queries, info.points * PASSES, lambda points: points * scan_us / 1000 / pace_ms, progress
    )
    return SearchProfile(
        points=info.points,
        queries=len(queries),
        scan_us=scan_us,
        ef=ef,
        graph_ms=graph_ms,
        check_ms=check_ms,
        recall=float(np.mean(shares)),
        lowest=float(np.min(shares)),
        floor=floor,
        filters=filters,
    )


def _width(
    collection: "Collection", queries: Vectors, true: Sequence[Sequence[Hit]]
) -> tuple[int, float | None, list[list[Hit]]]:
    """The least width of the beam that serves about as many queries as the widest, its floor, and what it finds."""
    measured = []
    for ef in WIDTHS:
        graph = collection.search(queries, PROBE, way="approximate", ef=ef, fields=False)
        found = [item.hits for item in graph]
        floor = floor_of(_scores(found), _scores(true), _K)
        served = 0.0 if floor is None else float(np.mean([hits[_K - 1].score >= floor for hits in found]))
        measured.append((served, ef, floor, found))
        if served >= _SERVED:
            break
    most = max(served for served, *_ in measured)
    return next((ef, floor, found) for served, ef, floor, found in measured if served >= most - (1 - _SERVED))


def recall(found: Sequence[Hit], exact: Sequence[Hit]) -> float:
    """Share of an exact search's hits that another search found; a hit as near as the last of them is right too.

    Args:
        found: The hits of the other search, at most as many.
        exact: One hit or more, by falling score.
    """
    least = exact[-1].score - TIE
    return sum(hit.score >= least for hit in found) / len(exact)


def floor_of(found: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]], k: int) -> float | None:
    """The score from which on the graph finds what a scan finds.

    An answer is taken by its users if k of its scores reach the floor. Of those answers, at least .998 of what they
    should hold above the floor must be there on average, and at least .9 in each.

    Args:
        found: Falling scores of the graph's hits, an array a query.
        true: Falling scores of what a scan finds, as many.
        k: Scores of an answer that must reach the floor.

    Returns:
        The lowest such score, None where there is none.
    """
    candidates = np.unique(np.concatenate([scores[k - 1 :] for scores in found if len(scores) >= k] or [np.empty(0)]))
    steps = np.unique(np.linspace(0, max(len(candidates) - 1, 0), min(len(candidates), 256)).astype(int))
    return next((floor for floor in candidates[steps].tolist() if _holds(found, true, k, floor)), None)


def _holds(found: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]], k: int, floor: float) -> bool:
    shares = []
    for got, best in zip(found, true, strict=True):
        if (got >= floor).sum() < k:
            continue
        for depth in (k, len(best)):
            least = max(floor, best[depth - 1])
            shares.append(min(1.0, (got >= least - TIE).sum() / (best[:depth] >= least - TIE).sum()))
    return bool(shares) and float(np.mean(shares)) >= 0.998 and min(shares) >= 0.9


def _queries(collection: "Collection", count: int, seed: int) -> Vectors:
    """(count, dim) unit vectors: half of them stored, half of them moved; fewer of a small collection."""
    rng = np.random.default_rng(seed)
    stored = draw(collection, count // 2, rng)
    noise = normalise(rng.standard_normal(stored.shape).astype(np.float32))
    return np.concatenate([stored, normalise(stored + _MOVED * noise)])


def draw(collection: "Collection", count: int, rng: np.random.Generator, where: Where = ()) -> Vectors:
    """(n, dim) vectors of stored images that satisfy a filter, in the order drawn; fewer where there are no more."""
    ids = [point.id for points in collection.scroll(where, fields=False) for point in points]
    drawn = [ids[number] for number in rng.permutation(len(ids))[:count]]
    vectors = {point.id: point.vector for point in collection.get(drawn, fields=False, vectors=True)}
    return np.stack([vector for id in drawn if (vector := vectors.get(id)) is not None])


def measure_filters(
    collection: "Collection",
    queries: Vectors,
    budget: int,
    pays: Callable[[int], float],
    progress: Callable[[str], None] | None = None,
) -> tuple[FilterRecall, ...]:
    """Measure the graph with the common values of each filter field, and with pairs of the most frequent ones.

    Args:
        collection: Indexed.
        queries: (n, dim) of unit length.
        budget: A filter is left out if more images than this would pass it and those before it together.
        pays: Width of the HNSW beam at which the graph takes as long as a scan of so many images.
        progress: Called with a line before each.
    """
    measured: list[FilterRecall] = []
    firsts: list[FilterRecall] = []
    for name in FIELDS:
        for number, (value, points) in enumerate(collection.facet(name, limit=VALUES).items()):
            widths = [ef for ef in WIDTHS if ef < pays(points)]
            if not widths or sum(item.points for item in measured) + points > budget:
                continue
            measured.append(_measure_filter(collection, queries, ((name, value),), points, widths, progress))
            if number == 0 and measured[-1].holds:
                firsts.append(measured[-1])
    for one, other in combinations(firsts, 2):
        values = tuple(sorted(one.values + other.values))
        points = collection.count(_where(values))
        widths = [ef for ef in WIDTHS if max(one.ef, other.ef) <= ef < pays(points)]
        if points >= min(one.points, other.points) or sum(item.points for item in measured) + points > budget:
            continue
        if widths:
            measured.append(_measure_filter(collection, queries, values, points, widths, progress))
    return tuple(measured)


def _where(values: tuple[tuple[str, str], ...]) -> Where:
    return tuple(Condition(field, "=", (value,)) for field, value in values)


def _measure_filter(
    collection: "Collection",
    queries: Vectors,
    values: tuple[tuple[str, str], ...],
    points: int,
    widths: Sequence[int],
    progress: Callable[[str], None] | None,
) -> FilterRecall:
    """The least of some widths at which the graph keeps its recall with this filter, else what the last one keeps."""
    if progress:
        progress("measuring searches with " + " and ".join(f"{field}={value}" for field, value in values))
    where = _where(values)
    few = _Sample(collection, queries, where)
    many: _Sample | None = None
    for ef in widths:
        measured = few.measured(values, points, ef)
        if not measured.holds and measured.recall >= _OPEN:
            many = many or _Sample(collection, _queries(collection, MANY, _SEED + 1), where)
            measured = many.measured(values, points, ef)
        if measured.holds or measured.recall < _MENDABLE:
            break
    return measured


class _Sample:
    """Queries with one filter, and what a scan finds for them."""

    def __init__(self, collection: "Collection", queries: Vectors, where: Where) -> None:
        self._collection, self._queries, self._where = collection, queries, where
        self._exact = [item.hits for item in collection.search(queries, _K, where, way="exact", fields=False)]

    def measured(self, values: tuple[tuple[str, str], ...], points: int, ef: int) -> FilterRecall:
        """The recall of the graph at one width; where it is hopeless, over half of the queries."""
        shares: list[float] = []
        for part in (slice(0, None, 2), slice(1, None, 2)):
            asked = self._queries[part]
            graph = self._collection.search(asked, _K, self._where, way="approximate", ef=ef, fields=False)
            shares += [recall(one.hits, hits) for one, hits in zip(graph, self._exact[part], strict=True)]
            if np.mean(shares) < _HOPEFUL:
                break
        floor = min(hits[-1].score for hits in self._exact)
        under = float(np.mean([share < 0.9 - 1e-9 for share in shares]))
        return FilterRecall(
            values, points, float(np.mean(shares)), float(np.min(shares)), floor, ef, under, len(shares)
        )


def _scores(answers: Sequence[Sequence[Hit]]) -> list[NDArray[np.float64]]:
    return [np.array([hit.score for hit in hits]) for hits in answers]


def _median_ms(ask: Callable[[int], object]) -> float:
    ask(0)  # what the engine does only once is no query's time
    took = []
    for row in range(_TIMED):
        started = time.perf_counter()
        ask(row)
        took.append(time.perf_counter() - started)
    return 1000 * float(np.median(took))
