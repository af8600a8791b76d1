"""What a protocol picks out of a collection, as arrays of codes: a few dozen bytes an image, vectors aside."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.header import NO_LABEL
from cbmir.evaluate.protocol import RetrievalProtocol, check_groups, existing, unlabelled
from cbmir.filters import Where
from cbmir.schema import StoredPoint, Vectors
from cbmir.store import Collection
from cbmir.units import counted

NONE = -1
"""Place of what the gallery doesn't hold."""

SCROLL_IMAGES = 4096
HELD_BYTES = 2 << 30
"""Vectors of the gallery up to this size are held in memory; of a larger one they are read again, in chunks."""

PATHS = "paths"
"""Column of the ``modality/region/pathology`` an image stands for: its labels, else its modality and region."""

Codes = NDArray[np.int32]
Places = NDArray[np.int64]
Values = tuple[str, ...]


class Vocabulary(dict[Values, int]):
    """The values of one field to codes, numbered as they are first met; 0 is no value at all."""

    def __init__(self) -> None:
        super().__init__({(): 0})

    def code(self, values: Values) -> int:
        """The code of some values."""
        return self.setdefault(values, len(self))


@dataclass(frozen=True, slots=True)
class Images:
    """n images by rising id.

    Attributes:
        ids: (n,) the 16 bytes of each UUID.
        codes: By field, (n,) the code of its values, 0 for none.
    """

    ids: NDArray[np.bytes_]
    codes: Mapping[str, Codes]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> "Images":
        """Some of the images, by number or mask."""
        return Images(self.ids[rows], {name: column[rows] for name, column in self.codes.items()})

    def places(self, ids: NDArray[np.bytes_]) -> Places:
        """(m,) where each id stands among these images, `NONE` where it doesn't."""
        if not len(self):
            return np.full(len(ids), NONE)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        return np.where(self.ids[places] == ids, places, NONE)


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries and gallery of a measurement.

    Attributes:
        protocol: Its terms.
        queries: Images that have a label, unless those without were asked for too.
        gallery: Images, with and without a label.
        vocabularies: By field, what the codes of both mean.
        classes: (queries,) code of each query's class: the first value of its label field; -1 for none.
        class_names: What these codes mean.
        query_vectors: (queries, dim).
        gallery_vectors: (gallery, dim), None for more than `HELD_BYTES`: then `stream_gallery` reads them.
        queries_where: The checked filter of the queries.
        gallery_where: The checked filter of the gallery.
        unlabelled: Queries without a label: left out, or with ``include`` and `keep_unlabelled` among the queries.
        own_places: (queries,) where the query itself stands in the gallery.
    """

    protocol: RetrievalProtocol
    queries: Images
    gallery: Images
    vocabularies: Mapping[str, Vocabulary]
    classes: Codes
    class_names: tuple[str, ...]
    query_vectors: Vectors
    gallery_vectors: Vectors | None
    queries_where: Where
    gallery_where: Where
    unlabelled: int
    own_places: Places

    def without_label(self, images: Images) -> int:
        """How many of some images of this trial have no label, whether they take part or not."""
        return int((~_labelled(images, self.protocol, self.vocabularies)).sum())


def read_trial(
    collection: Collection, protocol: RetrievalProtocol, fields: Sequence[str] = (), *, keep_unlabelled: bool = False
) -> Trial:
    """Read which images a protocol asks with and searches.

    Args:
        collection: Where they are.
        protocol: The terms.
        fields: Further columns of codes: payload fields, or ``extra.NAME``.
        keep_unlabelled: Keep queries without a label, of class -1.

    Raises:
        ProtocolError: there are no queries or no gallery, or no labels where they are needed.
    """
    queries_where = existing(protocol.queries, collection, "queries")
    gallery_where = existing(protocol.gallery, collection, "gallery")
    columns = [*protocol.fields, *fields, *([PATHS] if protocol.graded else [])]
    vocabularies = {name: Vocabulary() for name in columns}
    absent = protocol.label if protocol.unlabelled == "include" else None
    asked, vectors = _read(collection, queries_where, vocabularies, held=True, absent=absent)
    if gallery_where == queries_where:
        gallery, gallery_vectors = asked, vectors
    else:
        held = collection.count(gallery_where) * collection.card.dim * 4 <= HELD_BYTES
        gallery, gallery_vectors = _read(collection, gallery_where, vocabularies, held=held, absent=absent)
    check_groups(protocol, collection, {name: len(words) - 1 for name, words in vocabularies.items()})
    there = {
        role: (where, _labelled(images, protocol, vocabularies))
        for role, where, images in (("queries", queries_where, asked), ("gallery", gallery_where, gallery))
    }
    one_is_enough = absent is not None and any(flags.any() for _, flags in there.values())
    for role, (where, flags) in there.items():
        if not (keep_unlabelled or one_is_enough or flags.any()):
            raise unlabelled(collection, where, protocol.label, role)
    labelled = (asked.codes[protocol.label] > 0) | keep_unlabelled
    queries = asked.take(labelled)
    assert vectors is not None
    names, classes = _classes(vocabularies[protocol.label])
    return Trial(
        protocol=protocol,
        queries=queries,
        gallery=gallery,
        vocabularies=vocabularies,
        classes=classes[queries.codes[protocol.label]],
        class_names=names,
        query_vectors=vectors if labelled.all() else vectors[labelled],
        gallery_vectors=gallery_vectors,
        queries_where=queries_where,
        gallery_where=gallery_where,
        unlabelled=int((~there["queries"][1]).sum()),
        own_places=gallery.places(queries.ids),
    )


def stream_gallery(collection: Collection, trial: Trial, chunk: int) -> Iterator[tuple[Places, Vectors]]:
    """The vectors of the gallery, a chunk at a time, by rising place.

    Yields:
        (m,) places in the gallery and (m, dim) vectors, m at most `chunk` and only the last time below it.

    Raises:
        ProtocolError: a vector is missing.
    """
    total = len(trial.gallery)
    if trial.gallery_vectors is not None:
        for start in range(0, total, chunk):
            yield np.arange(start, min(start + chunk, total)), trial.gallery_vectors[start : start + chunk]
        return
    held = _Chunk(chunk, collection.card.dim)
    seen = 0
    for points in _scroll(collection, trial.gallery_where, "vectors of the gallery", vectors=True):
        places = trial.gallery.places(packed(points))
        there = places != NONE
        seen += int(there.sum())
        yield from held.add(places[there], _stacked(points)[there])
    if seen != total:
        raise ProtocolError(
            f"{collection.name} lost {counted(total - seen, 'image')} while it was measured; start again"
        )
    yield from held.rest()


class _Chunk:
    """Collects vectors until there are enough; each full chunk is yielded and its memory used again."""

    def __init__(self, size: int, dim: int) -> None:
        self._places = np.empty(size, np.int64)
        self._vectors = np.empty((size, dim), np.float32)
        self._filled = 0

    def add(self, places: Places, vectors: Vectors) -> Iterator[tuple[Places, Vectors]]:
        while len(places):
            room = min(len(self._places) - self._filled, len(places))
            filled = slice(self._filled, self._filled + room)
            self._places[filled], self._vectors[filled] = places[:room], vectors[:room]
            self._filled += room
            places, vectors = places[room:], vectors[room:]
            if self._filled == len(self._places):
                yield from self.rest()

    def rest(self) -> Iterator[tuple[Places, Vectors]]:
        if self._filled:
            yield self._places[: self._filled], self._vectors[: self._filled]
        self._filled = 0


def packed(points: Iterable[StoredPoint]) -> NDArray[np.bytes_]:
    """(n,) the 16 bytes of each point's UUID; they sort as the text does."""
    return packed_ids(point.id for point in points)


