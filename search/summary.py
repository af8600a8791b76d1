"""What the hits of a query have in common: their labels, beside those of the whole collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbmir.filters import scope_of
from cbmir.schema import Hit
from cbmir.search.cautions import NEAR_COPY
from cbmir.store import Collection
from cbmir.units import counted


@dataclass(frozen=True, slots=True)
class LabelCount:
    """One label among the hits of a query.

    Attributes:
        label: Such as ``CT/chest/nodule``.
        hits: Hits with it, near copies counted once.
        of: All hits, near copies counted once.
        patients: Different patients among those with it; images without a patient count as one each.
        stored: Images with it in the whole collection.
        stored_of: All images of the collection.
    """

    label: str
    hits: int
    of: int
    patients: int
    stored: int
    stored_of: int

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {name: getattr(self, name) for name in self.__slots__}


def label_counts(hits: Sequence[Hit], collection: Collection) -> list[LabelCount]:
    """The labels of hits, the most frequent first, equal ones by patients and by name.

    Of images that are near copies of each other (a cosine of `NEAR_COPY` or more) only the best hit counts: otherwise
    one image stored five times would look like five cases.

    Args:
        hits: Of one query, with payload.
        collection: Where they were found.
    """
    different = _different(hits, collection)
    found: dict[str, list[Hit]] = {}
    for hit in different:
        for label in hit.payload.get("labels") or ():
            found.setdefault(str(label), []).append(hit)
    if not found:
        return []
    stored, total = collection.stored_values("labels"), collection.counted(())
    counts = [
        LabelCount(
            label,
            len(some),
            len(different),
            len({_patient(hit) for hit in some}),
            stored.get(label, 0),
            total,
        )
        for label, some in found.items()
    ]
    return sorted(counts, key=lambda item: (-item.hits, -item.patients, item.label))


def _patient(hit: Hit) -> tuple[str, str | None]:
    """The patient of a hit, which may be another one in another data set; the hit itself where that isn't known."""
    patient = hit.payload.get("patient_id")
    return (str(patient), scope_of(str(patient), hit.payload.get("dataset"))) if patient else (hit.id, None)


def lines(counts: Sequence[LabelCount], hits: int) -> list[str]:
    """The labels as a table for people.

    Args:
        counts: Of one query.
        hits: Of the query.
    """
    if not counts:
        return ["labels of the hits: none"]
    copies = hits - counts[0].of
    once = f", near copies counted once (left out: {copies})" if copies else ""
    return [
        f"labels of {counted(counts[0].of, 'hit')}{once}; beside them, the whole collection",
        f"  {'label':28}  {'hits':>9}  {'patients':>8}  {'collection':>20}",
        *(
            f"  {item.label:28}  {f'{item.hits} of {item.of}':>9}  {item.patients:>8}  "
            f"{f'{item.stored:,} of {item.stored_of:,}':>20}"
            for item in counts
        ),
    ]


def _different(hits: Sequence[Hit], collection: Collection) -> list[Hit]:
    """The hits without those that are near copies of a better one."""
    stored = {point.id: point.vector for point in collection.get([hit.id for hit in hits], fields=False, vectors=True)}
    kept: list[Hit] = []
    rows: list[Any] = []
    for hit in hits:
        vector = stored.get(hit.id)
        if vector is not None and rows and float(np.max(np.stack(rows) @ vector)) >= NEAR_COPY:
            continue
        kept.append(hit)
        if vector is not None:
            rows.append(vector)
    return kept
