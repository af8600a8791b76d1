"""The points of a collection on a server."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from qdrant_client import QdrantClient, models

from cbmir.errors import StoreError, one_line
from cbmir.filters import Where, engine_key, to_qdrant
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, Hit, Payload, StoredPoint, Vectors, rank_hits
from cbmir.store.collection import SCROLL_BATCH, Collection, Progress
from cbmir.store.columns import IndexKind, OwnIndex, kind_of_index
from cbmir.store.connection import TIMEOUT_S, Connection
from cbmir.store.info import CollectionInfo
from cbmir.store.keys import Right
from cbmir.store.layout import OVERSAMPLING
from cbmir.store.profile import SearchProfile
from cbmir.store.retry import refused
from cbmir.store.roots import ROOTS, Roots
from cbmir.store.ways import Fields

REQUEST_POINTS = 256
REQUEST_BYTES = 8_000_000
"""Of one write: vectors and payloads; the server refuses requests over 32 MB unless told otherwise."""
INDEX_TIMEOUT_S = 86_400
"""A day: the graphs of some hundred million images take hours."""
_POLL_S = 0.5
_KEPT = {
    "search": "what was measured about its searches",
    "source": "how its tables were read",
    ROOTS: "where its images are",
}
_DEFERRED = "deferred_m"
"""In the metadata of a collection: edges of an image in its graph, while that is put off."""

T = TypeVar("T")


class ServerCollection(Collection):
    """A collection on a server."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        card: EncoderCard,
        profile: SearchProfile | None = None,
        roots: Roots | None = None,
    ) -> None:
        super().__init__(name, card, profile, roots)
        self.streams = connection.streams
        self._connection = connection
        self._consistency = connection.read_consistency

    def _call(self, work: Callable[[QdrantClient], T], doing: Right = "read") -> T:
        return self._connection.call(work, self.name, doing)

    def _write(self, batch: EmbeddedBatch) -> None:
        for part in _parts(batch):
            records = batch.records[part]
            points = models.Batch(
                ids=[record.id for record in records],
                vectors=batch.vectors[part].tolist(),
                payloads=[record.payload() for record in records],
            )
            self._upsert(points)

    def _upsert(self, points: models.Batch) -> None:
        self._call(lambda client: client.upsert(self.name, points, wait=True), "write")

    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        quantization = models.QuantizationSearchParams(ignore=exact, rescore=True, oversampling=OVERSAMPLING)
        params = models.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization)
        requests = [
            models.QueryRequest(
                query=vector, limit=k, filter=to_qdrant(where), params=params, with_payload=_selector(fields)
            )
            for vector, where in zip(vectors.tolist(), wheres, strict=True)
        ]
        answers = self._call(
            lambda client: client.query_batch_points(self.name, requests, self._consistency, timeout=TIMEOUT_S)
        )
        return [rank_hits([(str(p.id), p.score, p.payload or {}) for p in answer.points]) for answer in answers]

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """The stored points of some ids, unknown ones left out."""
        records = self._call(
            lambda client: client.retrieve(
                self.name,
                list(ids),
                with_payload=_selector(fields),
                with_vectors=vectors,
                consistency=self._consistency,
            )
        )
        return [_stored(record) for record in records]

    def scroll(
        self, where: Where = (), *, fields: Fields = True, vectors: bool = False, batch: int = SCROLL_BATCH
    ) -> Iterator[list[StoredPoint]]:
        """All points that satisfy the filter, by rising id."""
        offset: Any = None
        while True:
            records, offset = self._page(where, fields, vectors, batch, offset)
            if records:
                yield [_stored(record) for record in records]
            if offset is None:
                return

    def _page(self, where: Where, fields: Fields, vectors: bool, batch: int, offset: Any) -> tuple[list[Any], Any]:
        condition = to_qdrant(where)
        return self._call(
            lambda client: client.scroll(
                self.name,
                condition,
                limit=batch,
                offset=offset,
                with_payload=_selector(fields),
                with_vectors=vectors,
                consistency=self._consistency,
            )
        )

    def count(self, where: Where = ()) -> int:
        """How many points satisfy the filter."""
        condition = to_qdrant(where)
        return self._call(lambda client: client.count(self.name, condition, exact=True)).count

    def without_vector(self) -> int:
        """Points that have no vector."""
        without = models.Filter(must_not=[models.HasVectorCondition(has_vector="")])
        return self._call(lambda client: client.count(self.name, without, exact=True)).count

    def _facet(self, field: str, where: Where, limit: int) -> dict[str, int]:
        condition = to_qdrant(where)
        answer = self._call(
            lambda client: client.facet(
                self.name, field, condition, limit=limit, exact=True, consistency=self._consistency
            )
        )
        return {str(hit.value): hit.count for hit in sorted(answer.hits, key=lambda hit: (-hit.count, str(hit.value)))}

    def _own_index(self, key: str) -> OwnIndex | None:
        found = (self._state().payload_schema or {}).get(key)
        kind = kind_of_index(found.data_type) if found else None
        if found is None or kind is None:
            return None
        having = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
        return OwnIndex(kind, found.points == self._call(lambda c: c.count(self.name, having, exact=True)).count)

    def _make_index(self, field: str, kind: IndexKind) -> None:
        schema = models.PayloadSchemaType.KEYWORD if kind == "keyword" else models.PayloadSchemaType.FLOAT
        self._call(lambda client: client.create_payload_index(self.name, engine_key(field), schema, wait=True))

    def _delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return  # the client refuses an empty list
        selector = models.PointIdsList(points=list(ids))
        self._call(lambda client: client.delete(self.name, selector, wait=True), "write")

    def _set_payloads(self, changes: Mapping[str, Payload]) -> None:
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, points=[id]))
            for id, payload in changes.items()
        ]
        for start in range(0, len(operations), REQUEST_POINTS):
            part = operations[start : start + REQUEST_POINTS]
            self._change(part)

    def _change(self, operations: Sequence[models.UpdateOperation]) -> None:
        self._call(lambda client: client.batch_update_points(self.name, operations, wait=True), "write")

    def flush(self) -> None:
        """Nothing to do: every write waits until the server has it."""

    def defer_index(self) -> None:
        """Switch the graph off, and note in the metadata how it was."""
        m = self._state().config.hnsw_config.m
        if m:
            self._configure(hnsw_config=models.HnswConfigDiff(m=0), metadata={_DEFERRED: m})

    def _index(self, progress: Progress | None) -> None:
        """Return when the server has nothing left to optimise; a graph that was put off is switched on first.

        Raises:
            StoreError: an optimisation failed on the server, or it takes longer than `index_timeout_s`.
        """
        state = self._state()
        if m := _deferred(state):
            self._configure(hnsw_config=models.HnswConfigDiff(m=m), metadata={_DEFERRED: None})
            state = self._state()
        limit_s = index_timeout_s()
        started = time.monotonic()
        while state.status != models.CollectionStatus.GREEN:
            if state.status == models.CollectionStatus.RED:
                reason = one_line(str(state.optimizer_status))
                raise StoreError(f"{self._connection.location} ({self.name}) has failed to index: {reason}")
            if state.status == models.CollectionStatus.GREY:  # after a restart only the next change starts the index
                self._call(lambda client: client.update_collection(self.name, models.OptimizersConfigDiff()), "manage")
            if time.monotonic() - started > limit_s:
                raise StoreError(
                    f"{self._connection.location} ({self.name}) is still indexing after {limit_s:,} s, and goes on by "
                    f"itself; nothing is lost. To wait for it again: cbmir collections optimize {self.name} "
                    f"--timeout {min(10 * limit_s, 999_999_999)}"
                )
            if progress:
                progress(f"the server is indexing: {time.monotonic() - started:.0f} s")
            time.sleep(_POLL_S)
            state = self._state()

    def metadata(self) -> dict[str, Any]:
        """What the collection remembers of itself besides its points."""
        return dict(self._state().config.metadata or {})

    def _set_metadata(self, changes: Mapping[str, Any]) -> None:
        try:
            self._configure(metadata=dict(changes))
        except StoreError as error:
            if not (error.__cause__ and refused(error.__cause__)):
                raise
            logging.getLogger(__name__).warning(
                "the key may not change collection %s, so its metadata doesn't keep %s: run the same command "
                "with a key that may manage it",
                self.name,
                " and ".join(_KEPT.get(name.partition(":")[0], name) for name in changes),
            )

    def may_change(self) -> bool:
        """Whether the key may set metadata, found by setting none."""
        try:
            self._configure(metadata={})
        except StoreError as error:
            if not (error.__cause__ and refused(error.__cause__)):
                raise
            return False
        return True

    def _configure(self, **settings: Any) -> None:
        def change(client: QdrantClient) -> None:
            aliases = {item.alias_name: item.collection_name for item in client.get_aliases().aliases}
            client.update_collection(aliases.get(self.name, self.name), **settings)

        self._call(change, "manage")

    def info(self) -> CollectionInfo:
        """The collection in figures."""
        info = self._state()
        engine = f"qdrant-client {version('qdrant-client')}"
        fields = frozenset(info.payload_schema or ())
        indexed, status = info.indexed_vectors_count or 0, str(info.status.value)
        return CollectionInfo(self.count(), indexed, status, engine, fields, deferred=bool(_deferred(info)))

    def _state(self) -> models.CollectionInfo:
        return self._call(lambda client: client.get_collection(self.name))