def packed_ids(ids: Iterable[str]) -> NDArray[np.bytes_]:
    """(n,) the 16 bytes of each UUID."""
    return np.frombuffer(bytes.fromhex("".join(ids).replace("-", "")), dtype="S16")


def text_ids(ids: NDArray[np.bytes_]) -> list[str]:
    """The UUIDs in `packed` ids as text."""
    return [str(uuid.UUID(bytes=packed_id.ljust(16, b"\0"))) for packed_id in ids.tolist()]  # numpy drops closing zeros


def _labelled(images: Images, protocol: RetrievalProtocol, vocabularies: Mapping[str, Vocabulary]) -> NDArray[np.bool_]:
    """(images,) whether each has a label of its own."""
    codes = images.codes[protocol.label]
    no_label = vocabularies[protocol.label].get((NO_LABEL,), NONE) if protocol.unlabelled == "include" else NONE
    labelled: NDArray[np.bool_] = (codes > 0) & (codes != no_label)
    return labelled


def _read(
    collection: Collection,
    where: Where,
    vocabularies: Mapping[str, Vocabulary],
    *,
    held: bool,
    absent: str | None,
) -> tuple[Images, Vectors | None]:
    """The images that satisfy a filter, and their vectors if they are to be held.

    Where `absent` names the label field, images without a value of it get `NO_LABEL`.
    """
    names = [name for name in vocabularies if name != PATHS]
    heads = [name.partition(".")[0] for name in names]
    wanted = list(
        dict.fromkeys([*heads, *(("labels", "modality", "anatomic_region") if PATHS in vocabularies else ())])
    )
    ids: list[NDArray[np.bytes_]] = []
    vectors: list[Vectors] = []
    columns: dict[str, list[int]] = {name: [] for name in vocabularies}
    for points in _scroll(collection, where, "images", fields=wanted, vectors=held):
        ids.append(packed(points))
        for name, vocabulary in vocabularies.items():
            columns[name] += map(vocabulary.code, _values(points, name, absent))
        if held:
            vectors.append(_stacked(points))
    images = Images(np.concatenate(ids), {name: np.array(column, np.int32) for name, column in columns.items()})
    together = np.concatenate(vectors) if held else None
    if (images.ids[1:] < images.ids[:-1]).any():
        order = np.argsort(images.ids, kind="stable")
        return images.take(order), together[order] if together is not None else None
    return images, together


