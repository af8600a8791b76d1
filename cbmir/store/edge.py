"""A directory as a store: Qdrant Edge, the real engine inside this process.

``DIR/<collection>/collection.json`` holds the metadata, ``DIR/<collection>/shard/`` what the engine keeps. One process
at a time holds a collection: by ``DIR/<collection>/lock``, which it keeps while another process of its own builds the
index, and by the engine's own lock on its write-ahead log.
"""

import json
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self, cast
from weakref import WeakValueDictionary

import numpy as np
import qdrant_edge as q

from cbmir.errors import (
    CbmirError,
    CollectionError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    failed_writing,
)
from cbmir.filters import Where, engine_key, to_edge
from cbmir.fingerprint import EncoderCard
from cbmir.schema import INDEXED_FIELDS, EmbeddedBatch, Hit, Payload, PayloadField, StoredPoint, Vectors, rank_hits
from cbmir.store.base import (
    SCROLL_BATCH,
    Collection,
    CollectionInfo,
    Fields,
    Progress,
    Store,
    card_from,
    check_name,
    metadata,
)
from cbmir.store.columns import IndexKind, OwnIndex, kind_of_index
from cbmir.store.folders import all_remains, delete_folder, held, put_aside, remains, write_whole
from cbmir.store.indexing import index_in_child
from cbmir.store.layout import DEFAULT, OVERSAMPLING, QUANTILE, Layout, Plan, plan
from cbmir.store.roots import Roots, roots_from
from cbmir.store.sealed import damages, remove_seals, sentence, write_seals
from cbmir.store.ways import SearchProfile
from cbmir.units import counted

ENGINE = f"qdrant-edge {version('qdrant-edge-py')}"
FLUSH_EVERY = 20_000
"""Points between flushes; a flush truncates the write-ahead log."""
SPARE_BYTES = 200_000_000
"""Space that must be free before a batch is written: the engine makes files of 32 MiB, some at once."""

_LEAVING_S = 60.0
"""Time for a killed process's helper to let go of the engine's files."""
_POLL_S = 0.05


_OPENING = threading.RLock()
_OPEN: "WeakValueDictionary[tuple[int, int], EdgeCollection]" = WeakValueDictionary()
"""The collections that this process holds, by device and inode of their folders; one that nobody uses any more goes."""


class EdgeStore(Store):
    """A directory of collections, made with the first one.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise StoreError(f"the store {path} is a file; give a directory or an http(s) URL")
        self.path = path
        self.location = str(path)

    def names(self) -> list[str]:
        """The collections, sorted."""
        try:
            return sorted(
                item.parent.name for item in self.path.glob("*/collection.json") if not item.parent.name.startswith(".")
            )
        except OSError as error:
            raise StoreError(f"can't read the store {self.path}: {error}") from error

    def create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> "EdgeCollection":
        """Make a collection; a process killed at any moment leaves either the whole of it or nothing."""
        if layout.spread:
            raise CollectionError(f"{self.path} is a directory: it has no shards and replicas, which are for a cluster")

        def fill(made: Path) -> None:
            _create_shard(made / "shard", card.dim, plan(layout, card.dim))
            data = {**metadata(card), "engine": ENGINE}
            (made / "collection.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

        return self.adopt(name, fill)

    def adopt(self, name: str, fill: Callable[[Path], object]) -> "EdgeCollection":
        """Make a collection of the files of another one; a process killed meanwhile leaves nothing.

        Args:
            name: Of the new collection.
            fill: Puts the files into an empty folder.

        Raises:
            CollectionError: it exists already, the name can't be used, or the files are of another engine or damaged.
        """
        check_name(name)
        folder = self.path / name
        if folder.exists():
            raise CollectionError(f"{folder} exists already; drop the collection or choose another name")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clean(name)
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=self.path))
            lock = held(made)
            try:
                fill(made)
                card = read_card(made)
                made.rename(folder)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                lock.close()
                raise
        except OSError as error:
            raise failed_writing(f"can't make the collection {folder}: {error}", error) from error
        return EdgeCollection(folder, card, lock)

    def _clean(self, name: str) -> int:
        """Delete what killed processes left half made or half deleted, not what another one is at right now."""
        left = remains(self.path, name)
        for folder in left:
            delete_folder(folder)
        return len(left)

    def remains(self) -> list[str]:
        """What killed processes left of collections, a sentence each with the remedy."""
        return [
            f"{folder} is left of a collection {name} that was being {doing} when cbmir was killed, and may hold its "
            + (
                f"data: delete this folder; the collection {name} is another one and stays"
                if (self.path / name).exists()
                else f"data: `cbmir collections drop {name} --store {self.path}` deletes it"
            )
            for folder, name, doing in all_remains(self.path)
        ]

    def open(self, name: str) -> "EdgeCollection":
        """Open a collection and hold it against other processes until it is closed.

        Where it is open in this process already, that one is returned, and is closed when all who opened it have.
        """
        folder = self.path / name
        if name not in self.names():
            raise self._missing(name)
        with _OPENING:
            there = _OPEN.get(_inode(folder))
            return there.shared() if there else EdgeCollection(folder, read_card(folder))

    def _nothing(self) -> str:
        return super()._nothing() if self.path.exists() else "there is no such directory"

    def damages(self, name: str, *, full: bool = False) -> list[str]:
        """Files of a closed collection that aren't as they were when it was indexed."""
        with held(self.path / name):
            return damages(self.path / name, full=full)

    def drop(self, name: str) -> None:
        """Delete a collection, a damaged one too, or what a killed process left of one.

        From the first step on nobody sees the collection; a drop that is killed later is finished by another one.
        """
        if name not in self.names():
            if not (self.path.is_dir() and self._clean(name)):
                raise self._missing(name)
            return
        folder = self.path / name
        with held(folder):
            try:
                gone = put_aside(folder)
                delete_folder(gone)
            except OSError as error:
                raise StoreError(f"can't delete the collection {folder}: {error}") from error


