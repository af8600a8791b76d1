"""A collection that is made when the first batch is there to be written: a run that fails early leaves none behind."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cbmir.errors import CollectionError
from cbmir.filters import Where
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors
from cbmir.store import Collection, CollectionInfo, Store
from cbmir.store.collection import SCROLL_BATCH, Progress
from cbmir.store.columns import IndexKind, OwnIndex
from cbmir.store.identity import check_name
from cbmir.store.ways import Fields


def open_or_defer(store: Store, name: str, card: EncoderCard, opening: Callable[[], Collection]) -> Collection:
    """Open a collection that exists; of one that doesn't, its place.

    Args:
        store: Where it is.
        name: Of the collection.
        card: Of its encoder.
        opening: Opens or makes it.

    Raises:
        CollectionError: the name can't be used.
    """
    check_name(name)
    return opening() if name in store.names() else Deferred(name, card, opening, getattr(store, "streams", 1))


class Deferred(Collection):
    """Holds nothing until the first batch comes, and is the real collection from then on.

    Attributes:
        made: The real one; None before.
    """

    def __init__(self, name: str, card: EncoderCard, opening: Callable[[], Collection], streams: int) -> None:
        super().__init__(name, card)
        self.streams = streams
        self.made: Collection | None = None
        self._opening = opening
        self._lock = threading.Lock()

    def _write(self, batch: EmbeddedBatch) -> None:
        with self._lock:
            self.made = self.made or self._opening()
        self.made.upsert(batch)

    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        if self.made is None:
            return [[] for _ in vectors]
        return self.made._search(vectors, k, wheres, exact=exact, ef=ef, fields=fields)

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """Nothing yet, or what the real one has."""
        return self.made.get(ids, fields=fields, vectors=vectors) if self.made else []

    def scroll(
        self, where: Where = (), *, fields: Fields = True, vectors: bool = False, batch: int = SCROLL_BATCH
    ) -> Iterator[list[StoredPoint]]:
        """Nothing yet, or what the real one has."""
        return self.made.scroll(where, fields=fields, vectors=vectors, batch=batch) if self.made else iter(())

    def count(self, where: Where = ()) -> int:
        """How many points satisfy the filter."""
        return self.made.count(where) if self.made else 0

    def without_vector(self) -> int:
        """Points that have no vector."""
        return self.made.without_vector() if self.made else 0

    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        return self.made._facet(field, where, limit) if self.made else {}

    def _delete(self, ids: Sequence[str]) -> None:
        if self.made:
            self.made.delete(ids)

    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        if self.made:
            self.made.set_payloads(changes)

    def flush(self) -> None:
        """Return when all that was written is on disk."""
        if self.made:
            self.made.flush()

    def defer_index(self) -> None:
        """Build no graph until `finish`, also where the collection is made later."""
        if self.made:
            self.made.defer_index()
            return
        opening = self._opening

        def deferring() -> Collection:
            made = opening()
            made.defer_index()
            return made

        self._opening = deferring

    def finish(self, progress: Progress | None = None) -> None:
        """Build what makes searches fast, if anything was written."""
        if self.made:
            self.made.finish(progress)

    def _index(self, progress: Progress | None) -> None:
        if self.made:
            self.made._index(progress)

    def remember(self, root: Path, datasets: Iterable[str]) -> None:
        """Keep the folder of the images, if anything was written."""
        if self.made:
            self.made.remember(root, datasets)

    def metadata(self) -> dict[str, Any]:
        """Nothing yet, or what the real one remembers."""
        return self.made.metadata() if self.made else {}

    def _set_metadata(self, changes: Mapping[str, Any]) -> None:
        if self.made:
            self.made.set_metadata(changes)

    def _own_index(self, key: str) -> OwnIndex | None:
        return self.made._own_index(key) if self.made else None

    def _make_index(self, field: str, kind: IndexKind) -> None:
        if self.made:
            self.made.make_index(field, kind)

    def info(self) -> CollectionInfo:
        """The collection in figures.

        Raises:
            CollectionError: nothing has been stored.
        """
        if self.made is None:
            raise CollectionError(f"there is no collection {self.name} yet: nothing has been stored")
        return self.made.info()

    def close(self) -> None:
        """Close the real one."""
        if self.made:
            self.made.close()
