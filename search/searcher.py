"""A query to hits: by image, stored image, text, vector, or several of these."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cbmir.encoders import Encoder, EncoderSettings
from cbmir.encoders.needed import encoder_of, recognise
from cbmir.errors import CollectionError, ImageError
from cbmir.filters import Condition, Where, parse_all, resolve
from cbmir.paths import normal_path
from cbmir.schema import Hit, StoredPoint, Vectors, point_id
from cbmir.search.answer import Answer, other_patients
from cbmir.search.dicom import DicomQueries
from cbmir.search.fusion import fused
from cbmir.search.parts import is_file
from cbmir.search.query import ImageQuery, Options, Query, StoredQuery, TextQuery, VectorQuery
from cbmir.search.refining import answer
from cbmir.search.resolution import Resolver
from cbmir.search.thresholds import Thresholds
from cbmir.store import Collection, Key, open_store
from cbmir.store.ways import BUDGET_MS, Found

if TYPE_CHECKING:
    from cbmir.media import Asset, HoldsPixels, Prepared, Region

BATCH = {"image": 64, "volume": 1}
"""Files read and embedded at once."""


class Searcher:
    """Asks one collection; the encoder is loaded with the first image.

    Use as a context manager, or call `close`: a directory is held against other processes meanwhile. An open collection
    that was given stays open.

    Attributes:
        collection: The open collection.
        dicom: How its DICOM queries are read.

    Raises:
        StoreError: the store can't be opened.
        CollectionError: there is no such collection, or no name was given and there isn't just one.
    """

    def __init__(
        self,
        store: str | Path | Collection,
        collection: str | None = None,
        encoder: EncoderSettings | Encoder | None = None,
        api_key: str | Key | None = None,
        budget_ms: float = BUDGET_MS,
        read_consistency: str | None = None,
    ) -> None:
        given = None if isinstance(encoder, EncoderSettings) else encoder
        self._settings = encoder if isinstance(encoder, EncoderSettings) else EncoderSettings()
        self._encoder: Encoder | None = None
        with ExitStack() as stack:
            if isinstance(store, Collection):
                self.collection: Collection = store
            else:
                opened = stack.enter_context(open_store(store, api_key, read_consistency))
                self.collection = stack.enter_context(opened.open(collection or opened.only()))
            self.collection.budget_ms = budget_ms
            if given is not None:
                recognise(self.collection, given)
                self._encoder = given
            self.dicom = DicomQueries(self.collection)
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

    @property
    def loaded(self) -> Encoder | None:
        """The encoder, if it is loaded by now."""
        return self._encoder

    def ask(
        self, query: "Query | HoldsPixels | Sequence[HoldsPixels]", how: Options | None = None
    ) -> tuple[Answer, ...]:
        """Ask with whatever a query may be.

        Args:
            query: An image: the path of a file that is there, the bytes of one, a Pillow image, an array of 2 or 3
                dimensions, or an asset. Or a list of images. Or the id, ``dataset/filepath`` or file path of a stored
                image. Or a vector (dim,). Or one of `cbmir.search.query.Query`, which says what it is and can be a
                text, or a weighted set.
            how: How to ask.

        Returns:
            An answer for each image of a list, otherwise one.

        Raises:
            ImageError: an image can't be used.
            CollectionError: a text names neither a file nor a stored image, or a vector has another length.
            QueryError: a query of several parts has no direction.
            EncoderError: a text is asked for and the encoder has no text tower.
        """
        from cbmir.media import Asset

        if isinstance(query, StoredQuery):
            return (self.like(query.name, how),)
        region = query.region if isinstance(query, ImageQuery) else None
        if isinstance(query, ImageQuery):
            query = query.image
        elif isinstance(query, Query):
            return (self._one(query, how),)
        if isinstance(query, str) and not is_file(query):
            try:
                return (self.like(query, how),)
            except CollectionError as error:
                raise CollectionError(f"there is no file {query!r}, and {error}") from error
        if isinstance(query, np.ndarray) and query.ndim == 1:
            return (self._one(VectorQuery(query), how),)
        several = isinstance(query, Sequence) and not isinstance(query, str | bytes)
        items: Any = query if several else [query]
        answers = tuple(self.images([Asset.of(item) for item in items], how, region))
        if failed := [f"{answer.query} {answer.reason}" for answer in answers if answer.reason is not None]:
            raise ImageError("; ".join(failed))
        return answers

    def _one(self, query: Query, how: Options | None) -> Answer:
        """The answer to a query of one or several parts; stored images among its parts are left out."""
        how = self._resolved(how)
        resolved = Resolver(self.collection, lambda: self.encoder, self._find, self.dicom).resolve(query)
        if how.exclude_self and resolved.digests:
            self._check_hashes()
            self.dicom.check_key()
        where = _parsed(how)
        if resolved.stored:
            where += (Condition("id", "!=", tuple(sorted({point.id for point in resolved.stored}))),)
        for digest in resolved.digests:
            where += _copies(how, digest)
        digests = {*resolved.digests, *(str(point.payload.get("sha256") or "") for point in resolved.stored)} - {""}
        same = self._same_files(digests) if digests else {}
        copies = [*resolved.stored, *(point for points in same.values() for point in points), *resolved.people]
        where += _others(how, copies)
        several = len(resolved.directions) > 1
        if several:
            found = fused(self.collection, resolved.directions, how, where)
        else:
            (found,) = answer(self.collection, resolved.directions[0].vector[np.newaxis], how, [where])
        shown = (
            query.text
            if isinstance(query, TextQuery)
            else "vector"
            if isinstance(query, VectorQuery)
            else "several examples"
        )
        told = Answer(shown, cautions=resolved.cautions, fused=several)
        if isinstance(query, TextQuery | VectorQuery):
            return replace(told, hits=tuple(found.hits), way=found.way)
        return told.with_hits(found, how, copies)

    def _check_hashes(self) -> None:
        if not self.collection.facet("sha256", limit=1):
            raise CollectionError(
                f"copies of a query can't be left out: collection {self.collection.name} has no hashes of image files"
            )

    def image(self, path: str | Path, query: Options | None = None) -> list[Hit]:
        """The stored images most similar to an image file, or the stored volumes most similar to a volume.

        Raises:
            ImageError: the file can't be used.
        """
        (answer,) = self.images([Path(path)], query)
        if answer.reason is not None:
            raise ImageError(f"{path} {answer.reason}")
        return list(answer.hits)

    def images(
        self, images: "Iterable[Path | Asset]", query: Options | None = None, region: "Region | None" = None
    ) -> Iterator[Answer]:
        """Answers for many images, in their order; one that can't be used gives an answer with a reason.

        Args:
            images: The queries.
            query: How to ask.
            region: What of each image is asked for; None for all of it.
        """
        from cbmir.media import Asset, prepare  # Pillow: a search by id needs none

        query = self._resolved(query)
        if query.exclude_self:
            self._check_hashes()
            self.dicom.check_key()
        encoder = self.encoder
        rest = (self.dicom.as_gallery(Asset.of(image)) for image in images)
        while part := list(islice(rest, BATCH[encoder.preprocessing.kind])):
            usable, reasons = [], {}
            for number, image in enumerate(part):
                try:
                    usable.append((image, prepare(image, encoder.preprocessing, encoder.card.name, region)))
                except ImageError as error:
                    reasons[number] = str(error)
            answers = iter(self._embedded(encoder, usable, query))
            for number, image in enumerate(part):
                failed = number in reasons
                yield Answer(str(image), reason=reasons[number], file=image) if failed else next(answers)

    def like(self, name: str, query: Options | None = None) -> Answer:
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
        same = self._same_files({digest}) if digest and query.exclude_same_patient else {}
        copies = [stored, *same.get(digest, ())]
        others = (Condition("id", "!=", (stored.id,)), *_others(query, copies))
        (found,) = answer(self.collection, stored.vector[np.newaxis], query, [(*_parsed(query), *others)])
        told = Answer(stored.id, stored=stored).with_hits(found, query, copies, digest)
        return self._judged(told, stored.vector, others, query)

    def vectors(self, vectors: Vectors, query: Options | None = None) -> list[Found]:
        """The stored images nearest to (n, dim) finite vectors."""
        query = self._resolved(query)
        return answer(self.collection, vectors, query, [_parsed(query)] * len(vectors))

    def close(self) -> None:
        """Let go of the collection."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embedded(self, encoder: Encoder, images: "list[tuple[Asset, Prepared]]", query: Options) -> Iterator[Answer]:
        if not images:
            return
        vectors = encoder.embed(np.stack([prepared.pixels for _, prepared in images]))
        fine = np.atleast_1d(np.isfinite(vectors).all(axis=1))
        same = self._same_files({prepared.sha256 for _, prepared in images} - {""})
        copies = [same.get(prepared.sha256, []) for _, prepared in images]
        stored = [next(iter(points), None) for points in copies]
        copies = [[*points, *self.dicom.people(image)] for (image, _), points in zip(images, copies, strict=True)]
        wheres = [
            (*_parsed(query), *_copies(query, prepared.sha256), *_others(query, points))
            for (_, prepared), points in zip(images, copies, strict=True)
        ]
        asked = [where for where, good in zip(wheres, fine, strict=True) if good]
        answers = iter(answer(self.collection, vectors[fine], query, asked))
        for (image, prepared), vector, point, points, good in zip(images, vectors, stored, copies, fine, strict=True):
            if good:
                found = next(answers)
                told = Answer(str(image), stored=point, notes=prepared.notes, file=image)
                told = told.with_hits(found, query, points, prepared.sha256)
                yield self._judged(told, vector, _others(query, points), query)
            else:
                yield Answer(str(image), stored=point, reason="has no vector (an even picture)", file=image)

    def _judged(self, told: Answer, vector: Vectors, others: Where, how: Options) -> Answer:
        """An answer that says whether any stored case is similar, where thresholds were measured.

        The nearest of all images of other patients decides, whatever the user's filter leaves.
        """
        if self._thresholds is None or not how.exclude_same_patient:
            return told
        nearest = told.hits[:1]
        if how.where or how.skip or not nearest:
            nearest = tuple(self.collection.query(vector, 1, others))
        said = self._thresholds.judge(nearest[0], self.collection.counted(())) if nearest else None
        return replace(told, cautions=(*told.cautions, said)) if said else told

    @cached_property
    def _thresholds(self) -> Thresholds | None:
        return Thresholds.of(self.collection)

    def _resolved(self, query: Options | None) -> Options:
        query = query or Options()
        given = (query.where,) if isinstance(query.where, str) else query.where
        texts = [item for item in given if isinstance(item, str)]
        where = parse_all(*texts) + tuple(item for item in given if isinstance(item, Condition))
        return replace(query, where=resolve(where, self.collection))

    def _same_files(self, digests: Iterable[str]) -> dict[str, list[StoredPoint]]:
        """By hash, all stored copies of files: a data set may hold one under several names, of several patients too."""
        found: dict[str, list[StoredPoint]] = {}
        if not (digests := set(digests)):
            return found
        for page in self.collection.scroll((Condition("sha256", "=", tuple(sorted(digests))),)):
            for point in page:
                found.setdefault(str(point.payload["sha256"]), []).append(point)
        return found

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


def _copies(query: Options, sha256: str) -> Where:
    """Conditions that leave out the images of the same content."""
    return (Condition("sha256", "!=", (sha256,)),) if query.exclude_self and sha256 else ()


def _others(query: Options, copies: Sequence[StoredPoint]) -> Where:
    """Conditions that leave out the stored copies of the query image, and the patients and studies of all of them.

    Nothing is left out where none of these is known: such copies are found, and marked.
    """
    where = other_patients(copies) if query.exclude_same_patient else ()
    ids = {point.id for point in copies} - {""}
    return (Condition("id", "!=", tuple(sorted(ids))), *where) if where and ids else where


def _parsed(query: Options) -> Where:
    return tuple(item for item in query.where if isinstance(item, Condition))