class EdgeCollection(Collection):
    """A collection held by the engine in this process."""

    def __init__(self, folder: Path, card: EncoderCard, lock: IO[bytes] | None = None) -> None:
        super().__init__(folder.name, card, *_read_notes(folder))
        self.folder = folder
        self._lock = lock or held(folder)
        try:
            self._shard = _load_shard(folder)
        except BaseException:
            self._lock.close()
            raise
        self._unflushed = 0
        self._sealed = True
        self._holders = 1
        self._key = _inode(folder)
        with _OPENING:
            _OPEN[self._key] = self

    def shared(self) -> Self:
        """This collection for one more, who closes it too."""
        self._holders += 1
        return self

    def _write(self, batch: EmbeddedBatch) -> None:
        self._need_space()
        self._unseal()
        with _engine(self.folder):
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
        with _engine(self.folder):
            if len(requests) == 1:
                answers = [self._shard.query(requests[0])]
            else:
                answers = self._shard.query_batch(q.QueryBatchRequest(requests))
        return [rank_hits([(str(p.id), p.score, p.payload or {}) for p in answer]) for answer in answers]

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """The stored points of some ids, unknown ones left out."""
        with _engine(self.folder):
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
            with _engine(self.folder):
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
        with _engine(self.folder):
            return self._shard.count(q.CountRequest(exact=True, filter=to_edge(where)))

    def bare(self) -> int:
        """Points that have no vector."""
        without = q.Filter(must_not=[q.HasVectorCondition("")])
        with _engine(self.folder):
            return self._shard.count(q.CountRequest(exact=True, filter=without))

    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        request = q.FacetRequest(key=field, limit=limit, exact=True, filter=to_edge(where))
        with _engine(self.folder):
            hits = self._shard.facet(request).hits
        return {str(hit.value): hit.count for hit in sorted(hits, key=lambda hit: (-hit.count, str(hit.value)))}

    def _own_index(self, key: str) -> OwnIndex | None:
        having = q.Filter(must_not=[q.IsEmptyCondition(key)])
        with _engine(self.folder):
            found = self._shard.info().payload_schema.get(key)
            kind = kind_of_index(found.data_type) if found else None
            if found is None or kind is None:
                return None
            return OwnIndex(kind, found.points == self._shard.count(q.CountRequest(exact=True, filter=having)))

    def make_index(self, field: str, kind: IndexKind) -> None:
        """Make a payload index on an own column."""
        key = engine_key(field)
        there = self._own_index(key)
        if there and there.kind == kind:
            return
        params = q.KeywordIndexParams() if kind == "keyword" else q.FloatIndexParams()
        self._unseal()
        with _engine(self.folder):
            self._shard.update(q.UpdateOperation.create_field_index(key, params))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points."""
        self._unseal()
        with _engine(self.folder):
            self._shard.update(q.UpdateOperation.delete_points(list(ids)))

    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        self._unseal()
        with _engine(self.folder):
            for id, payload in changes.items():
                self._shard.update(q.UpdateOperation.set_payload([id], payload))

    def flush(self) -> None:
        """Write all to disk and truncate the write-ahead log."""
        with _engine(self.folder):
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

    def set_metadata(self, changes: Mapping[str, Any]) -> None:
        """Set some keys of the collection's metadata."""
        path = self.folder / "collection.json"
        try:
            write_whole(path, json.dumps(self.metadata() | dict(changes), indent=2) + "\n")
        except OSError as error:
            raise failed_writing(f"can't write {path}: {error}", error) from error

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """The engine lets go of the files meanwhile, and nobody else may have them; then it is open again."""
        self._close_shard()
        try:
            yield
        finally:
            self._shard = _load_shard(self.folder)

    def info(self) -> CollectionInfo:
        """The collection in figures."""
        with _engine(self.folder):
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
        with _engine(self.folder):
            self._shard.close()


