"""The calls a stand-in of a Qdrant server answers; everything else is UNIMPLEMENTED.

The stand-in holds its lock around each and turns exceptions into errors.
"""
# ruff: noqa: N802  the names are the protocol's

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import qdrant_edge as q
from qdrant_client import grpc as proto
from standin_wire import (
    LIMIT,
    edge_delete,
    edge_fields,
    edge_id,
    edge_index,
    edge_point,
    edge_query,
    edge_update,
    edge_vectors,
    filter_of,
    known,
    wire_facet,
    wire_hit,
    wire_id,
    wire_index,
    wire_record,
)

if TYPE_CHECKING:
    from standin import Standin

_ROUTINE = ("collection_name", "wait", "ordering", "timeout", "read_consistency")
"""Fields of requests that make no difference here: every write is waited for, and there is one replica."""


class Root(proto.QdrantServicer):
    def HealthCheck(self, request: Any, context: Any) -> Any:
        return proto.HealthCheckReply(title="stand-in of qdrant", version=version("qdrant-client"))


class Collections(proto.CollectionsServicer):
    def __init__(self, standin: "Standin") -> None:
        self._standin = standin

    def List(self, request: Any, context: Any) -> Any:
        names = self._standin.names()
        return proto.ListCollectionsResponse(collections=[proto.CollectionDescription(name=name) for name in names])

    def CollectionExists(self, request: Any, context: Any) -> Any:
        there = self._standin.own_name(request.collection_name) in self._standin.names()
        return proto.CollectionExistsResponse(result=proto.CollectionExists(exists=there))

    def Create(self, request: Any, context: Any) -> Any:
        known(
            request, *_ROUTINE, "vectors_config", "hnsw_config", "optimizers_config", "wal_config", "metadata",
            "quantization_config", "shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload",
        )  # fmt: skip
        self._standin.make(request.collection_name, _config(request))
        return proto.CollectionOperationResponse(result=True)

    def Get(self, request: Any, context: Any) -> Any:
        held = self._standin.find(request.collection_name)
        info = held.shard.info()
        result = proto.CollectionInfo(
            status=proto.CollectionStatus.Green,
            optimizer_status=proto.OptimizerStatus(ok=True),
            segments_count=info.segments_count,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
            payload_schema={name: wire_index(index) for name, index in info.payload_schema.items()},
            config=held.config,
        )
        return proto.GetCollectionInfoResponse(result=result)

    def Update(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "optimizers_config", "hnsw_config", "params", "metadata")
        config = self._standin.find(request.collection_name).config
        config.optimizer_config.MergeFrom(request.optimizers_config)
        config.hnsw_config.MergeFrom(request.hnsw_config)
        _take(config.params, request.params)
        for name, value in request.metadata.items():
            config.metadata[name].CopyFrom(value)
        self._standin.keep(request.collection_name, config)
        return proto.CollectionOperationResponse(result=True)

    def CollectionClusterInfo(self, request: Any, context: Any) -> Any:
        points = self._standin.find(request.collection_name).shard.info().points_count
        here = proto.LocalShardInfo(shard_id=0, points_count=points, state=proto.ReplicaState.Active)
        return proto.CollectionClusterInfoResponse(peer_id=1, shard_count=1, local_shards=[here])

    def Delete(self, request: Any, context: Any) -> Any:
        return proto.CollectionOperationResponse(result=self._standin.drop(request.collection_name))

    def ListAliases(self, request: Any, context: Any) -> Any:
        found = self._standin.aliases.items()
        aliases = [proto.AliasDescription(alias_name=alias, collection_name=name) for alias, name in found]
        return proto.ListAliasesResponse(aliases=aliases)

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        aliases = dict(self._standin.aliases)
        for item in request.actions:
            kind = item.WhichOneof("action")
            if kind == "create_alias":
                name, alias = item.create_alias.collection_name, item.create_alias.alias_name
                self._standin.can_lead(alias, name)
                aliases[alias] = name
            elif kind == "delete_alias":
                aliases.pop(item.delete_alias.alias_name, None)
            else:
                raise NotImplementedError
        self._standin.lead(aliases)
        return proto.CollectionOperationResponse(result=True)


