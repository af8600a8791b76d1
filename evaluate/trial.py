"""What a protocol picks out of a collection, as arrays of codes: a few dozen bytes an image, vectors aside."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.filters import Where
from cbmir.schema import StoredPoint
from cbmir.store import Collection
from evaluate.protocol import RetrievalProtocol, existing, unlabelled

NONE = -1
"""Code of what an image doesn't have, and place of what the gallery doesn't hold."""

SCROLL_IMAGES = 4096
MAX_SETS = 20_000
"""Distinct values of the label field; what is relevant to what is a table of their square."""

Codes = NDArray[np.int32]
Places = NDArray[np.int64]


T = TypeVar("T", bound=Hashable)


class Vocabulary(dict[T, int]):
    """Values to codes, numbered 0, 1, 2, ... as they are first met."""

    def code(self, value: T | None) -> int:
        """The code of a value, `NONE` for no value."""
        return self.setdefault(value, len(self)) if value else NONE


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The codes that queries and gallery share.

    Attributes:
        sets: Sorted label values of an image; code 0 is the empty set.
        classes: First label value of an image.
        modalities: Modalities.
        patients: Patients.
    """

    sets: Vocabulary[tuple[str, ...]] = field(default_factory=lambda: Vocabulary({(): 0}))
    classes: Vocabulary[str] = field(default_factory=Vocabulary)
    modalities: Vocabulary[str] = field(default_factory=Vocabulary)
    patients: Vocabulary[str] = field(default_factory=Vocabulary)


@dataclass(frozen=True, slots=True)
class Images:
    """n images by rising id.

    Attributes:
        ids: (n,) the 16 bytes of each UUID.
        sets: (n,) code of the label values, 0 for none.
        classes: (n,) code of the first label value.
        modalities: (n,) codes.
        patients: (n,) codes.
    """

    ids: NDArray[np.bytes_]
    sets: Codes
    classes: Codes
    modalities: Codes
    patients: Codes

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> "Images":
        """Some of the images, by number or mask."""
        return Images(*(column[rows] for column in self._columns()))

    def places(self, ids: NDArray[np.bytes_]) -> Places:
        """(m,) where each id stands among these images, `NONE` where it doesn't."""
        if not len(self):
            return np.full(len(ids), NONE)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        return np.where(self.ids[places] == ids, places, NONE)

    @staticmethod
    def joined(parts: Sequence["Images"]) -> "Images":
        """The images of all parts, by rising id."""
        columns = [np.concatenate(column) for column in zip(*(part._columns() for part in parts), strict=True)]
        return Images(*columns).take(np.argsort(columns[0], kind="stable"))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.ids, self.sets, self.classes, self.modalities, self.patients


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries and gallery of a measurement.

    Attributes:
        queries: Images that have a label.
        gallery: Images, with and without a label.
        vocabularies: What the codes mean.
        queries_where: The checked filter of the queries.
        gallery_where: The checked filter of the gallery.
        unlabelled: Queries that were left out because they have no label.
        barred_patients: (queries,) code of the patient whose images a query may not find, below `NONE` for none.
        own_places: (queries,) where the query itself stands in the gallery.
    """

    queries: Images
    gallery: Images
    vocabularies: Vocabularies
    queries_where: Where
    gallery_where: Where
    unlabelled: int
    barred_patients: Codes
    own_places: Places


def read_trial(collection: Collection, protocol: RetrievalProtocol) -> Trial:
    """Read which images a protocol asks with and searches, without their vectors.

    Raises:
        ProtocolError: there are no queries, no gallery, no labels, or more label values than `MAX_SETS`.
    """
    vocabularies = Vocabularies()
    queries_where = existing(protocol.queries, collection, "queries")
    gallery_where = existing(protocol.gallery, collection, "gallery")
    asked = _read(collection, queries_where, protocol.label, vocabularies)
    gallery = _read(collection, gallery_where, protocol.label, vocabularies)
    queries = asked.take(asked.sets > 0)
    for role, where, labelled in (("queries", queries_where, queries), ("gallery", gallery_where, gallery)):
        if not labelled.sets.any():
            raise unlabelled(collection, where, protocol.label, role)
    no_patient = protocol.same_patient | (queries.patients == NONE)
    return Trial(
        queries=queries,
        gallery=gallery,
        vocabularies=vocabularies,
        queries_where=queries_where,
        gallery_where=gallery_where,
        unlabelled=len(asked) - len(queries),
        barred_patients=np.where(no_patient, NONE - 1, queries.patients).astype(np.int32),
        own_places=gallery.places(queries.ids),
    )


def stream_vectors(
    collection: Collection, where: Where, images: Images, progress: str
) -> Iterator[tuple[Places, NDArray[np.float32]]]:
    """The vectors of some images, a chunk at a time.

    Args:
        collection: Where they are stored.
        where: A filter that they satisfy; other images that do are passed over.
        images: Whose vectors are wanted.
        progress: What the progress bar says.

    Yields:
        (m,) places among `images` and (m, dim) vectors.

    Raises:
        ProtocolError: a vector is missing.
    """
    seen = 0
    for points in _scroll(collection, where, progress, vectors=True):
        places = images.places(packed(point.id for point in points))
        there = places != NONE
        seen += int(there.sum())
        yield places[there], np.stack([point.vector for point in points if point.vector is not None])[there]
    if seen != len(images):
        raise ProtocolError(f"{collection.name} lost {len(images) - seen:,} images while it was measured; start again")


def packed(ids: Iterable[str]) -> NDArray[np.bytes_]:
    """(n,) the 16 bytes of each UUID; they sort as the text does."""
    return np.frombuffer(b"".join(bytes.fromhex(id.replace("-", "")) for id in ids), dtype="S16")


def _read(collection: Collection, where: Where, label: str, vocabularies: Vocabularies) -> Images:
    names = list(dict.fromkeys((label, "modality", "patient_id")))
    parts = []
    for points in _scroll(collection, where, "labels", fields=names):
        values = [_values(point.payload, label) for point in points]
        columns = (
            [vocabularies.sets.code(item) if item else 0 for item in map(_distinct, values)],
            [vocabularies.classes.code(item[0] if item else None) for item in values],
            [vocabularies.modalities.code(point.payload.get("modality")) for point in points],
            [vocabularies.patients.code(point.payload.get("patient_id")) for point in points],
        )
        parts.append(Images(packed(point.id for point in points), *(np.array(item, np.int32) for item in columns)))
        if len(vocabularies.sets) > MAX_SETS:
            raise ProtocolError(
                f"{label} has more than {MAX_SETS:,} distinct values in {collection.name}; choose another --label"
            )
    return Images.joined(parts)


def _values(payload: Mapping[str, Any], label: str) -> tuple[str, ...]:
    value = payload.get(label) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _scroll(
    collection: Collection, where: Where, progress: str, fields: Sequence[str] | bool = False, vectors: bool = False
) -> Iterator[list[StoredPoint]]:
    bar = tqdm(total=collection.count(where), desc=progress, unit="image", leave=False, disable=None)
    with bar:
        for points in collection.scroll(where, fields=fields, vectors=vectors, batch=SCROLL_IMAGES):
            yield points
            bar.update(len(points))
