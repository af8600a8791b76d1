"""A query to its vector, and to the stored images that it stands for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cbmir.encoders import Encoder
from cbmir.errors import CollectionError, ImageError, QueryError
from cbmir.schema import StoredPoint, Vectors, normalise
from cbmir.search.query import ImageQuery, Query, Single, StoredQuery, TextQuery, WeightedQuery, weighted
from cbmir.store import Collection

if TYPE_CHECKING:
    from cbmir.media import Asset


@dataclass(frozen=True, slots=True)
class Resolved:
    """What is ranked, and whom it must not find.

    Attributes:
        vector: (dim,) of unit length.
        stored: The stored images among its parts: these are never hits.
        digests: SHA-256 of the image files among its parts.
    """

    vector: Vectors
    stored: tuple[StoredPoint, ...] = ()
    digests: tuple[str, ...] = ()


class Resolver:
    """Makes vectors of queries for one collection."""

    def __init__(
        self,
        collection: Collection,
        encoder: Callable[[], Encoder],
        find: Callable[[str], StoredPoint],
        as_gallery: "Callable[[Asset], Asset]",
    ) -> None:
        """Get ready.

        Args:
            collection: What will be asked.
            encoder: Gives the encoder of the collection; called only for images and texts.
            find: A stored image with its vector, by id or path.
            as_gallery: A query that is read as the images of the collection were.
        """
        self._collection = collection
        self._encoder = encoder
        self._find = find
        self._as_gallery = as_gallery

    def resolve(self, query: Query) -> Resolved:
        """The vector of a query.

        Raises:
            QueryError: it has no direction.
            ImageError: an image can't be used.
            CollectionError: there is no such stored image, or a vector has another length.
            EncoderError: a text is given and the encoder has no text tower.
        """
        if not isinstance(query, WeightedQuery):
            return self._single(query)
        parts = [self._single(part) for part, _ in query.parts]
        vectors = np.stack([part.vector for part in parts])[:, np.newaxis]
        return Resolved(
            weighted(vectors, [weight for _, weight in query.parts])[0],
            tuple(point for part in parts for point in part.stored),
            tuple(digest for part in parts for digest in part.digests),
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

    def _single(self, query: Single) -> Resolved:
        if isinstance(query, StoredQuery):
            point = self._find(query.name)
            if point.vector is None:
                raise CollectionError(f"the image {query.name} is stored without a vector")
            return Resolved(point.vector, (point,))
        if isinstance(query, ImageQuery):
            return self._image(query)
        if isinstance(query, TextQuery):
            if not query.text.strip():
                raise QueryError("the text of a query is empty")
            return Resolved(self._sound(self._encoder().embed_text([query.text]), repr(query.text)))
        return Resolved(self.unit(query.vector)[0])

    def _image(self, query: ImageQuery) -> Resolved:
        from cbmir.media import Asset, prepare  # Pillow: a search by id needs none

        encoder = self._encoder()
        try:
            prepared = prepare(self._as_gallery(Asset.of(query.image)), encoder.preprocessing, encoder.card.name)
        except ImageError as error:
            raise ImageError(f"{query.image} {error}") from error
        vectors = encoder.embed(np.stack([prepared.pixels]))
        return Resolved(self._sound(vectors, str(query.image)), digests=(prepared.sha256,))

    def _sound(self, vectors: Vectors, name: str) -> Vectors:
        if not np.isfinite(vectors).all():
            raise QueryError(f"{name} has no vector: all of it looks the same to the encoder")
        vector: Vectors = vectors[0]
        return vector