class Points(proto.PointsServicer):
    def __init__(self, standin: "Standin") -> None:
        self._standin = standin

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "field_name", "field_type", "field_index_params")
        return self._changed(request, q.UpdateOperation.create_field_index(request.field_name, edge_index(request)))

    def Upsert(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "points")
        points = [edge_point(point) for point in request.points]
        return self._changed(request, q.UpdateOperation.upsert_points(points))

    def Delete(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "points")
        return self._changed(request, edge_delete(request.points))

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "operations")
        shard = self._standin.find(request.collection_name).shard
        for operation in request.operations:
            shard.update(edge_update(operation))
        return proto.UpdateBatchResponse(result=[_DONE for _ in request.operations])

    def Get(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "ids", "with_payload", "with_vectors")
        shard = self._standin.find(request.collection_name).shard
        ids = [edge_id(id) for id in request.ids]
        records = shard.retrieve(ids, edge_fields(request.with_payload), edge_vectors(request.with_vectors))
        return proto.GetResponse(result=[wire_record(record) for record in records])

    def Scroll(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "filter", "offset", "limit", "with_payload", "with_vectors")
        asked = q.ScrollRequest(
            offset=edge_id(request.offset) if request.HasField("offset") else None,
            limit=request.limit if request.HasField("limit") else LIMIT,
            filter=filter_of(request),
            with_payload=edge_fields(request.with_payload),
            with_vector=edge_vectors(request.with_vectors),
        )
        records, following = self._standin.indexed(request).scroll(asked)
        page = [wire_record(record) for record in records]
        return proto.ScrollResponse(result=page, next_page_offset=None if following is None else wire_id(following))

    def Count(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "filter", "exact")
        asked = q.CountRequest(exact=request.exact, filter=filter_of(request))
        return proto.CountResponse(result=proto.CountResult(count=self._standin.indexed(request).count(asked)))

    def Facet(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "key", "filter", "limit", "exact")
        limit = request.limit if request.HasField("limit") else LIMIT
        asked = q.FacetRequest(request.key, limit=limit, exact=request.exact, filter=filter_of(request))
        found = self._standin.indexed(request, request.key).facet(asked)
        return proto.FacetResponse(hits=[wire_facet(hit) for hit in found.hits])

    def QueryBatch(self, request: Any, context: Any) -> Any:
        known(request, *_ROUTINE, "query_points")
        for item in request.query_points:
            item.collection_name = request.collection_name
            shard = self._standin.indexed(item)
        asked = [edge_query(item) for item in request.query_points]
        answers = shard.query_batch(q.QueryBatchRequest(asked)) if asked else []
        return proto.QueryBatchResponse(
            result=[proto.BatchResult(result=[wire_hit(point) for point in points]) for points in answers]
        )

    def _changed(self, request: Any, operation: q.UpdateOperation) -> Any:
        self._standin.find(request.collection_name).shard.update(operation)
        return proto.PointsOperationResponse(result=_DONE)


_DONE = proto.UpdateResult(operation_id=0, status=proto.UpdateStatus.Completed)


def _config(request: proto.CreateCollection) -> proto.CollectionConfig:
    """A server's defaults, and what was asked for."""
    config = proto.CollectionConfig(
        params=proto.CollectionParams(
            shard_number=1, on_disk_payload=True, replication_factor=1, write_consistency_factor=1
        ),
        hnsw_config=proto.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
        optimizer_config=proto.OptimizersConfigDiff(
            deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
        ),
        wal_config=proto.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        metadata=request.metadata,
    )
    _take(config.params, request)
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    config.wal_config.MergeFrom(request.wal_config)
    if request.HasField("quantization_config"):
        config.quantization_config.CopyFrom(request.quantization_config)
    return config


def _take(params: proto.CollectionParams, message: Any) -> None:
    """Set in the parameters of a collection what a message says of them."""
    for field, value in message.ListFields():
        if field.name == "vectors_config":
            params.vectors_config.CopyFrom(value)
        elif field.name in ("shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload"):
            setattr(params, field.name, value)
