"""What callers see of a store: about a dozen verbs, the same over every engine."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np

from cbmir.errors import CbmirError, CollectionError, FingerprintError, RecordError
from cbmir.filters import Where
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors
from cbmir.store.layout import DEFAULT, Layout

FACET_LIMIT = 100_000
"""Values a facet returns unless told otherwise; fields such as patient_id may have more."""

SCROLL_BATCH = 1024

Fields = Sequence[str] | bool
"""Payload fields to return: names, True for all, False for none."""

Progress = Callable[[str], None]
"""Called now and then with one line about long work."""


def search_ef(k: int) -> int:
    """HNSW beam width for k neighbours.

    Measured on 100,000 x 512: recall of the first 100 is .952 at the engine's default and .9995 at 512.
    """
    return max(128, 5 * k)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection in figures.

    Attributes:
        points: Stored images.
        indexed: Vectors in an HNSW graph; the others are found by a full scan.
        status: ``green`` when nothing is left to optimise.
        engine: Name and version of what holds it.
        fields: Payload fields that have an index; those of `cbmir.schema.INDEXED_FIELDS` should.
    """

    points: int
    indexed: int
    status: str
    engine: str
    fields: frozenset[str] = frozenset()


class Collection(ABC):
    """All images embedded by one encoder.

    Attributes:
        name: Name of the collection.
        card: The encoder that made its vectors.
        streams: Threads that may write to it at once.
    """

    streams = 1

    def __init__(self, name: str, card: EncoderCard) -> None:
        self.name = name
        self.card = card

    @abstractmethod
    def _write(self, batch: EmbeddedBatch) -> None:
        """Store a checked batch."""

    @abstractmethod
    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        """Answer checked queries."""

    def upsert(self, batch: EmbeddedBatch) -> None:
        """Store a batch; images with a known id are replaced.

        Raises:
            FingerprintError: the batch was made by another encoder.
            RecordError: the vectors have another length.
            StoreError: the engine refused; nothing is lost by writing the same batch again.
        """
        if batch.fingerprint != self.card.fingerprint:
            raise FingerprintError(
                f"collection {self.name} holds vectors with fingerprint {self.card.fingerprint}, "
                f"the batch has {batch.fingerprint}"
            )
        self._check_dim(batch.vectors)
        if batch.records:
            self._write(batch)

    def query(
        self,
        vector: Vectors,
        k: int,
        where: Where = (),
        *,
        exact: bool = False,
        ef: int | None = None,
        fields: Fields = True,
    ) -> list[Hit]:
        """The k stored images nearest to one (dim,) vector, see `query_batch`."""
        return self.query_batch(vector[np.newaxis], k, where, exact=exact, ef=ef, fields=fields)[0]

    def query_batch(
        self,
        vectors: Vectors,
        k: int,
        where: Where | Sequence[Where] = (),
        *,
        exact: bool = False,
        ef: int | None = None,
        fields: Fields = True,
    ) -> list[list[Hit]]:
        """The k nearest stored images of each query, by falling cosine, equal scores by id.

        Args:
            vectors: (n, dim) finite queries.
            k: Hits a query, 1 or more; fewer come back where fewer satisfy the filter.
            where: One filter for all queries, or a list with one a query.
            exact: Scan all vectors instead of walking the HNSW graph.
            ef: Beam width of that walk, 1 or more; the engines take k where it is less. None for `search_ef`.
            fields: Payload fields of the hits.

        Raises:
            RecordError: a query has another length or isn't finite, k or ef is below 1, or the filters are not one a
                query.
            StoreError: the engine refused.
        """
        self._check_dim(vectors)
        if not np.isfinite(vectors).all():
            raise RecordError("a query vector is not finite")
        if k < 1:
            raise RecordError(f"k is {k}; ask for 1 hit or more")
        if ef is not None and ef < 1:
            raise RecordError(f"ef is {ef}; a beam is 1 wide or more")
        wheres = where if isinstance(where, list) else [cast("Where", tuple(where))] * len(vectors)
        if len(wheres) != len(vectors):
            raise RecordError(f"{len(wheres)} filters met {len(vectors)} queries")
        if not len(vectors):
            return []
        return self._search(vectors, k, wheres, exact=exact, ef=ef or search_ef(k), fields=fields)

    @abstractmethod
    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """The stored points of some ids; unknown ids are left out."""

    @abstractmethod
    def scroll(
        self, where: Where = (), *, fields: Fields = True, vectors: bool = False, batch: int = SCROLL_BATCH
    ) -> Iterator[list[StoredPoint]]:
        """All points that satisfy the filter, by rising id, in lists of `batch`."""

    @abstractmethod
    def count(self, where: Where = ()) -> int:
        """How many points satisfy the filter, exactly."""

    @abstractmethod
    def bare(self) -> int:
        """Points that have no vector, and so are never found: never written, or lost."""

    @abstractmethod
    def facet(self, field: str, where: Where = (), *, limit: int = FACET_LIMIT) -> dict[str, int]:
        """How many points have each value of a keyword field, the most frequent first."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; unknown ids are no error."""

    @abstractmethod
    def set_payloads(self, changes: Mapping[str, Payload]) -> None:
        """Set some payload fields of some points, by id; the other fields stay.

        Raises:
            StoreError: an id is unknown, where the engine tells.
        """

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written is on disk."""

    @abstractmethod
    def finish(self, progress: Progress | None = None) -> None:
        """Build what makes searches fast; returns when the collection is green."""

    @abstractmethod
    def info(self) -> CollectionInfo:
        """The collection in figures."""

    def close(self) -> None:  # noqa: B027  a server's collection is not held
        """Let go of the collection, so that another process can open it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_dim(self, vectors: Vectors) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.card.dim:
            raise RecordError(f"collection {self.name} takes (n, {self.card.dim}) vectors, got {vectors.shape}")


