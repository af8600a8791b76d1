"""From the nearest images to an answer: least score, one hit a group, variety, pages."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import FilterError
from cbmir.filters import SCOPED, Condition, Where, check_column, not_of, own_column, own_field, scope_of
from cbmir.schema import FIELDS, Hit, Vectors
from cbmir.search.query import GROUPS, Options
from cbmir.store import Collection
from cbmir.store.ways import Found

_ROUND = 4
"""Times as many images as groups are still missing are asked for at once."""


def answer(collection: Collection, vectors: Vectors, how: Options, wheres: Sequence[Where]) -> list[Found]:
    """Answer queries as their options say.

    Args:
        collection: What is asked.
        vectors: (n, dim) of unit length.
        how: Options; their filter is not looked at.
        wheres: The filter of each query.

    Raises:
        FilterError: hits can't be grouped by what is wanted.
        QueryError: the page lies beyond what a diverse answer is chosen from.
    """
    if how.diversity is not None:
        how.check_page()
    wanted = how.pool if how.diversity is not None else how.skip + how.k
    if how.group_by is None:
        found = collection.search(vectors, wanted, list(wheres), way=how.way)
    else:
        field = group_field(how.group_by, collection)
        found = [
            _grouped(collection, vector, field, wanted, how, where)
            for vector, where in zip(vectors, wheres, strict=True)
        ]
    return [_page(collection, item, how) for item in found]


def group_field(name: str, collection: Collection) -> str:
    """The field behind what hits are to be grouped by, as conditions name it.

    Raises:
        FilterError: there is no such field or column, or an image may have several values of it.
    """
    name = GROUPS.get(name, name)
    check_column(name, collection)
    known = FIELDS.get(name)
    if known is None:
        return own_field(name)
    if known.kind != "keyword" or known.many or known.internal:
        one = "; primary_label is one label each" if known.many else ""
        raise FilterError(f"hits can't be grouped by {name}, which isn't one name an image{one}")
    return name


def first_of_groups(hits: Sequence[Hit], field: str) -> list[Hit]:
    """The first hit of each value of a field; hits without a value are each for themselves.

    Ids of patients, studies and series are told apart by data set, see `cbmir.filters.scope_of`.

    Raises:
        FilterError: the field holds several values an image, or fractional numbers.
    """
    seen: set[Any] = set()
    firsts = []
    for hit in hits:
        value = _value(hit, field)
        key = (value, scope_of(value, hit.payload.get("dataset"))) if value and field in SCOPED else value
        if value is None or key not in seen:
            seen.add(key)
            firsts.append(hit)
    return firsts


def diverse(hits: Sequence[Hit], vectors: NDArray[np.floating], diversity: float, count: int) -> list[Hit]:
    """Some hits by maximal marginal relevance (Carbonell and Goldstein 1998), in the order they are chosen.

    Each next one has the highest ``(1 - diversity) * score - diversity * highest cosine to those chosen``; of equals
    the first.

    Args:
        hits: By falling score.
        vectors: (n, dim) of unit length, one a hit.
        diversity: 0 to 1.
        count: Hits to choose.
    """
    if not hits:
        return []
    scores = (1 - diversity) * np.array([hit.score for hit in hits], np.float64)
    rows = np.asarray(vectors, np.float64)
    nearest = np.full(len(hits), -np.inf)
    left = np.ones(len(hits), np.bool_)
    chosen: list[int] = []
    for _ in range(min(count, len(hits))):
        worth = np.where(left, scores - (diversity * nearest if chosen else 0.0), -np.inf)
        best = int(np.argmax(worth))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, rows @ rows[best])
    return [hits[row] for row in chosen]


def paged(hits: Sequence[Hit], how: Options) -> list[Hit]:
    """The hits of a page, with their ranks in the whole answer."""
    shown = hits[how.skip : how.skip + how.k]
    return [replace(hit, rank=rank) for rank, hit in enumerate(shown, start=how.skip + 1)]


def _page(collection: Collection, found: Found, how: Options) -> Found:
    hits: list[Hit] = found.hits
    if how.min_score is not None:
        hits = [hit for hit in hits if hit.score >= how.min_score]
    if how.diversity is not None:
        stored = {point.id: point.vector for point in collection.get([hit.id for hit in hits], vectors=True)}
        there = [hit for hit in hits if stored.get(hit.id) is not None]
        hits = diverse(there, np.array([stored[hit.id] for hit in there]), how.diversity, how.skip + how.k)
    return replace(found, hits=paged(hits, how))


def _grouped(collection: Collection, vector: Vectors, field: str, wanted: int, how: Options, where: Where) -> Found:
    """The best hit of each group. What was found is excluded in the next round, so each round finds further groups."""
    ask: Callable[[int, Where], Found] = lambda k, where: collection.search(  # noqa: E731
        vector[np.newaxis], k, [where], way=how.way
    )[0]
    hits: list[Hit] = []
    found = ask(_ROUND * wanted, where)
    while True:
        hits += first_of_groups(found.hits, field)
        enough = len(hits) >= wanted or len(found.hits) == 0
        if enough or (how.min_score is not None and found.hits[-1].score < how.min_score):
            return replace(found, hits=hits[:wanted])
        values = sorted({value for hit in hits if (value := _value(hit, field)) is not None})
        single = sorted(hit.id for hit in hits if _value(hit, field) is None)
        others: Where = (Condition(field, "!=", tuple(values)),) if values else ()
        if field in SCOPED:
            others = not_of(
                field, ((hit.payload[field], hit.payload.get("dataset")) for hit in hits if _value(hit, field))
            )
        others += (Condition("id", "!=", tuple(single)),) if single else ()
        found = ask(_ROUND * (wanted - len(hits)), (*where, *others))


def _value(hit: Hit, field: str) -> Any:
    own = own_column(field)
    value = hit.payload.get(field) if own is None else (hit.payload.get("extra") or {}).get(own)
    if isinstance(value, list | float):
        kind = "several values" if isinstance(value, list) else "fractional numbers"
        raise FilterError(f"hits can't be grouped by {own or field}, which holds {kind}")
    return value
