"""What callers see of a store: about a dozen verbs, the same over every engine."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from cbmir.bounds import check_payload
from cbmir.errors import CbmirError, CollectionError, FingerprintError, RecordError
from cbmir.filters import Where, engine_key
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors
from cbmir.store.columns import IndexKind, OwnColumns, OwnIndex
from cbmir.store.layout import DEFAULT, Layout
from cbmir.store.roots import ROOTS, Roots, with_root
from cbmir.store.sources import read_columns
from cbmir.store.ways import (
    BUDGET_MS,
    Chooser,
    Found,
    SearchProfile,
    Step,
    Wanted,
    among,
    forced_ef,
    search_ef,
)

FACET_LIMIT = 100_000
"""Values a facet asks for at first; where there are more, as of patient_id, it asks again for ten times as many."""

SCROLL_BATCH = 1024

_SMALL = 2_560_000
"""Numbers in all vectors of a segment, 10,000 kB, below which the engines make no graph of it unless asked to."""

Fields = Sequence[str] | bool
"""Payload fields to return: names, True for all, False for none."""

Progress = Callable[[str], None]
"""Called now and then with one line about long work."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection in figures.

    Attributes:
        points: Stored images.
        indexed: Vectors in an HNSW graph; the others are found by a full scan.
        status: ``green`` when nothing is left to optimise.
        engine: Name and version of what holds it.
        fields: Payload fields that have an index; those of `cbmir.schema.INDEXED_FIELDS` should.
        deferred: Whether `Collection.defer_index` has put off the graph, which `Collection.finish` then builds.
    """

    points: int
    indexed: int
    status: str
    engine: str
    fields: frozenset[str] = frozenset()
    deferred: bool = False

    def indexing(self, dim: int) -> str:
        """How the images are searched, in words.

        Args:
            dim: Length of the vectors.
        """
        if self.deferred:
            return "searched exactly: the graph is put off until collections optimize"
        if self.indexed >= self.points > 0:
            return f"{self.indexed:,} in the HNSW graph"
        if self.indexed:
            return f"{self.indexed:,} in the HNSW graph, the others searched exactly"
        waiting = self.status != "green" or (self.engine.startswith("qdrant-edge") and self.points * dim >= _SMALL)
        return "searched exactly: not indexed yet" if waiting else "searched exactly: too small to index"


def default_name(encoder: str) -> str:
    """The name that a collection of an encoder has unless another is given."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", encoder)