def _deferred(state: models.CollectionInfo) -> int | None:
    """Edges of an image in the graph that was put off; None where none was."""
    m = (state.config.metadata or {}).get(_DEFERRED)
    return m if isinstance(m, int) and m > 0 else None


def index_timeout_s() -> int:
    """How long to wait for a server's index, in seconds: CBMIR_INDEX_TIMEOUT, or `INDEX_TIMEOUT_S`.

    Raises:
        StoreError: the variable is no number of seconds.
    """
    text = os.environ.get("CBMIR_INDEX_TIMEOUT") or str(INDEX_TIMEOUT_S)
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise StoreError(f"CBMIR_INDEX_TIMEOUT is {text!r}; give seconds, such as {INDEX_TIMEOUT_S}")
    return int(text)


def _parts(batch: EmbeddedBatch) -> Iterator[slice]:
    """A batch in requests of `REQUEST_POINTS` and about `REQUEST_BYTES` at most, one point at least."""
    start, size = 0, 0
    for number, record in enumerate(batch.records):
        added = batch.vectors[number].nbytes + len(json.dumps(record.payload()))
        if number - start == REQUEST_POINTS or (number > start and size + added > REQUEST_BYTES):
            yield slice(start, number)
            start, size = number, 0
        size += added
    yield slice(start, len(batch.records))


def _selector(fields: Fields) -> bool | list[str]:
    return fields if isinstance(fields, bool) else list(fields)


def _stored(record: Any) -> StoredPoint:
    vector = None if record.vector is None else np.asarray(record.vector, dtype=np.float32)
    return StoredPoint(str(record.id), record.payload or {}, vector)
