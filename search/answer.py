"""What comes back for one query."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from cbmir.filters import Where, not_of
from cbmir.schema import Hit, StoredPoint
from cbmir.search.cautions import NEAR_COPY, NO_PATIENT
from cbmir.search.query import Options
from cbmir.store.ways import Found, Way

if TYPE_CHECKING:
    from cbmir.media import Asset, Note

SAME_PATIENT = ("patient_id", "study_id")
"""Fields of which the query's values are left out."""


def other_patients(points: Iterable[StoredPoint]) -> Where:
    """Conditions that leave out all images of some images' patients and studies; none where these aren't known."""
    where: Where = ()
    points = list(points)
    for field in SAME_PATIENT:
        known = (point.payload for point in points if point.payload.get(field))
        where += not_of(field, ((str(payload[field]), payload.get("dataset")) for payload in known))
    return where


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query.

    Attributes:
        query: Path of the query image, id of the stored image, or place of the vector.
        hits: By falling score; fewer than asked for where fewer satisfy the filter. Empty where the query failed.
        stored: The query image in the collection, where it is there.
        reason: Why the query failed, None otherwise.
        way: How the hits were found; None where the query failed.
        notes: What was done to a query image in decoding, of `cbmir.media.NOTES`.
        file: The query image, where it isn't a stored one.
        cautions: What its user should know before believing the answer.
        suspected: Ids of hits that may be of the query's patient, although nothing says so.
        fused: Whether scores are fused ranks, see `cbmir.search.fusion`, instead of cosines.
    """

    query: str
    hits: tuple[Hit, ...] = ()
    stored: StoredPoint | None = None
    reason: str | None = None
    way: Way | None = None
    notes: "tuple[Note, ...]" = ()
    file: "Asset | None" = None
    cautions: tuple[str, ...] = ()
    suspected: frozenset[str] = frozenset()
    fused: bool = False

    def with_hits(self, found: Found, how: Options, copies: Sequence[StoredPoint] = (), sha256: str = "") -> Self:
        """The same with hits, of which those are marked that may be of the query's patient although nothing says so.

        Args:
            found: The hits.
            how: How they were asked for.
            copies: Stored images of the query's content.
            sha256: Hash of the query's file.
        """
        told = replace(self, hits=tuple(found.hits), way=found.way)
        if not how.exclude_same_patient:
            return told
        known = _has_patient(*(point.payload for point in copies))
        doubt = () if known else (NO_PATIENT,)
        marked = {
            hit.id
            for hit in told.hits
            if not (known and _has_patient(hit.payload))
            and ((not self.fused and hit.score >= NEAR_COPY) or (sha256 and hit.payload.get("sha256") == sha256))
        }
        return replace(told, cautions=(*told.cautions, *doubt), suspected=frozenset(marked))


def _has_patient(*payloads: Mapping[str, Any]) -> bool:
    return any(payload.get(field) for payload in payloads for field in SAME_PATIENT)
