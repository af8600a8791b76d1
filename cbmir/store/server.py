"""A URL as a store: a Qdrant server or cluster over gRPC.

Collection ``name`` is an alias of ``name__vN``, so that a re-index can switch at once.
"""

import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from cbmir.errors import CollectionError, StoreError
from cbmir.filters import Where, to_qdrant
from cbmir.fingerprint import EncoderCard
from cbmir.schema import INDEXED_FIELDS, EmbeddedBatch, Hit, Payload, PayloadField, StoredPoint, Vectors, rank_hits
from cbmir.store.base import (
    FACET_LIMIT,
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
from cbmir.store.retry import answering, one_line, retried

TIMEOUT_S = 60
REQUEST_POINTS = 256
REQUEST_BYTES = 8_000_000
"""Of one write: vectors and payloads; the server refuses requests over 32 MB unless told otherwise."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLL_S = 0.5

T = TypeVar("T")


def connect(url: str, api_key: str | None = None) -> "ServerStore":
    """Reach a server, over gRPC on the port one above the URL's.

    Args:
        url: ``http(s)://host[:port]``; the port is 6333 unless given.
        api_key: Sent with every call; never printed.

    Raises:
        StoreError: no server answers there, the key is refused, or its version is too far from the client's.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6333
    except ValueError as error:
        raise StoreError(f"the store {url!r} is no URL: {error}") from error
    if not host:
        raise StoreError(f"the store {url!r} names no host")
    with warnings.catch_warnings():
        if host in _LOOPBACK:
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        client = QdrantClient(
            url=url,
            port=port,
            grpc_port=port + 1,
            prefer_grpc=True,
            api_key=api_key,
            timeout=TIMEOUT_S,
            check_compatibility=False,
            grpc_options={"grpc.max_receive_message_length": -1},
        )
    where = f"{parts.scheme}://{host}:{port}"
    try:
        with answering(where):
            _check_version(client.info().version, where)
            client.get_collections()
    except StoreError:
        client.close()
        raise
    return ServerStore(client, where)


class ServerStore(Store):
    """The collections of one server.

    Attributes:
        client: Any qdrant-client, also one with the ``:memory:`` engine.
    """

    def __init__(self, client: QdrantClient, location: str) -> None:
        self.client = client
        self.location = location

    def names(self) -> list[str]:
        """Aliases and collections that have none, sorted."""
        aliases = self.aliases()
        with answering(self.location):
            physical = {item.name for item in self.client.get_collections().collections}
        return sorted(aliases.keys() | (physical - set(aliases.values())))

    def aliases(self) -> dict[str, str]:
        """Aliases to the own names of the collections they lead to."""
        with answering(self.location):
            return {item.alias_name: item.collection_name for item in self.client.get_aliases().aliases}

    def create(self, name: str, card: EncoderCard) -> "ServerCollection":
        """Make ``name__v1`` with its indexes, then the alias, so that nobody sees a collection without indexes."""
        check_name(name)
        if name in self.names():
            raise CollectionError(f"collection {name} exists already on {self.location}")
        physical = self.create_version(name, card)
        self.lead(name, physical)
        return ServerCollection(self, name, card)

    def create_version(self, name: str, card: EncoderCard) -> str:
        """Make the next ``NAME__vN`` with its indexes, or take up one that a killed process has begun; no alias."""
        check_name(name)
        physical = self._unfinished(name, card) or self._next_version(name)
        with answering(self.location):
            try:
                self.client.create_collection(
                    physical,
                    vectors_config=models.VectorParams(size=card.dim, distance=models.Distance.COSINE),
                    metadata=metadata(card),
                )
            except Exception:
                if not self.client.collection_exists(physical):
                    raise  # else: another process makes the same; all that follows can be done twice
            for field in INDEXED_FIELDS:
                self.client.create_payload_index(physical, field.name, _index(field), wait=True)
        return physical

    def open(self, name: str) -> "ServerCollection":
        """Open a collection by its alias or its own name."""
        with answering(self.location):
            there = self.client.collection_exists(name)
        if not there:
            raise self._missing(name)
        with answering(self.location):
            config = self.client.get_collection(name).config
        return ServerCollection(self, name, card_from(config.metadata, f"collection {name} on {self.location}"))

    def drop(self, name: str) -> None:
        """Delete the alias and the collection behind it."""
        if name not in self.names():
            raise self._missing(name)
        targets = self.aliases()
        with answering(self.location):
            if name in targets:
                self.client.update_collection_aliases([_no_alias(name)])
            self.client.delete_collection(targets.get(name, name))

    def lead(self, alias: str, name: str) -> None:
        """Let an alias lead to a collection, wherever it has led before.

        Readers see the old one or the new one: the server does both operations at once.
        """
        made = models.CreateAlias(collection_name=name, alias_name=alias)
        operations: list[models.AliasOperations] = [_no_alias(alias)] if alias in self.aliases() else []
        operations.append(models.CreateAliasOperation(create_alias=made))
        with answering(self.location):
            self.client.update_collection_aliases(operations)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _unfinished(self, name: str, card: EncoderCard) -> str | None:
        """An empty version for the same encoder without an alias: its maker was killed, or is at it right now."""
        aliased = set(self.aliases().values())
        with answering(self.location):
            for version in sorted(self.versions(name) - aliased):
                there = self.client.get_collection(version)
                ours = (there.config.metadata or {}).get("fingerprint") == card.fingerprint
                if ours and not there.points_count:
                    return version
        return None

    def _next_version(self, name: str) -> str:
        with answering(self.location):
            taken = [int(version.rpartition("__v")[2]) for version in self.versions(name)]
        return f"{name}__v{max(taken, default=0) + 1}"

    def versions(self, name: str) -> set[str]:
        """The own names of all versions of a collection, ``NAME__vN``."""
        existing = [item.name for item in self.client.get_collections().collections]
        return {item for item in existing if re.fullmatch(re.escape(name) + r"__v\d+", item)}


class ServerCollection(Collection):
    """A collection on a server."""

    def __init__(self, store: ServerStore, name: str, card: EncoderCard) -> None:
        super().__init__(name, card)
        self._client = store.client
        self._place = f"{store.location} ({name})"

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
        retried(self._place, lambda: self._client.upsert(self.name, points, wait=True))

    def _search(
        self, vectors: Vectors, k: int, wheres: Sequence[Where], *, exact: bool, ef: int, fields: Fields
    ) -> list[list[Hit]]:
        params = models.SearchParams(hnsw_ef=ef, exact=exact)
        requests = [
            models.QueryRequest(
                query=vector, limit=k, filter=to_qdrant(where), params=params, with_payload=_selector(fields)
            )
            for vector, where in zip(vectors.tolist(), wheres, strict=True)
        ]
        answers = retried(self._place, lambda: self._client.query_batch_points(self.name, requests, timeout=TIMEOUT_S))
        return [rank_hits([(str(p.id), p.score, p.payload or {}) for p in answer.points]) for answer in answers]

    def get(self, ids: Sequence[str], *, fields: Fields = True, vectors: bool = False) -> list[StoredPoint]:
        """The stored points of some ids, unknown ones left out."""
        records = retried(
            self._place,
            lambda: self._client.retrieve(self.name, list(ids), with_payload=_selector(fields), with_vectors=vectors),
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
        return retried(
            self._place,
            lambda: self._client.scroll(
                self.name,
                to_qdrant(where),
                limit=batch,
                offset=offset,
                with_payload=_selector(fields),
                with_vectors=vectors,
            ),
        )

    def count(self, where: Where = ()) -> int:
        """How many points satisfy the filter."""
        return retried(self._place, lambda: self._client.count(self.name, to_qdrant(where), exact=True)).count

    def facet(self, field: str, where: Where = (), *, limit: int = FACET_LIMIT) -> dict[str, int]:
        """How many points have each value of a keyword field."""
        answer = retried(
            self._place, lambda: self._client.facet(self.name, field, to_qdrant(where), limit=limit, exact=True)
        )
        return {str(hit.value): hit.count for hit in sorted(answer.hits, key=lambda hit: (-hit.count, str(hit.value)))}

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points."""
        if not ids:
            return  # the client refuses an empty list
        selector = models.PointIdsList(points=list(ids))
        retried(self._place, lambda: self._client.delete(self.name, selector, wait=True))

    def set_payloads(self, changes: Mapping[str, Payload]) -> None:
        """Set some payload fields of some points."""
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, points=[id]))
            for id, payload in changes.items()
        ]
        for start in range(0, len(operations), REQUEST_POINTS):
            part = operations[start : start + REQUEST_POINTS]
            self._change(part)

    def _change(self, operations: Sequence[models.UpdateOperation]) -> None:
        retried(self._place, lambda: self._client.batch_update_points(self.name, operations, wait=True))

    def flush(self) -> None:
        """Nothing to do: every write waits until the server has it."""

    def finish(self, progress: Progress | None = None) -> None:
        """Return when the server has nothing left to optimise.

        Raises:
            StoreError: an optimisation failed on the server.
        """
        started = time.monotonic()
        while (status := self._state().status) != models.CollectionStatus.GREEN:
            if status == models.CollectionStatus.RED:
                raise StoreError(f"{self._place} has failed to index: {one_line(str(self._state().optimizer_status))}")
            if status == models.CollectionStatus.GREY:  # after a restart nothing is indexed before the next change
                retried(self._place, lambda: self._client.update_collection(self.name, models.OptimizersConfigDiff()))
            if progress:
                progress(f"the server is indexing: {time.monotonic() - started:.0f} s")
            time.sleep(_POLL_S)

    def info(self) -> CollectionInfo:
        """The collection in figures."""
        info = self._state()
        engine = f"qdrant-client {version('qdrant-client')}"
        fields = frozenset(info.payload_schema or ())
        return CollectionInfo(self.count(), info.indexed_vectors_count or 0, str(info.status.value), engine, fields)

    def _state(self) -> models.CollectionInfo:
        return retried(self._place, lambda: self._client.get_collection(self.name))


def _no_alias(name: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))


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


def _check_version(server: str, where: str) -> None:
    ours = version("qdrant-client")
    (major, minor), (our_major, our_minor) = (
        tuple(int(part) for part in re.findall(r"\d+", text)[:2]) for text in (server, ours)
    )
    if major != our_major or abs(minor - our_minor) > 1:
        raise StoreError(
            f"{where} runs Qdrant {server}, qdrant-client here is {ours}: "
            "Qdrant supports a distance of one minor version"
        )


def _index(field: PayloadField) -> Any:
    if field.kind == "keyword":
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=field.tenant or None)
    kinds = {
        "integer": models.PayloadSchemaType.INTEGER,
        "float": models.PayloadSchemaType.FLOAT,
        "datetime": models.PayloadSchemaType.DATETIME,
    }
    return kinds[field.kind]


def _selector(fields: Fields) -> bool | list[str]:
    return fields if isinstance(fields, bool) else list(fields)


def _stored(record: Any) -> StoredPoint:
    vector = None if record.vector is None else np.asarray(record.vector, dtype=np.float32)
    return StoredPoint(str(record.id), record.payload or {}, vector)