class Collection(ABC):
    """All images embedded by one encoder.

    Attributes:
        name: Name of the collection.
        card: The encoder that made its vectors.
        streams: Threads that may write to it at once.
        budget_ms: A scan that is estimated to take longer is not made unless it is asked for; such an answer may be
            approximate, and says so.
        roots: Folders that its images were read from, by data set, see `cbmir.store.roots`.
    """

    streams = 1
    budget_ms = BUDGET_MS

    def __init__(
        self, name: str, card: EncoderCard, profile: SearchProfile | None = None, roots: Roots | None = None
    ) -> None:
        self.name = name
        self.card = card
        self.roots = roots or {}
        self._chooser = Chooser(self.count, card.dim, profile)
        self._own = OwnColumns(self.scroll)

    @property
    def profile(self) -> SearchProfile | None:
        """What was measured about its searches; None for a collection that is small or was not optimized."""
        return self._chooser.profile

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

    def query(self, vector: Vectors, k: int, where: Where = (), **how: Any) -> list[Hit]:
        """The k stored images nearest to one (dim,) vector, see `search`."""
        return self.search(vector[np.newaxis], k, where, **how)[0].hits

    def query_batch(self, vectors: Vectors, k: int, where: Where | Sequence[Where] = (), **how: Any) -> list[list[Hit]]:
        """The k nearest stored images of each query, see `search`."""
        return [found.hits for found in self.search(vectors, k, where, **how)]

    def search(
        self,
        vectors: Vectors,
        k: int,
        where: Where | Sequence[Where] = (),
        *,
        way: Wanted = "auto",
        ef: int | None = None,
        fields: Fields = True,
    ) -> list[Found]:
        """The k nearest stored images of each query, by falling cosine, equal scores by id.

        Args:
            vectors: (n, dim) finite queries.
            k: Hits a query, 1 or more; fewer come back where fewer satisfy the filter.
            where: One filter for all queries, or a list with one a query.
            way: ``auto``: the fastest way whose recall holds, see `cbmir.store.ways`. ``exact``: compare all images
                that satisfy the filter. ``approximate``: walk the HNSW graph with the filter, unchecked.
            ef: Beam width of an approximate search, 1 or more; the engines take k where it is less. None for
                `search_ef`.
            fields: Payload fields of the hits.

        Raises:
            RecordError: a query has another length or isn't finite, k or ef is below 1, ef is given for another way, or
                the filters are not one a query.
            StoreError: the engine refused.
        """
        self._check_dim(vectors)
        if not np.isfinite(vectors).all():
            raise RecordError("a query vector is not finite")
        if k < 1:
            raise RecordError(f"k is {k}; ask for 1 hit or more")
        if ef is not None and ef < 1:
            raise RecordError(f"ef is {ef}; a beam is 1 wide or more")
        if ef is not None and way != "approximate":
            raise RecordError(f"ef is {ef}, which only an approximate search takes; this one is {way}")
        wheres = where if isinstance(where, list) else [cast("Where", tuple(where))] * len(vectors)
        if len(wheres) != len(vectors):
            raise RecordError(f"{len(wheres)} filters met {len(vectors)} queries")
        if not len(vectors):
            return []
        if way == "auto":
            return self._best(vectors, k, wheres, fields)
        answers = self._search(vectors, k, wheres, exact=way == "exact", ef=ef or search_ef(k), fields=fields)
        return [Found(hits, way) for hits in answers]

    def _best(self, vectors: Vectors, k: int, wheres: Sequence[Where], fields: Fields) -> list[Found]:
        """Take the first step of each query, those with equal steps together; where it failed, the second."""
        steps = [self._chooser.step(where, k, self.budget_ms) for where in wheres]
        answers = self._attempt(vectors, k, wheres, steps, fields)
        for way in ("exact", "approximate"):
            rows = [
                row
                for row in range(len(vectors))
                if row not in answers and (self._chooser.affordable(wheres[row], self.budget_ms) == (way == "exact"))
            ]
            if rows:
                filters, began = [wheres[row] for row in rows], time.perf_counter()
                found = self._search(vectors[rows], k, filters, exact=way == "exact", ef=forced_ef(k), fields=fields)
                took_ms = 1000 * (time.perf_counter() - began) / len(rows)
                for row, hits in zip(rows, found, strict=True):
                    answers[row] = Found(hits, way)
                    if way == "exact":
                        steps[row].scanned(took_ms)
        return [answers[row] for row in range(len(vectors))]

    def _attempt(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], steps: Sequence[Step], fields: Fields
    ) -> dict[int, Found]:
        """The answers of the graph that passed their checks, by row."""
        answers: dict[int, Found] = {}
        groups: dict[tuple[str, int, int], list[int]] = {}
        for row, step in enumerate(steps):
            if step.kind != "none":
                groups.setdefault((step.kind, step.depth, step.ef), []).append(row)
        for (kind, depth, ef), rows in groups.items():
            asked, filters, began = vectors[rows], [wheres[row] for row in rows], time.perf_counter()
            if kind == "probe":
                attempts = self._probe(asked, k, filters, [steps[row] for row in rows], fields)
            else:
                attempts = self._search(asked, depth, filters, exact=False, ef=ef, fields=fields)
            took_ms = 1000 * (time.perf_counter() - began) / len(rows)
            for row, hits in zip(rows, attempts, strict=True):
                held = len(hits) == k and hits[-1].score >= steps[row].floor
                steps[row].attempted(took_ms, held)
                if held:
                    answers[row] = Found(hits, "graph")
        return answers

    def _probe(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], steps: Sequence[Step], fields: Fields
    ) -> list[list[Hit]]:
        """Ask the graph without the filters, and take what passes; no hits where fewer than k are near enough."""
        first = steps[0]
        near = self._search(vectors, first.depth, [()] * len(vectors), exact=False, ef=first.ef, fields=False)
        close = [[hit for hit in hits if hit.score >= step.floor] for hits, step in zip(near, steps, strict=True)]
        enough = [row for row, hits in enumerate(close) if len(hits) >= k]
        filters = [among(wheres[row], close[row]) for row in enough]
        answers: list[list[Hit]] = [[] for _ in close]
        if enough:
            passed = self._search(vectors[enough], k, filters, exact=True, ef=first.ef, fields=fields)
            for row, hits in zip(enough, passed, strict=True):
                answers[row] = hits
                if len(hits) < k and len(close[row]) == first.depth:
                    steps[row].deepen()  # all were near enough: more of them might have passed
        return answers

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
    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        """The most frequent values of a keyword field, `limit` at most."""

    def facet(self, field: str, where: Where = (), *, limit: int | None = None) -> dict[str, int]:
        """How many points have each value of a keyword field, the most frequent first.

        Args:
            field: A keyword field with an index.
            where: Which points to count.
            limit: Values at most; None for all of them.
        """
        if limit is not None:
            return self._facet(field, where, limit)
        limit = FACET_LIMIT
        while len(found := self._facet(field, where, limit)) >= limit:
            limit *= 10
        return found

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; unknown ids are no error."""

    def set_payloads(self, changes: Mapping[str, Payload]) -> None:
        """Set some payload fields of some points, by id; the other fields stay.

        Raises:
            RecordError: an engine can't keep a value, see `cbmir.bounds`; nothing is changed then.
            StoreError: an id is unknown, where the engine tells.
        """
        for payload in changes.values():
            check_payload(payload)
        self._set_payloads(changes)

    @abstractmethod
    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        """Set checked payload fields."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written is on disk."""

    def defer_index(self) -> None:  # noqa: B027  a directory builds its graph in `finish` anyway
        """Build no graph until `finish`, for many writes at once; until then every search compares all images.

        It outlives this process: after an interrupted load, `finish` of another one builds the graph.

        Raises:
            StoreError: the key may not change the collection.
        """

    def finish(self, progress: Progress | None = None) -> None:
        """Build what makes searches fast, and measure them; returns when the collection is green.

        Raises:
            StoreError: the engine failed to index; nothing is lost.
        """
        from cbmir.store.tuning import measure_search

        self._index(progress)
        profile = measure_search(self, progress)
        if profile != self.profile:
            self._chooser = Chooser(self.count, self.card.dim, profile)
            self.set_metadata({"search": profile and profile.as_json()})

    @abstractmethod
    def _index(self, progress: Progress | None) -> None:
        """Build the HNSW graph."""

    def remember(self, root: Path, datasets: Iterable[str]) -> None:
        """Keep the folder that the images of some data sets were read from, for whoever shows them.

        Raises:
            StoreError: the metadata can't be written.
        """
        roots = with_root(self.roots, root, datasets)
        if roots != self.roots:
            self.set_metadata({ROOTS: roots})
            self.roots = roots

    def may_change(self) -> bool:
        """Whether metadata can be set; of a server by its key, without changing anything."""
        return True

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What the collection remembers of itself besides its points."""

    @abstractmethod
    def set_metadata(self, changes: Mapping[str, Any]) -> None:
        """Set some keys of the collection's metadata; the others stay.

        Where a key of a server may write points only, nothing is kept, and a warning says so.
        """

    def own_values(self, field: str) -> dict[Any, int]:
        """How many points have each text and number of an own column, as counted within the last minute.

        Args:
            field: ``extra.`` and the name of the column.
        """
        if self.own_index(field) == "keyword":
            return self.facet(engine_key(field), limit=max(FACET_LIMIT, self.count()))
        return self._own.values(field)

    def own_columns(self) -> dict[str, int]:
        """How many points have each own column, as counted within the last minute."""
        return self._own.names()

    def own_index(self, field: str) -> IndexKind | None:
        """The index that holds all values of an own column; None without one, or where values are of several kinds."""
        found = self._own_index(engine_key(field))
        return found.kind if found and found.whole else None

    @abstractmethod
    def _own_index(self, key: str) -> OwnIndex | None:
        """The payload index on an own column, by the engine's name of it."""

    @abstractmethod
    def make_index(self, field: str, kind: IndexKind) -> None:
        """Make a payload index on an own column; one that exists is left as it is, one of another kind replaced.

        Args:
            field: ``extra.`` and the name of the column.
            kind: Of what it finds.
        """

    def read_columns(self) -> dict[str, str]:
        """What columns of its tables became, a payload field or ``label``, by the plain name of the column."""
        return read_columns(self.metadata())

    def spellings(self) -> dict[str, str]:
        """Other spellings of modalities that the collection's tables were read with, and their codes."""
        return dict(self.metadata().get("modalities") or {})

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
        if not names:
            raise CollectionError(f"no collection in {self.location}: {self._nothing()}")
        if len(names) > 1:
            raise CollectionError(f"name a collection of {self.location} (--collection); it has {', '.join(names)}")
        return names[0]

    def ailing(self, name: str) -> list[str]:
        """Parts of a collection on a cluster that are dead, and where; none on one machine."""
        return []

    def damages(self, name: str, *, full: bool = False) -> list[str]:
        """Files of a closed collection that aren't as they were when it was indexed; none where nobody can tell.

        Args:
            name: Of the collection.
            full: Read large ones too.
        """
        return []

    def recovering(self, name: str) -> list[str]:
        """Parts of a collection on a cluster that are not complete yet, and become so by themselves; and where."""
        return []

    def remains(self) -> list[str]:
        """What killed processes left of collections, a sentence each with the remedy; a server leaves none."""
        return []

    def close(self) -> None:  # noqa: B027  a directory has no connection
        """Let go of connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nothing(self) -> str:
        """Why a store has no collection, in words."""
        return "it holds no collection yet"

    def _missing(self, name: str) -> CollectionError:
        names = self.names()
        there = f"there are {', '.join(names)}" if names else self._nothing()
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
        **card.notes(),
    }


def card_from(metadata: Any, place: str) -> EncoderCard:
    """The encoder card in a collection's metadata.

    Raises:
        CollectionError: the metadata is not ours, damaged, or of a later version.
    """
    try:
        if metadata["format"] != 1:
            raise CollectionError(f"{place} has format {metadata['format']}; this cbmir reads 1: update cbmir")
        card = EncoderCard.from_json(metadata["encoder"]).noted(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise CollectionError(f"{place} was not made by cbmir or its metadata is damaged ({error!r})") from error
    if card.fingerprint != metadata.get("fingerprint"):
        raise CollectionError(
            f"{place}: the encoder in its metadata doesn't have the fingerprint that stands beside it"
        )
    return card
