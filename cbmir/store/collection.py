"""What callers see of a collection: about a dozen verbs, the same over every engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from cbmir.bounds import check_payload
from cbmir.errors import FingerprintError, RecordError
from cbmir.filters import Condition, Value, Where, engine_key
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors
from cbmir.store.asking import Asking
from cbmir.store.columns import IndexKind, OwnIndex, column_values, columns
from cbmir.store.counts import Counts
from cbmir.store.info import CollectionInfo
from cbmir.store.profile import SearchProfile
from cbmir.store.roots import ROOTS, Roots, with_root
from cbmir.store.sources import read_columns
from cbmir.store.ways import BUDGET_MS, Chooser, Fields, Found, Wanted, search_ef

FACET_LIMIT = 100_000
"""Values a facet asks for at first; where there are more, as of patient_id, it asks again for ten times as many."""

SCROLL_BATCH = 1024

Progress = Callable[[str], None]
"""Called now and then with one line about long work."""


class Collection(ABC):
    """All images embedded by one encoder.

    Attributes:
        name: Name of the collection.
        card: The encoder that made its vectors.
        streams: Threads that may write to it at once.
        budget_ms: A scan that is estimated to take longer is not made unless it is asked for; such an answer may be
            approximate, and says so.
        roots: Folders that its images were read from, by data set, see `cbmir.store.roots`.
        profile: What was measured about its searches; None for a collection that is small or was not optimized.
    """

    streams = 1
    budget_ms = BUDGET_MS

    def __init__(
        self, name: str, card: EncoderCard, profile: SearchProfile | None = None, roots: Roots | None = None
    ) -> None:
        self.name = name
        self.card = card
        self.roots = roots or {}
        self._counts, self._own = Counts(), Counts()
        self._measured(profile)

    def _measured(self, profile: SearchProfile | None) -> None:
        self.profile = profile
        self._asking = Asking(self._search, Chooser(self.counted, self.card.dim, profile))

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
            with self._writing():
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
            return self._asking.best(vectors, k, wheres, fields, self.budget_ms)
        answers = self._search(vectors, k, wheres, exact=way == "exact", ef=ef or search_ef(k), fields=fields)
        return [Found(hits, way) for hits in answers]

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
    def without_vector(self) -> int:
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
        asked = FACET_LIMIT if limit is None else limit
        while len(found := self._facet(field, where, asked)) >= asked and limit is None:
            asked *= 10
        return {value: count for value, count in found.items() if count}  # the engine lists removed values as well

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; unknown ids are no error."""
        with self._writing():
            self._delete(ids)

    @abstractmethod
    def _delete(self, ids: Sequence[str]) -> None:
        """Remove points."""

    def set_payloads(self, changes: Mapping[str, Payload]) -> None:
        """Set some payload fields of some points, by id; the other fields stay.

        Raises:
            RecordError: an engine can't keep a value, see `cbmir.bounds`; nothing is changed then.
            StoreError: an id is unknown, where the engine tells.
        """
        for payload in changes.values():
            check_payload(payload)
        with self._writing():
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
            self._measured(profile)
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

    def set_metadata(self, changes: Mapping[str, Any]) -> None:
        """Set some keys of the collection's metadata; the others stay.

        Where a key of a server may write points only, nothing is kept, and a warning says so.
        """
        with self._writing():
            self._set_metadata(changes)

    @abstractmethod
    def _set_metadata(self, changes: Mapping[str, Any]) -> None:
        """Set some keys of the metadata."""

    def counted(self, where: Where) -> int:
        """How many points satisfy the filter, as counted within the last minute."""
        return self._counts.lately(("count", where), lambda: self.count(where))

    def holds(self, field: str, value: Value) -> bool:
        """Whether any point has a value in a field, as counted within the last minute."""
        return self.counted((Condition(field, "=", (value,)),)) > 0

    def stored_values(self, field: str) -> dict[str, int]:
        """How many points have each value of a keyword field, as counted within the last minute."""
        return self._counts.lately(("facet", field), lambda: self.facet(field))

    def recount(self) -> None:
        """Count anew from now on what was counted within the last minute, but for own columns."""
        self._counts.forget()

    def own_values(self, field: str) -> dict[Any, int]:
        """How many points have each text and number of an own column, as counted within the last minute.

        Args:
            field: ``extra.`` and the name of the column.
        """
        return self._own.lately(("values", field), lambda: self._own_values(field))

    def _own_values(self, field: str) -> dict[Any, int]:
        if self.own_index(field) == "keyword":
            return self.facet(engine_key(field), limit=max(FACET_LIMIT, self.count()))
        return column_values(self.scroll, field)

    def own_columns(self) -> dict[str, int]:
        """How many points have each own column, as counted within the last minute."""
        return self._own.lately("columns", lambda: columns(self.scroll))

    def own_index(self, field: str) -> IndexKind | None:
        """The index that holds all values of an own column; None without one, or where values are of several kinds.

        It is as it was within the last minute.
        """
        found = self._own.lately(("index", field), lambda: self._own_index(engine_key(field)))
        return found.kind if found and found.whole else None

    @abstractmethod
    def _own_index(self, key: str) -> OwnIndex | None:
        """The payload index on an own column, by the engine's name of it."""

    def make_index(self, field: str, kind: IndexKind) -> None:
        """Make a payload index on an own column; one that exists is left as it is, one of another kind replaced.

        Args:
            field: ``extra.`` and the name of the column.
            kind: Of what it finds.
        """
        with self._writing():
            there = self._own_index(engine_key(field))
            if not (there and there.kind == kind):
                self._make_index(field, kind)

    @abstractmethod
    def _make_index(self, field: str, kind: IndexKind) -> None:
        """Make a payload index that isn't there."""

    def read_columns(self) -> dict[str, str]:
        """What columns of its tables became, a payload field or ``label``, by the plain name of the column."""
        return read_columns(self.metadata())

    def spellings(self) -> dict[str, str]:
        """Other spellings of modalities that its tables were read with, and their codes; as of the last minute."""
        return self._counts.lately("spellings", lambda: dict(self.metadata().get("modalities") or {}))

    @abstractmethod
    def info(self) -> CollectionInfo:
        """The collection in figures."""

    def close(self) -> None:  # noqa: B027  a server's collection is not held
        """Let go of the collection, so that another process can open it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What was counted before a write is not taken for true after it, also where it failed half-way."""
        try:
            yield
        finally:
            self._counts.forget()
            self._own.forget()

    def _check_dim(self, vectors: Vectors) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.card.dim:
            raise RecordError(f"collection {self.name} takes (n, {self.card.dim}) vectors, got {vectors.shape}")
