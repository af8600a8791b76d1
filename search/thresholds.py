"""Below which cosine a collection has no similar case, by modality and region.

The threshold of a group is measured on the collection itself. One image of each patient is a query, and the cosine of
its nearest image of another patient is noted. A new image is called unlike all others if its nearest is below the k-th
lowest of n such cosines, k = floor(rate * (n + 1)). If the new patient is drawn like the stored ones, that happens to
at most `rate` of the images that do belong to the group (split conformal prediction, Vovk et al. 2005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cbmir.errors import QueryError
from cbmir.filters import scope_of
from cbmir.schema import Hit
from cbmir.search.answer import other_patients
from cbmir.store import Collection

KEY = "thresholds"
"""Of the collection's metadata."""

PATIENTS = 50
"""Patients of a group below which there are not enough cases to judge."""

RATE = 0.05
STALE = 0.1
"""Share of images that came or went after which the thresholds are old."""

_QUERIES = 400
_ASKED = 64
_SEED = 0


@dataclass(frozen=True, slots=True)
class Group:
    """The images of one modality and region.

    Attributes:
        modality: Empty where the images have none.
        region: Anatomic region; the same.
        images: How many there are.
        patients: Of how many patients that are known.
        queries: Images that were asked for.
        threshold: The cosine; None where there are not enough patients.
    """

    modality: str
    region: str
    images: int
    patients: int
    queries: int = 0
    threshold: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(part for part in (self.modality, self.region) if part) or "images without a modality"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What was measured.

    Attributes:
        rate: False alarms: images of the group that are called unlike all others.
        points: Images of the collection at that time.
        groups: By modality and region.
    """

    rate: float
    points: int
    groups: tuple[Group, ...]

    def as_json(self) -> dict[str, Any]:
        """The form in the collection's metadata."""
        return asdict(self)

    @classmethod
    def of(cls, collection: Collection) -> "Thresholds | None":
        """Those that a collection keeps; None where nothing was measured, or another version did."""
        found: Any = collection.metadata().get(KEY)
        try:
            groups = tuple(Group(**group) for group in found["groups"])
            return cls(float(found["rate"]), int(found["points"]), groups)
        except (TypeError, KeyError, ValueError):
            return None

    def group(self, payload: Mapping[str, Any]) -> Group | None:
        """The group of an image."""
        modality, region = (str(payload.get(field) or "") for field in ("modality", "anatomic_region"))
        return next((group for group in self.groups if (group.modality, group.region) == (modality, region)), None)

    def judge(self, nearest: Hit, points: int) -> str | None:
        """What is to be said of an image by its nearest stored one; None where there is a similar case.

        Args:
            nearest: Of all images of other patients, whatever filter the user asked for; its group is taken for the
                query's.
            points: Images of the collection now.
        """
        group = self.group(nearest.payload)
        changed = abs(points - self.points) > STALE * max(self.points, 1)
        old = f"; measured at {self.points:,} images of now {points:,}: run 'cbmir search thresholds' again"
        if group is None or group.threshold is None:
            known = f"{group.patients if group else 0} patients of {group.name if group else 'its kind'}"
            return f"not enough cases to judge whether a similar one is here: {known}, {PATIENTS} needed{old * changed}"
        if nearest.score >= group.threshold:
            return None
        return (
            f"no similar case in this collection: the nearest image has a cosine of {nearest.score:.3f}; of the "
            f"{group.name} images here all but {self.rate:g} have one of {group.threshold:.3f} or more to another "
            f"patient's ({group.queries} patients asked){old * changed}; for research, not a diagnosis"
        )


def measure(collection: Collection, rate: float = RATE, queries: int = _QUERIES) -> Thresholds:
    """Measure the thresholds of a collection.

    Args:
        collection: Asked by its default search, once for each query.
        rate: False alarms, above 0 and below 1.
        queries: Patients asked for in a group, at most.

    Raises:
        QueryError: the rate is out of range.
    """
    if not 0 < rate < 1:
        raise QueryError(f"the rate of false alarms is {rate!r}; it lies between 0 and 1")
    members: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    images: dict[tuple[str, str], int] = {}
    fields = ["modality", "anatomic_region", "patient_id", "dataset"]
    for page in collection.scroll(fields=fields):
        for point in page:
            modality, region, patient, dataset = (str(point.payload.get(field) or "") for field in fields)
            images[modality, region] = images.get((modality, region), 0) + 1
            if patient:
                person = (scope_of(patient, dataset) or "", patient)
                members.setdefault((modality, region), {}).setdefault(person, []).append(point.id)
    rng = np.random.default_rng(_SEED)
    groups = []
    for key in sorted(images):
        patients = members.get(key, {})
        group = Group(*key, images[key], len(patients))
        if len(patients) >= PATIENTS:
            chosen = [sorted(patients)[row] for row in rng.permutation(len(patients))[:queries]]
            ids = [patients[patient][rng.integers(len(patients[patient]))] for patient in chosen]
            scores = _nearest(collection, ids)
            group = Group(*key, images[key], len(patients), len(scores), _threshold(scores, rate))
        groups.append(group)
    return Thresholds(rate, sum(images.values()), tuple(groups))


def _nearest(collection: Collection, ids: Sequence[str]) -> list[float]:
    """For each image, the highest cosine to one of another patient and study; of those that have one."""
    scores = []
    for start in range(0, len(ids), _ASKED):
        points = [
            point for point in collection.get(ids[start : start + _ASKED], vectors=True) if point.vector is not None
        ]
        wheres = [other_patients([point]) for point in points]
        rows = np.stack([point.vector for point in points if point.vector is not None])
        scores += [found.hits[0].score for found in collection.search(rows, 1, wheres, fields=False) if found.hits]
    return scores


def _threshold(scores: Sequence[float], rate: float) -> float | None:
    """The k-th lowest, k = floor(rate * (n + 1)); None where that is none of them."""
    rank = int(np.floor(rate * (len(scores) + 1) + 1e-9))
    return float(np.sort(scores)[rank - 1]) if 1 <= rank <= len(scores) else None
