"""The points of a collection in a directory, held by the engine in this process."""

import json
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast
from weakref import WeakValueDictionary

import numpy as np
import qdrant_edge as q

from cbmir.errors import CollectionError, StoreDamagedError, StoreError, StoreFullError, failed_writing
from cbmir.filters import Where, engine_key, to_edge
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors, rank_hits
from cbmir.store.collection import SCROLL_BATCH, Collection, Progress
from cbmir.store.columns import IndexKind, OwnIndex, kind_of_index
from cbmir.store.folders import held
from cbmir.store.identity import card_from
from cbmir.store.indexing import index_in_child
from cbmir.store.info import CollectionInfo
from cbmir.store.layout import OVERSAMPLING
from cbmir.store.profile import SearchProfile
from cbmir.store.roots import Roots, roots_from
from cbmir.store.sealed import damages, remove_seals, sentence, write_seals
from cbmir.store.shard import ENGINE, errors_of_engine, load_shard
from cbmir.store.ways import Fields
from cbmir.units import counted
from cbmir.wholefile import atomic_write

FLUSH_EVERY = 20_000
"""Points between flushes; a flush truncates the write-ahead log."""
SPARE_BYTES = 200_000_000
"""Space that must be free before a batch is written: the engine makes files of 32 MiB, some at once."""

_OPENING = threading.RLock()
_OPEN: "WeakValueDictionary[tuple[int, int], EdgeCollection]" = WeakValueDictionary()
"""The collections that this process holds, by device and inode of their folders; one that nobody uses any more goes."""


