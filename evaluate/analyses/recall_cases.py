"""The filters that a recall measurement tries: common values, pairs of them, and those that depend on the query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cbmir.evaluate.protocol import wording
from cbmir.filters import Condition, Where, not_of
from cbmir.store import Collection

FILTERED = ("modality", "anatomic_region", "dataset", "split", "sex", "primary_label")
"""Fields whose most frequent value makes a filter, where none is asked for."""

CROSSED = ("modality", "anatomic_region")
"""Fields of which each query also asks for another value than its own: none of its nearest neighbours may pass."""

OTHER_PATIENTS = "patient_id!=the query's"
"""Name of the case in which each query leaves out the images of its patient."""


@dataclass(frozen=True, slots=True)
class Case:
    """One filter to measure.

    Attributes:
        name: The filter, in the filter language, or in words where it depends on the query.
        wheres: The filter of each query.
    """

    name: str
    wheres: tuple[Where, ...]


def cases(
    collection: Collection, queries: Sequence[Mapping[str, Any]], given: Sequence[Where] | None
) -> tuple[list[Case], tuple[str, ...]]:
    """The filters to measure, no filter first, and the fields that made none: no image, or no query, has a value.

    Args:
        collection: What is measured.
        queries: The payloads of the queries.
        given: The filters that were asked for; None for a choice.
    """
    common: list[Where] = []
    without: list[str] = []
    if given is None:
        for field in FILTERED:
            values = collection.facet(field, limit=1)
            common += [(Condition(field, "=", (value,)),) for value in values]
            without += [] if values else [field]
    fixed: list[Where] = [(), *(common if given is None else given)]
    fixed += [one + other for one, other in combinations(common, 2) if collection.count(one + other)]
    made = [Case(wording(where), (where,) * len(queries)) for where in fixed]
    if given is None:
        made += [case for field in CROSSED if (case := _crossed(collection, queries, field))]
        others = tuple(_other_patients(query) for query in queries)
        if any(others):
            made.append(Case(OTHER_PATIENTS, others))
        else:
            without.append("patient_id")
    return made, tuple(without)


def _other_patients(query: Mapping[str, Any]) -> Where:
    """The images of other patients than the query's; all, where that isn't known."""
    patient = query.get("patient_id")
    return not_of("patient_id", [(str(patient), query.get("dataset"))]) if patient else ()


def _crossed(collection: Collection, queries: Sequence[Mapping[str, Any]], field: str) -> Case | None:
    """The most frequent value that is not the query's own; None where there are no two values."""
    values = list(collection.facet(field, limit=2))
    if len(values) < 2:
        return None
    other = [values[query.get(field) == values[0]] for query in queries]
    return Case(f"{field}=another than the query's", tuple((Condition(field, "=", (value,)),) for value in other))
