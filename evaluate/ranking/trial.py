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
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.filters import Where
from cbmir.schema import StoredPoint, Vectors
from cbmir.search.ranker import NONE as NONE  # of the gallery's positions
from cbmir.store import Collection
from cbmir.units import counted

SCROLL_IMAGES = 4096

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
class Held:
    """Some rows of an array of vectors that several trials share; only what is asked for is copied.

    Attributes:
        vectors: (m, dim) all of them.
        rows: (n,) the rows meant, rising; None for all.
    """

    vectors: Vectors
    rows: Places | None = None

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Vectors:
        return self.vectors[rows] if self.rows is None else self.vectors[self.rows[rows]]


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes that macro means are taken over: a query counts in each class that it has.

    Attributes:
        owners: (pairs,) the query of each pair, rising.
        codes: (pairs,) its class.
        names: What these codes mean.
    """

    owners: Places
    codes: Codes
    names: tuple[str, ...]

    @classmethod
    def of(cls, sets: Iterable[Sequence[str]]) -> "Classes":
        """The classes of queries from the values of each; a query without any has no pair."""
        sets = [tuple(dict.fromkeys(values)) for values in sets]
        names = tuple(sorted({name for values in sets for name in values}))
        places = {name: place for place, name in enumerate(names)}
        owners = np.repeat(np.arange(len(sets)), [len(values) for values in sets])
        return cls(owners, np.array([places[name] for values in sets for name in values], np.int32), names)

    def take(self, rows: NDArray[np.bool_]) -> "Classes":
        """Those of some queries, numbered anew."""
        kept = rows[self.owners]
        return Classes((np.cumsum(rows) - 1)[self.owners[kept]], self.codes[kept], self.names)

    def having(self, code: int, queries: int) -> NDArray[np.bool_]:
        """(queries,) which queries have a class."""
        flags = np.zeros(queries, np.bool_)
        flags[self.owners[self.codes == code]] = True
        return flags


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries and gallery of a measurement.

    Attributes:
        protocol: Its terms.
        queries: Images that have a label, unless those without were asked for too.
        gallery: Images, with and without a label.
        vocabularies: By field, what the codes of both mean.
        classes: (queries,) code of the first value of each query's label field; -1 for none.
        class_names: What these codes mean.
        query_vectors: (queries, dim).
        gallery_vectors: (gallery, dim), None where they are too many to be held: then `stream_gallery` reads them.
        queries_where: The checked filter of the queries.
        gallery_where: The checked filter of the gallery.
        unlabelled: Queries without a label: left out, or with ``include`` and `keep_unlabelled` among the queries.
        own_places: (queries,) where the query itself stands in the gallery.
        clusters: (queries,) number of each query's patient from 1 on, in the order in which the images that ask have
            them; -1 where it isn't known.
    """

    protocol: RetrievalProtocol
    queries: Images
    gallery: Images
    vocabularies: Mapping[str, Vocabulary]
    classes: Codes
    class_names: tuple[str, ...]
    query_vectors: Vectors
    gallery_vectors: Held | None
    queries_where: Where
    gallery_where: Where
    unlabelled: int
    own_places: Places
    clusters: Codes

    def label_sets(self) -> list[Values]:
        """The values of the label field of each query."""
        vocabulary = list(self.vocabularies[self.protocol.label])
        return [vocabulary[code] for code in self.queries.codes[self.protocol.label].tolist()]

    def class_pairs(self) -> Classes:
        """All classes of each query, which macro means are taken over whatever the order of its labels."""
        return Classes.of(self.label_sets())

    def without_label(self, images: Images) -> int:
        """How many of some images of this trial have no label, whether they take part or not."""
        return int((~labelled(images, self.protocol, self.vocabularies)).sum())


@dataclass(frozen=True, slots=True)
class StoredGallery:
    """The gallery of a trial as rankers see it, a `cbmir.search.ranker.Gallery`.

    Attributes:
        collection: Where it is.
        trial: What is searched.
    """

    collection: Collection
    trial: Trial

    @property
    def ids(self) -> NDArray[np.bytes_]:
        """(images,) the 16 bytes of each UUID, rising."""
        return self.trial.gallery.ids

    @property
    def where(self) -> Where:
        """The filter of these images."""
        return self.trial.gallery_where

    def __len__(self) -> int:
        return len(self.trial.gallery)

    def chunks(self, images: int) -> Iterator[tuple[Places, Vectors]]:
        """All vectors; see `stream_gallery`."""
        return stream_gallery(self.collection, self.trial, images)

    def positions(self, ids: Sequence[str]) -> Places:
        """(n,) positions of UUIDs, `NONE` for those that the gallery doesn't hold."""
        return self.trial.gallery.places(packed_ids(ids))


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
    for points in scroll(collection, trial.gallery_where, "vectors of the gallery", vectors=True):
        places = trial.gallery.places(packed(points))
        there = places != NONE
        seen += int(there.sum())
        yield from held.add(places[there], stacked(points)[there])
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


def labelled(images: Images, protocol: RetrievalProtocol, vocabularies: Mapping[str, Vocabulary]) -> NDArray[np.bool_]:
    """(images,) whether each has a label of its own."""
    codes = images.codes[protocol.label]
    no_label = vocabularies[protocol.label].get((NO_LABEL,), NONE) if protocol.unlabelled == "include" else NONE
    known: NDArray[np.bool_] = (codes > 0) & (codes != no_label)
    return known


def classes_of(vocabulary: Vocabulary) -> tuple[tuple[str, ...], Codes]:
    """The first values, sorted, and for each code of the vocabulary the place of its first value; -1 for none."""
    names = tuple(sorted({values[0] for values in vocabulary if values}))
    places = {name: place for place, name in enumerate(names)}
    return names, np.array([places[values[0]] if values else NONE for values in vocabulary], np.int32)


def stacked(points: Sequence[StoredPoint]) -> Vectors:
    """(n, dim) the vectors of points."""
    return np.stack([point.vector for point in points if point.vector is not None])


def scroll(
    collection: Collection, where: Where, progress: str, fields: Sequence[str] | bool = False, vectors: bool = False
) -> Iterator[list[StoredPoint]]:
    """The points that satisfy a filter, with a bar that is named for what is read."""
    bar = tqdm(total=collection.count(where), desc=progress, unit="image", leave=False, disable=None)
    with bar:
        for points in collection.scroll(where, fields=fields, vectors=vectors, batch=SCROLL_IMAGES):
            yield points
            bar.update(len(points))