class EdgeCollection(Collection):
    """A collection held by the engine in this process."""

    def __init__(self, folder: Path, card: EncoderCard, lock: IO[bytes] | None = None) -> None:
        super().__init__(folder.name, card, *_read_notes(folder))
        self.folder = folder
        self._lock = lock or held(folder)
        try:
            self._shard = load_shard(folder)
        except BaseException:
            self._lock.close()
            raise
        self._unflushed = 0
        self._sealed = True
        self._holders = 1
        self._key = _inode(folder)
        with _OPENING:
            _OPEN[self._key] = self

    @classmethod
    def opened(cls, folder: Path) -> "EdgeCollection":
        """Open a collection, or share it where this process has it open: it is closed when all who opened it have."""
        with _OPENING:
            there = _OPEN.get(_inode(folder))
            if there is None:
                return cls(folder, read_card(folder))
            there._holders += 1
            return there

    def _write(self, batch: EmbeddedBatch) -> None:
        self._need_space()
        self._unseal()
        with errors_of_engine(self.folder):
            points = [
                q.Point(record.id, memoryview(vector), record.payload())  # type: ignore[arg-type]  # a list takes twice as long
                for record, vector in zip(batch.records, np.asarray(batch.vectors, np.float32), strict=True)
            ]
            self._shard.update(q.UpdateOperation.upsert_points(points))
        self._unflushed += len(points)
        if self._unflushed >= FLUSH_EVERY:
            self.flush()

    def _unseal(self) -> None:
        if self._sealed:
            remove_seals(self.folder)
            self._sealed = False

    def finish(self, progress: Progress | None = None) -> None:
        """Build the HNSW graph, measure the searches, and list the files with their checksums.

        Raises:
            StoreError: nothing was written, and the files aren't as they were listed before: a new list would hide it.
        """
        self.require_sound()
        super().finish(progress)
        try:
            with self.at_rest():
                write_seals(self.folder)
        except OSError as error:
            raise failed_writing(f"can't list the files of {self.folder}: {error}", error) from error
        self._sealed = True

    def require_sound(self) -> None:
        """Refuse a collection whose files have changed by themselves since they were listed.

        Raises:
            StoreError: they have; the message has the remedy.
        """
        if self._sealed and (flaws := damages(self.folder, full=True)):
            raise StoreError(f"{self.folder}: {sentence(flaws, self.name)}")

    def _need_space(self) -> None:
        """The engine maps its files into memory, and a full disk would end the process without a word."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StoreError(f"can't write to {self.folder}: {error.strerror}; was it removed meanwhile?") from error
        if free < SPARE_BYTES:
            raise StoreFullError(
                f"the disk of {self.folder} is full: {free:,} bytes are free, {SPARE_BYTES:,} are needed to go on; "
                "what was stored stays"
            )

    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        quantization = q.QuantizationSearchParams(ignore=exact, rescore=True, oversampling=OVERSAMPLING)
        params = q.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization)
        filters: dict[Where, Any] = {}
        requests = []
        for vector, where in zip(vectors.tolist(), wheres, strict=True):
            if where not in filters:
                filters[where] = to_edge(where)
            requests.append(
                q.QueryRequest(
                    limit=k,
                    query=q.Query.Nearest(vector),
                    filter=filters[where],
                    params=params,
                    with_payload=_selector(fields),
                )
            )
        with errors_of_engine(self.folder):
            if len(requests) == 1:
                answers = [self._shard.query(requests[0])]
            else:
                answers = self._shard.query_batch(q.QueryBatchRequest(requests))
        return [rank_hits([(str(p.id), p.score, p.payload or {}) for p in answer]) for answer in answers]

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """The stored points of some ids, unknown ones left out."""
        with errors_of_engine(self.folder):
            records = self._shard.retrieve(list(ids), with_payload=_selector(fields), with_vector=vectors)
        return self._points(records, vectors)

    def scroll(
        self, where: Where = (), *, fields: Fields = True, vectors: bool = False, batch: int = SCROLL_BATCH
    ) -> Iterator[list[StoredPoint]]:
        """All points that satisfy the filter, by rising id."""
        offset, edge_filter = None, to_edge(where)
        while True:
            request = q.ScrollRequest(
                offset=offset, limit=batch, filter=edge_filter, with_payload=_selector(fields), with_vector=vectors
            )
            with errors_of_engine(self.folder):
                records, offset = self._shard.scroll(request)
            if records:
                yield self._points(records, vectors)
            if offset is None:
                return

    def _points(self, records: Sequence[q.Record], vectors: bool) -> list[StoredPoint]:
        if not vectors:
            return [StoredPoint(str(record.id), record.payload or {}) for record in records]
        packed = struct.Struct(f"{self.card.dim}f")  # half the time of numpy's reading of a list
        points = []
        for record in records:
            vector = record.vector  # the engine makes a list of it at each look
            if not isinstance(vector, list):
                raise StoreDamagedError(f"{self.folder} is damaged: a point has lost its vector")
            row = np.frombuffer(packed.pack(*cast("list[float]", vector)), dtype=np.float32)
            points.append(StoredPoint(str(record.id), record.payload or {}, row))
        return points

    def count(self, where: Where = ()) -> int:
        """How many points satisfy the filter."""
        with errors_of_engine(self.folder):
            return self._shard.count(q.CountRequest(exact=True, filter=to_edge(where)))

    def without_vector(self) -> int:
        """Points that have no vector."""
        without = q.Filter(must_not=[q.HasVectorCondition("")])
        with errors_of_engine(self.folder):
            return self._shard.count(q.CountRequest(exact=True, filter=without))

    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        request = q.FacetRequest(key=field, limit=limit, exact=True, filter=to_edge(where))
        with errors_of_engine(self.folder):
            hits = self._shard.facet(request).hits
        return {str(hit.value): hit.count for hit in sorted(hits, key=lambda hit: (-hit.count, str(hit.value)))}

    def _own_index(self, key: str) -> OwnIndex | None:
        having = q.Filter(must_not=[q.IsEmptyCondition(key)])
        with errors_of_engine(self.folder):
            found = self._shard.info().payload_schema.get(key)
            kind = kind_of_index(found.data_type) if found else None
            if found is None or kind is None:
                return None
            return OwnIndex(kind, found.points == self._shard.count(q.CountRequest(exact=True, filter=having)))

    def _make_index(self, field: str, kind: IndexKind) -> None:
        params = q.KeywordIndexParams() if kind == "keyword" else q.FloatIndexParams()
        self._unseal()
        with errors_of_engine(self.folder):
            self._shard.update(q.UpdateOperation.create_field_index(engine_key(field), params))

    def _delete(self, ids: Sequence[str]) -> None:
        self._unseal()
        with errors_of_engine(self.folder):
            self._shard.update(q.UpdateOperation.delete_points(list(ids)))

    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        self._unseal()
        with errors_of_engine(self.folder):
            for id, payload in changes.items():
                self._shard.update(q.UpdateOperation.set_payload([id], payload))

    def flush(self) -> None:
        """Write all to disk and truncate the write-ahead log."""
        with errors_of_engine(self.folder):
            self._shard.flush()
        self._unflushed = 0

    def _index(self, progress: Progress | None) -> None:
        """Build the HNSW graph in a process of its own: the engine holds the GIL for all of it.

        The collection is closed meanwhile and open again afterwards. Interrupting it loses nothing.
        """
        points = self.info().points

        def waiting(seconds: float) -> None:
            if progress:
                progress(f"indexing {counted(points, 'vector')}: {seconds:.0f} s")

        with self.at_rest():
            index_in_child(self.folder, waiting)

    def metadata(self) -> dict[str, Any]:
        """What the collection remembers of itself besides its points."""
        path = self.folder / "collection.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise StoreError(f"can't read {path}: {error}") from error

    def _set_metadata(self, changes: Mapping[str, Any]) -> None:
        path = self.folder / "collection.json"
        try:
            atomic_write(path, json.dumps(self.metadata() | dict(changes), indent=2) + "\n")
        except OSError as error:
            raise failed_writing(f"can't write {path}: {error}", error) from error

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """The engine lets go of the files meanwhile, and nobody else may have them; then it is open again."""
        self._close_shard()
        try:
            yield
        finally:
            self._shard = load_shard(self.folder)

    def info(self) -> CollectionInfo:
        """The collection in figures."""
        with errors_of_engine(self.folder):
            info = self._shard.info()
        fields = frozenset(info.payload_schema)
        return CollectionInfo(info.points_count, info.indexed_vectors_count, "green", ENGINE, fields)

    def close(self) -> None:
        """Flush and let other processes in, when the last who opened it closes it."""
        with _OPENING:
            self._holders -= 1
            if self._holders > 0:
                return
            _OPEN.pop(self._key, None)
            try:
                self._close_shard()
            finally:
                self._lock.close()

    def _close_shard(self) -> None:
        with errors_of_engine(self.folder):
            self._shard.close()


def read_card(folder: Path) -> EncoderCard:
    """The encoder of a collection, open or not.

    Raises:
        StoreDamagedError: its metadata is missing or damaged.
        CollectionError: it was written by another version of the engine.
    """
    path = folder / "collection.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        engine = str(data.get("engine"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise StoreDamagedError(f"{path} is damaged: {error}") from error
    if _minor(engine) != _minor(ENGINE):
        raise CollectionError(
            f"{folder} was written by {engine}, here runs {ENGINE}: install the version that wrote it, "
            f"or drop the collection and ingest again"
        )
    return card_from(data, str(path))


def _inode(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise StoreError(f"can't open {folder}: {error}") from error
    return found.st_dev, found.st_ino


def _read_notes(folder: Path) -> tuple[SearchProfile | None, Roots]:
    try:
        data = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreDamagedError(f"{folder / 'collection.json'} is damaged: {error}") from error
    return SearchProfile.from_json(data.get("search")), roots_from(data)


def _minor(engine: str) -> str:
    return engine.rpartition(".")[0]


def _selector(fields: Fields) -> bool | list[str]:
    return fields if isinstance(fields, bool) else list(fields)