class Store(ABC):
    """Where collections live.

    Attributes:
        location: The directory or URL, without any key.
    """

    location: str

    @abstractmethod
    def names(self) -> list[str]:
        """The collections, sorted."""

    @abstractmethod
    def create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> Collection:
        """Make a collection with its payload indexes and open it.

        Raises:
            CollectionError: it exists already, or the name or the layout can't be used.
        """

    @abstractmethod
    def open(self, name: str) -> Collection:
        """Open a collection.

        Raises:
            CollectionError: there is none of this name; the message names those there are.
            StoreLockedError: another process holds it.
        """

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a collection and all it holds.

        Raises:
            CollectionError: there is none of this name.
            StoreLockedError: another process holds it.
        """

    def open_or_create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> Collection:
        """Open a collection for the vectors of an encoder, make it where it doesn't exist.

        The layout of one that exists stays as it is.

        Raises:
            FingerprintError: it holds the vectors of another encoder.
        """
        if name not in self.names():
            try:
                return self.create(name, card, layout)
            except CbmirError:
                if name not in self.names():
                    raise  # else: another process was first
        collection = self.open(name)
        try:
            collection.card.require(card, f"collection {name}")
        except FingerprintError:
            collection.close()
            raise
        return collection

    def only(self) -> str:
        """The name of the only collection.

        Raises:
            CollectionError: there is none, or there are several.
        """
        names = self.names()
        if len(names) != 1:
            there = f"it has {', '.join(names)}" if names else "it holds no collection yet"
            raise CollectionError(f"name a collection of {self.location}; {there}")
        return names[0]

    def ailing(self, name: str) -> list[str]:
        """Parts of a collection on a cluster that are not at work, and where; none on one machine."""
        return []

    def close(self) -> None:  # noqa: B027  a directory has no connection
        """Let go of connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _missing(self, name: str) -> CollectionError:
        names = self.names()
        there = f"there are {', '.join(names)}" if names else "it holds no collection yet"
        return CollectionError(f"no collection {name!r} in {self.location}; {there}")


def check_name(name: str) -> None:
    """Refuse names that one of the engines can't hold.

    Raises:
        CollectionError: the name has other signs than letters, digits, dot, dash and underscore, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", name):
        raise CollectionError(
            f"a collection can't be named {name!r}: use letters, digits, dot, dash and underscore, 120 at most"
        )


def metadata(card: EncoderCard) -> dict[str, Any]:
    """What a collection remembers of itself besides its points."""
    from cbmir import __version__

    return {
        "format": 1,
        "created_by": f"cbmir {__version__}",
        "encoder": card.as_json(),
        "fingerprint": card.fingerprint,
    }


def card_from(metadata: Any, place: str) -> EncoderCard:
    """The encoder card in a collection's metadata.

    Raises:
        CollectionError: the metadata is not ours, damaged, or of a later version.
    """
    try:
        if metadata["format"] != 1:
            raise CollectionError(f"{place} has format {metadata['format']}; this cbmir reads 1: update cbmir")
        card = EncoderCard.from_json(metadata["encoder"])
    except (KeyError, TypeError, ValueError) as error:
        raise CollectionError(f"{place} was not made by cbmir or its metadata is damaged ({error!r})") from error
    if card.fingerprint != metadata.get("fingerprint"):
        raise CollectionError(
            f"{place}: the encoder in its metadata doesn't have the fingerprint that stands beside it"
        )
    return card
