"""A query to hits: by image, by stored image, by vector."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cbmir.dicomcard import CARD, settings_of, why_no_key
from cbmir.encoders import Encoder, EncoderSettings
from cbmir.encoders.needed import encoder_of, recognise
from cbmir.errors import CollectionError, ImageError, KeyFileError
from cbmir.filters import Condition, Where, parse_all, resolve
from cbmir.paths import normal_path
from cbmir.schema import Hit, StoredPoint, Vectors, point_id
from cbmir.search.query import Options, Query, StoredQuery
from cbmir.search.resolution import Resolver
from cbmir.store import Collection, Key, open_store
from cbmir.store.ways import BUDGET_MS, Found, Way

if TYPE_CHECKING:
    from cbmir.media import Asset, HoldsPixels, Note, Prepared

BATCH = {"image": 64, "volume": 1}
"""Files read and embedded at once."""


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
        is_patient_known: Whether the images of its patient or study could be left out.
    """

    query: str
    hits: tuple[Hit, ...] = ()
    stored: StoredPoint | None = None
    reason: str | None = None
    way: Way | None = None
    notes: "tuple[Note, ...]" = ()
    file: "Asset | None" = None
    is_patient_known: bool = False


class Searcher:
    """Asks one collection; the encoder is loaded with the first image.

    Use as a context manager, or call `close`: a directory is held against other processes meanwhile. An open collection
    that was given stays open.

    Attributes:
        collection: The open collection.

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
            self._card: Mapping[str, Any] | None = self.collection.metadata().get(CARD)
            self._dicom = settings_of(self.collection)
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

    def use_window(self, window: str, *, force: bool = False) -> str | None:
        """Read DICOM queries with a window of their own.

        Args:
            window: See `cbmir.media.dicom_settings.WINDOWS`.
            force: Do it although the images of the collection have another one.

        Returns:
            What to say beside the hits, where the windows differ; None where they are the same.

        Raises:
            SourceError: there is no such window.
            CollectionError: the collection has another one, or its images are not of DICOM, and `force` isn't given.
        """
        from cbmir.media.dicom_settings import DicomSettings

        wanted = DicomSettings(window)
        theirs = self._dicom.window if self._dicom else None
        if theirs == wanted.window:
            return None
        said = f"the window {theirs}" if theirs else "no DICOM"
        if not force:
            raise CollectionError(
                f"collection {self.collection.name} holds {said}, and the query would have the window {wanted.window}: "
                "leave --window out, or give --force too"
            )
        self._dicom = replace(self._dicom or wanted, window=wanted.window)
        return f"DICOM queries have the window {wanted.window}; the collection holds {said}: scores are not comparable"

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
        if isinstance(query, Query):
            return (self._one(query, how),)
        if isinstance(query, str) and not _is_file(query):
            try:
                return (self.like(query, how),)
            except CollectionError as error:
                raise CollectionError(f"there is no file {query!r}, and {error}") from error
        if isinstance(query, np.ndarray) and query.ndim == 1:
            (found,) = self.vectors(self._resolver.unit(query), how)
            return (Answer("vector", tuple(found.hits), way=found.way),)
        several = isinstance(query, Sequence) and not isinstance(query, str | bytes)
        items: Any = query if several else [query]
        answers = tuple(self.images([Asset.of(item) for item in items], how))
        if failed := [f"{answer.query} {answer.reason}" for answer in answers if answer.reason is not None]:
            raise ImageError("; ".join(failed))
        return answers

    def _one(self, query: Query, how: Options | None) -> Answer:
        """The answer to a query that has become one vector; stored images among its parts are left out."""
        how = self._resolved(how)
        resolved = self._resolver.resolve(query)
        if how.exclude_self and resolved.digests:
            self._check_hashes()
        if resolved.digests and (how.exclude_self or how.exclude_same_patient):
            self._check_key()
        where = _parsed(how)
        if resolved.stored:
            where += (Condition("id", "!=", tuple(sorted({point.id for point in resolved.stored}))),)
        for digest in resolved.digests:
            where += _copies(how, digest)
        digests = {*resolved.digests, *(str(point.payload.get("sha256") or "") for point in resolved.stored)} - {""}
        same = self._same_files(digests) if digests and how.exclude_same_patient else {}
        where += _others(how, [*resolved.stored, *(point for points in same.values() for point in points)])
        (found,) = self._search(resolved.vector[np.newaxis], how, [where])
        return Answer(type(query).__name__, tuple(found.hits), way=found.way)

    @property
    def _resolver(self) -> Resolver:
        return Resolver(self.collection, lambda: self.encoder, self._find, self._as_gallery)

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

    def images(self, images: "Iterable[Path | Asset]", query: Options | None = None) -> Iterator[Answer]:
        """Answers for many images, in their order; one that can't be used gives an answer with a reason."""
        from cbmir.media import Asset, prepare  # Pillow: a search by id needs none

        query = self._resolved(query)
        if query.exclude_self:
            self._check_hashes()
        if query.exclude_self or query.exclude_same_patient:
            self._check_key()
        encoder = self.encoder
        rest = (self._as_gallery(Asset.of(image)) for image in images)
        while part := list(islice(rest, BATCH[encoder.preprocessing.kind])):
            usable, reasons = [], {}
            for number, image in enumerate(part):
                try:
                    usable.append((image, prepare(image, encoder.preprocessing, encoder.card.name)))
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
        (found,) = self._search(stored.vector[np.newaxis], query, [(*_parsed(query), *others)])
        return Answer(stored.id, tuple(found.hits), stored, way=found.way)

    def vectors(self, vectors: Vectors, query: Options | None = None) -> list[Found]:
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

    def _search(self, vectors: Vectors, query: Options, wheres: list[Where]) -> list[Found]:
        return self.collection.search(vectors, query.k, wheres, way=query.way)

    def _embedded(self, encoder: Encoder, images: "list[tuple[Asset, Prepared]]", query: Options) -> Iterator[Answer]:
        if not images:
            return
        vectors = encoder.embed(np.stack([prepared.pixels for _, prepared in images]))
        fine = np.atleast_1d(np.isfinite(vectors).all(axis=1))
        same = self._same_files({prepared.sha256 for _, prepared in images})
        copies = [same.get(prepared.sha256, []) for _, prepared in images]
        stored = [next(iter(points), None) for points in copies]
        people = [self._people(image, query) for image, _ in images]
        wheres = [
            (*_parsed(query), *_copies(query, prepared.sha256), *_others(query, points, person))
            for (_, prepared), points, person in zip(images, copies, people, strict=True)
        ]
        asked = [where for where, good in zip(wheres, fine, strict=True) if good]
        answers = iter(self._search(vectors[fine], query, asked))
        for (image, prepared), point, good, person in zip(images, stored, fine, people, strict=True):
            if good:
                found = next(answers)
                yield Answer(
                    str(image),
                    tuple(found.hits),
                    point,
                    way=found.way,
                    notes=prepared.notes,
                    file=image,
                    is_patient_known=bool(person) or point is not None,
                )
            else:
                yield Answer(str(image), stored=point, reason="has no vector (an even picture)", file=image)

    def _as_gallery(self, image: "Asset") -> "Asset":
        """A query that is read as the images of the collection were."""
        return image if self._dicom is None or image.settings is not None else image.read_as(self._dicom)

    def _people(self, image: "Asset", query: Options) -> Mapping[str, str]:
        """Patient and study of a DICOM query, as the collection knows them, where they are needed."""
        if not query.exclude_same_patient or self._dicom is None or self._dicom.key is None or not image.has_source:
            return {}
        from cbmir.media.dicom import identity

        who = identity(image)
        both = {"patient_id": who.patient, "study_id": who.study}
        return {name: value for name, value in both.items() if value}

    def _check_key(self) -> None:
        """Refuse what needs the key of the collection's DICOM, where it isn't at hand."""
        if self._card and (self._dicom is None or self._dicom.key is None):
            raise KeyFileError(f"copies and patients of a DICOM query can't be left out: {why_no_key(self._card)}")

    def _resolved(self, query: Options | None) -> Options:
        query = query or Options()
        given = (query.where,) if isinstance(query.where, str) else query.where
        texts = [item for item in given if isinstance(item, str)]
        where = parse_all(*texts) + tuple(item for item in given if isinstance(item, Condition))
        return replace(query, where=resolve(where, self.collection))

    def _same_files(self, digests: Iterable[str]) -> dict[str, list[StoredPoint]]:
        """By hash, all stored copies of files: a data set may hold one under several names, of several patients too."""
        found: dict[str, list[StoredPoint]] = {}
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


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or no text
        return False


def _copies(query: Options, sha256: str) -> Where:
    """Conditions that leave out the images of the same content."""
    return (Condition("sha256", "!=", (sha256,)),) if query.exclude_self else ()


def _others(query: Options, copies: Sequence[StoredPoint], person: Mapping[str, str] | None = None) -> Where:
    """Conditions that leave out the stored copies of the query image, and the patients and studies of all of them.

    Args:
        query: Whether that is asked for.
        copies: Stored.
        person: Patient and study of the query image itself, where it tells them.
    """
    if not query.exclude_same_patient or not (copies or person):
        return ()
    known = [point.payload for point in copies] + ([person] if person else [])
    conditions = [Condition("id", "!=", tuple(sorted({point.id for point in copies})))] if copies else []
    for field in ("patient_id", "study_id"):
        values = {str(payload[field]) for payload in known if payload.get(field)}
        conditions += [Condition(field, "!=", tuple(sorted(values)))] if values else []
    return tuple(conditions)


def _parsed(query: Options) -> Where:
    return tuple(item for item in query.where if isinstance(item, Condition))