def _values(points: Sequence[StoredPoint], name: str, absent: str | None) -> Iterator[Values]:
    if name == PATHS:
        return (_paths(point, absent is not None) for point in points)
    head, _, key = name.partition(".")
    found = (point.payload.get(head) for point in points)
    values = map(_texts, ((value or {}).get(key) for value in found) if key else found)
    return (value or (NO_LABEL,) for value in values) if name == absent else values


def _texts(value: Any) -> Values:
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list):
        return tuple(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)),)
    return () if value is None else (str(value),)


def _paths(point: StoredPoint, with_no_label: bool) -> Values:
    payload = point.payload
    if labels := payload.get("labels"):
        return tuple(labels)
    modality, region = payload.get("modality"), payload.get("anatomic_region")
    if not modality or not region:
        return (str(modality),) if modality else ()
    return (f"{modality}/{region}/{NO_LABEL}" if with_no_label else f"{modality}/{region}",)


def _classes(vocabulary: Vocabulary) -> tuple[tuple[str, ...], Codes]:
    """The first values, sorted, and for each code of the vocabulary the place of its first value; -1 for none."""
    names = tuple(sorted({values[0] for values in vocabulary if values}))
    places = {name: place for place, name in enumerate(names)}
    return names, np.array([places[values[0]] if values else NONE for values in vocabulary], np.int32)


def _stacked(points: Sequence[StoredPoint]) -> Vectors:
    return np.stack([point.vector for point in points if point.vector is not None])


def _scroll(
    collection: Collection, where: Where, progress: str, fields: Sequence[str] | bool = False, vectors: bool = False
) -> Iterator[list[StoredPoint]]:
    bar = tqdm(total=collection.count(where), desc=progress, unit="image", leave=False, disable=None)
    with bar:
        for points in collection.scroll(where, fields=fields, vectors=vectors, batch=SCROLL_IMAGES):
            yield points
            bar.update(len(points))
