"""A query to its vector, and to the stored images that it stands for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cbmir.encoders import Encoder
from cbmir.errors import CollectionError, ImageError, QueryError
from cbmir.schema import StoredPoint, Vectors, normalise
from cbmir.search.cautions import cut_off, negated
from cbmir.search.dicom import DicomQueries
from cbmir.search.fusion import Direction
from cbmir.search.query import ImageQuery, Query, Single, StoredQuery, TextQuery, WeightedQuery, weighted
from cbmir.store import Collection


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """What is ranked, and whom it must not find.

    Attributes:
        directions: One, or several that are ranked apart.
        stored: The stored images among its parts: these are never hits.
        digests: SHA-256 of the image files among its parts.
        cautions: What its user should know, see `cbmir.search.cautions`.
        people: Patients and studies of its DICOM files, see `DicomQueries.people`.
    """

    directions: tuple[Direction, ...]
    stored: tuple[StoredPoint, ...] = ()
    digests: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    people: tuple[StoredPoint, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One part of a query, as `Resolved`."""

    vector: Vectors
    stored: tuple[StoredPoint, ...] = ()
    digests: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    people: tuple[StoredPoint, ...] = ()


class Resolver:
    """Makes vectors of queries for one collection."""

    def __init__(
        self,
        collection: Collection,
        encoder: Callable[[], Encoder],
        find: Callable[[str], StoredPoint],
        dicom: DicomQueries,
    ) -> None:
        """Get ready.

        Args:
            collection: What will be asked.
            encoder: Gives the encoder of the collection; called only for images and texts.
            find: A stored image with its vector, by id or path.
            dicom: How DICOM queries are read.
        """
        self._collection = collection
        self._encoder = encoder
        self._find = find
        self._dicom = dicom

    def resolve(self, query: Query) -> Resolved:
        """What of a query is ranked.

        Raises:
            QueryError: it has no direction.
            ImageError: an image can't be used.
            CollectionError: there is no such stored image, or a vector has another length.
            EncoderError: a text is given and the encoder has no text tower.
        """
        parts = query.parts if isinstance(query, WeightedQuery) else ((query, 1.0),)
        single = [self._single(part, weight > 0) for part, weight in parts]
        weights = [weight for _, weight in parts]
        texts = [isinstance(part, TextQuery) for part, _ in parts]
        apart = isinstance(query, WeightedQuery) and query.mix == "ranks" and any(texts) and not all(texts)
        directions = []
        for kind in (False, True) if apart else (None,):
            rows = [row for row, text in enumerate(texts) if kind in (None, text)]
            vectors = np.stack([single[row].vector for row in rows])[:, np.newaxis]
            chosen = [weights[row] for row in rows]
            seeks = max(chosen) > 0
            weight = sum(weight for weight in chosen if weight > 0) if seeks else -sum(chosen)
            directions.append(Direction(weighted(vectors, chosen)[0], weight, seeks))
        return Resolved(
            tuple(directions),
            tuple(point for part in single for point in part.stored),
            tuple(digest for part in single for digest in part.digests),
            tuple(caution for part in single for caution in part.cautions),
            tuple(person for part in single for person in part.people),
        )

    def unit(self, vector: Vectors) -> Vectors:
        """(1, dim) of unit length.

        Raises:
            CollectionError: it has another length, or no direction.
        """
        dim = self._collection.card.dim
        if vector.shape != (dim,) or not np.isfinite(vector).all() or not vector.any():
            raise CollectionError(
                f"the query vector has the shape {vector.shape}; collection {self._collection.name} is asked with "
                f"({dim},) finite numbers, not all 0"
            )
        return normalise(np.asarray(vector, np.float32)[np.newaxis])

    def _single(self, query: Single, sought: bool) -> _Part:
        if isinstance(query, StoredQuery):
            point = self._find(query.name)
            if point.vector is None:
                raise CollectionError(f"the image {query.name} is stored without a vector")
            return _Part(point.vector, (point,))
        if isinstance(query, ImageQuery):
            return self._image(query)
        if isinstance(query, TextQuery):
            if not query.text.strip():
                raise QueryError("the text of a query is empty")
            return self._text(query.text, sought)
        return _Part(self.unit(query.vector)[0])

    def _text(self, text: str, sought: bool) -> _Part:
        encoder = self._encoder()
        vector = self._sound(encoder.embed_text([text]), repr(text))
        said = (negated(text) if sought else None, cut_off(encoder, text))
        return _Part(vector, cautions=tuple(filter(None, said)))

    def _image(self, query: ImageQuery) -> _Part:
        from cbmir.media import Asset, prepare  # Pillow: a search by id needs none

        encoder, image = self._encoder(), self._dicom.as_gallery(Asset.of(query.image))
        try:
            prepared = prepare(image, encoder.preprocessing, encoder.card.name, query.region)
            people = tuple(self._dicom.people(image))
        except ImageError as error:
            raise ImageError(f"{query.image} {error}") from error
        vectors = encoder.embed(np.stack([prepared.pixels]))
        digests = (prepared.sha256,) if prepared.sha256 else ()
        return _Part(self._sound(vectors, str(query.image)), digests=digests, people=people)

    def _sound(self, vectors: Vectors, name: str) -> Vectors:
        if not np.isfinite(vectors).all():
            raise QueryError(f"{name} has no vector: all of it looks the same to the encoder")
        vector: Vectors = vectors[0]
        return vector