def optimize(folder: Path) -> None:
    """Build the HNSW graph of a closed collection, holding the GIL until it is done."""
    shard = _load_shard(folder)
    with _engine(folder):
        shard.optimize()
        shard.close()


def check_shard(folder: Path) -> None:
    """Look whether the engine can open a collection that nobody has open.

    Raises:
        StoreError: it can't.
    """
    shard = _load_shard(folder)
    with _engine(folder):
        shard.close()


def _create_shard(path: Path, dim: int, planned: Plan) -> None:
    at_hand, graph = _memory(planned.vectors_in_memory), _memory(planned.graph_in_memory)
    quantized = q.ScalarQuantizationConfig(q.ScalarType.Int8, quantile=QUANTILE, memory=graph)
    config = q.EdgeConfig(
        vectors=q.EdgeVectorParams(size=dim, distance=q.Distance.Cosine, memory=at_hand),
        hnsw_config=q.HnswIndexConfig(
            m=planned.m, ef_construct=planned.ef_construct, full_scan_threshold=10_000, memory=graph
        ),
        quantization_config=quantized if planned.quantized else None,
    )
    with _engine(path):
        path.mkdir()
        shard = q.EdgeShard.create(str(path), config)
        for field in INDEXED_FIELDS:
            shard.update(q.UpdateOperation.create_field_index(field.name, _index(field, planned)))
        shard.close()


def _memory(kept: bool) -> q.Memory:
    return q.Memory.Cached if kept else q.Memory.Cold


def _index(field: PayloadField, planned: Plan) -> Any:
    memory = _memory(planned.indexes_in_memory)
    if field.kind == "keyword":
        return q.KeywordIndexParams(is_tenant=field.tenant or None, memory=memory)
    kinds = {"integer": q.IntegerIndexParams, "float": q.FloatIndexParams, "datetime": q.DatetimeIndexParams}
    return kinds[field.kind](memory=memory)


def _inode(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise StoreError(f"can't open {folder}: {error}") from error
    return found.st_dev, found.st_ino


def _load_shard(folder: Path) -> q.EdgeShard:
    """Open the engine on a collection whose lock this process, or the one that started it, holds.

    The engine's own lock can then be held only by what a killed process has started and what is ending: it is waited
    for, since an end takes its time while the disk is busy.
    """
    for _ in range(round(_LEAVING_S / _POLL_S)):
        try:
            return _loaded(folder)
        except StoreLockedError:
            time.sleep(_POLL_S)
    return _loaded(folder)


def _loaded(folder: Path) -> q.EdgeShard:
    with _engine(folder):
        shard = q.EdgeShard.load(str(folder / "shard"))
        if shard.info().payload_schema:
            return shard
        shard.close()
    # the engine says nothing of it
    raise StoreDamagedError(f"{folder} is damaged: it has lost its indexes, and points with them")


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


@contextmanager
def _engine(folder: Path) -> Iterator[None]:
    """Turn what the engine raises, bare exceptions and Rust panics, into errors of ours."""
    try:
        yield
    except CbmirError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "WouldBlock" in text:
            raise StoreLockedError(f"{folder} is in use by another process; wait for it or stop it") from error
        raise StoreError(f"the engine refused {folder}: {text}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        text = " ".join(str(error).split())
        raise StoreDamagedError(f"{folder} is damaged, the engine gave up on it: {text}") from None
