"""A query to hits: by image, by stored image, by vector."""

import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from cbmir.encoders import Encoder, EncoderSettings
from cbmir.encoders.needed import encoder_of
from cbmir.errors import CollectionError, ImageError
from cbmir.filters import Condition, Where, parse, resolve
from cbmir.paths import normal_path
from cbmir.schema import Hit, StoredPoint, Vectors, point_id
from cbmir.store import Collection, Key, open_store
from cbmir.store.ways import BUDGET_MS, Found, Wanted, Way

if TYPE_CHECKING:
    from cbmir.media import Note, Prepared

BATCH = {"image": 64, "volume": 1}
"""Files read and embedded at once."""


@dataclass(frozen=True, slots=True)
class Query:
    """How to ask.

    Attributes:
        k: Hits a query.
        where: Conditions the hits must satisfy: parsed, or as text such as ``modality=CT``.
        exclude_same_patient: Leave out the stored images of the query's patient, and the query image itself.
        exclude_self: Leave out the stored images whose file has the same content as the query's; for image files.
        way: ``auto``: the fastest way whose recall holds. ``exact``: compare all images that pass the filter.
            ``approximate``: by the HNSW graph, unchecked.
    """

    k: int = 10
    where: Where | Sequence[str] = ()
    exclude_same_patient: bool = False
    exclude_self: bool = False
    way: Wanted = "auto"


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
        file: The query image, where it is a file.
    """

    query: str
    hits: tuple[Hit, ...] = ()
    stored: StoredPoint | None = None
    reason: str | None = None
    way: Way | None = None
    notes: "tuple[Note, ...]" = ()
    file: Path | None = None


class Searcher:
    """Asks one collection; the encoder is loaded with the first image.

    Use as a context manager, or call `close`: a directory is held against other processes meanwhile.

    Attributes:
        collection: The open collection.

    Raises:
        StoreError: the store can't be opened.
        CollectionError: there is no such collection, or no name was given and there isn't just one.
    """

    def __init__(
        self,
        store: str | Path,
        collection: str | None = None,
        encoder: EncoderSettings | None = None,
        api_key: str | Key | None = None,
        budget_ms: float = BUDGET_MS,
        read_consistency: str | None = None,
    ) -> None:
        self._settings = encoder or EncoderSettings()
        self._encoder: Encoder | None = None
        with ExitStack() as stack:
            opened = stack.enter_context(open_store(store, api_key, read_consistency))
            self.collection: Collection = stack.enter_context(opened.open(collection or opened.only()))
            self.collection.budget_ms = budget_ms
            self._stack = stack.pop_all()

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the collection.

        Raises:
            EncoderError: the vectors were made elsewhere.
            FingerprintError: the encoder of that name has other weights or another preprocessing here.
        """
        if self._encoder is None:
            self._encoder = encoder_of(self.collection, self._settings)
        return self._encoder

    def image(self, path: str | Path, query: Query | None = None) -> list[Hit]:
        """The stored images most similar to an image file, or the stored volumes most similar to a volume.

        Raises:
            ImageError: the file can't be used.
        """
        (answer,) = self.images([Path(path)], query)
        if answer.reason is not None:
            raise ImageError(f"{path} {answer.reason}")
        return list(answer.hits)

    def images(self, paths: Iterable[Path], query: Query | None = None) -> Iterator[Answer]:
        """Answers for many image files, in their order; a file that can't be used gives an answer with a reason."""
        from cbmir.media import prepare  # Pillow: a search by id needs none

        query = self._resolved(query)
        if query.exclude_self and not self.collection.facet("sha256", limit=1):
            raise CollectionError(
                f"copies of a query can't be left out: collection {self.collection.name} has no hashes of image files"
            )
        encoder = self.encoder
        rest = iter(paths)
        while part := list(islice(rest, BATCH[encoder.preprocessing.kind])):
            usable, reasons = [], {}
            for path in part:
                try:
                    usable.append((str(path), prepare(path, encoder.preprocessing, encoder.card.name)))
                except ImageError as error:
                    reasons[path] = str(error)
            answers = iter(self._embedded(encoder, usable, query))
            for path in part:
                yield Answer(str(path), reason=reasons[path], file=path) if path in reasons else next(answers)

    def like(self, name: str, query: Query | None = None) -> Answer:
        """The stored images most similar to a stored one, itself left out.

        Args:
            name: Its id, or ``dataset/filepath``, or only the file path.
            query: How to ask.

        Raises:
            CollectionError: no such image is stored.
        """
        stored = self._find(name)
        if stored.vector is None:
            raise CollectionError(f"the image {name} is stored without a vector")
        query = self._resolved(query)
        digest = str(stored.payload.get("sha256") or "")
        copies = [stored, *(self._same_files(digest) if digest and query.exclude_same_patient else ())]
        others = (Condition("id", "!=", (stored.id,)), *_others(query, copies))
        (found,) = self._search(stored.vector[np.newaxis], query, [(*_parsed(query), *others)])
        return Answer(stored.id, tuple(found.hits), stored, way=found.way)

    def vectors(self, vectors: Vectors, query: Query | None = None) -> list[Found]:
        """The stored images nearest to (n, dim) finite vectors."""
        query = self._resolved(query)
        return self._search(vectors, query, [_parsed(query)] * len(vectors))

    def close(self) -> None:
        """Let go of the collection."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search(self, vectors: Vectors, query: Query, wheres: list[Where]) -> list[Found]:
        return self.collection.search(vectors, query.k, wheres, way=query.way)

    def _embedded(self, encoder: Encoder, images: "list[tuple[str, Prepared]]", query: Query) -> Iterator[Answer]:
        if not images:
            return
        vectors = encoder.embed(np.stack([prepared.pixels for _, prepared in images]))
        fine = np.atleast_1d(np.isfinite(vectors).all(axis=1))
        copies = [self._same_files(prepared.sha256) for _, prepared in images]
        stored = [next(iter(points), None) for points in copies]
        wheres = [
            (*_parsed(query), *_copies(query, prepared.sha256), *_others(query, points))
            for (_, prepared), points in zip(images, copies, strict=True)
        ]
        asked = [where for where, good in zip(wheres, fine, strict=True) if good]
        answers = iter(self._search(vectors[fine], query, asked))
        for (path, prepared), point, good in zip(images, stored, fine, strict=True):
            if good:
                found = next(answers)
                yield Answer(path, tuple(found.hits), point, way=found.way, notes=prepared.notes, file=Path(path))
            else:
                yield Answer(path, stored=point, reason="has no vector (an even picture)", file=Path(path))

    def _resolved(self, query: Query | None) -> Query:
        query = query or Query()
        where = tuple(parse(item) if isinstance(item, str) else item for item in query.where)
        return replace(query, where=resolve(where, self.collection))

    def _same_files(self, digest: str) -> list[StoredPoint]:
        """All stored copies of a file: a data set may hold one under several names, even of several patients."""
        pages = self.collection.scroll((Condition("sha256", "=", (digest,)),))
        return [point for page in pages for point in page]

    def _find(self, name: str) -> StoredPoint:
        names = dict.fromkeys((normal_path(name), name))  # an earlier version kept the spelling
        ids = [point_id(dataset, name) for name in names for dataset in self.collection.facet("dataset")]
        if "/" in name:
            dataset, path = name.split("/", 1)
            ids += [point_id(dataset, key) for key in dict.fromkeys((normal_path(path), path))]
        with suppress(ValueError):
            ids.append(str(uuid.UUID(name)))
        found = self.collection.get(ids, vectors=True)
        if not found:
            first = next((point for page in self.collection.scroll() for point in page), None)
            known = first.payload if first else {}
            such = f", such as {known.get('dataset')}/{known.get('filepath')}" if known else ""
            reason = f"no image {name!r} in collection {self.collection.name}"
            raise CollectionError(f"{reason}; give its id, or its data set and file path{such}")
        return found[0]


def image_files(paths: Iterable[Path]) -> tuple[list[Path], Mapping[str, int]]:
    """Files as they are given, folders replaced by the images and volumes below them, sorted.

    Returns:
        The files, and how many of the others below folders were passed over, by suffix, as DICOM or as hidden.
    """
    from cbmir.media import is_image, is_volume, passed_over_as, without_hidden

    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            below = [
                Path(folder, name)
                for folder, folders, files in os.walk(path)
                for name in without_hidden(folders, files, others)
            ]
            images = sorted(item for item in below if is_image(item) or is_volume(item))
            others.update(passed_over_as(item) for item in set(below).difference(images))
            found += images
        else:
            found.append(path)
    return found, {key: count for key, count in sorted(others.items()) if count}


def check_queries(files: Sequence[Path]) -> None:
    """Refuse query files of which none can be used, before an encoder is loaded for them.

    Raises:
        ImageError: not one of them can be opened; of a volume only its file is looked at.
    """
    from cbmir.media import Asset
    from cbmir.media.files import MAX_VOLUME_BYTES, check_file

    reason = ""
    for file in files:
        asset = Asset(file)
        try:
            if asset.kind == "volume":
                check_file(file, MAX_VOLUME_BYTES)
            else:
                _ = asset.image
            return
        except ImageError as error:
            reason = reason or f"{file} can't be used: {error}"
    raise ImageError(f"none of {len(files):,} queries can be used; {reason}" if len(files) > 1 else reason)


def _copies(query: Query, sha256: str) -> Where:
    """Conditions that leave out the images of the same content."""
    return (Condition("sha256", "!=", (sha256,)),) if query.exclude_self else ()


def _others(query: Query, copies: Sequence[StoredPoint]) -> Where:
    """Conditions that leave out the stored copies of the query image and the patients of all of them."""
    if not query.exclude_same_patient or not copies:
        return ()
    patients = {str(point.payload["patient_id"]) for point in copies if point.payload.get("patient_id")}
    themselves = Condition("id", "!=", tuple(sorted({point.id for point in copies})))
    return (themselves, Condition("patient_id", "!=", tuple(sorted(patients)))) if patients else (themselves,)


def _parsed(query: Query) -> Where:
    return tuple(item for item in query.where if isinstance(item, Condition))
