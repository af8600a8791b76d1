"""Protobuf to the engine's own classes and back: what the stand-in of a server translates.

A request that says more than the stand-in understands is refused, so that no test passes by something left out.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import qdrant_edge as q
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as proto
from qdrant_client.conversions.conversion import grpc_to_payload, payload_to_grpc

LIMIT = 10
"""Hits and points where the request names no number, as a server has it."""

_MATCHES = {
    "keyword": lambda value: q.MatchValue(value),
    "integer": lambda value: q.MatchValue(value),
    "boolean": lambda value: q.MatchValue(value),
    "keywords": lambda value: q.MatchAny(any=list(value.strings)),
    "integers": lambda value: q.MatchAny(any=list(value.integers)),
    "except_keywords": lambda value: q.MatchExcept(list(value.strings)),
    "except_integers": lambda value: q.MatchExcept(list(value.integers)),
}
_SIDES = ("gte", "gt", "lte", "lt")
_KINDS = {
    "keyword_index_params": (q.KeywordIndexParams, ("is_tenant", "on_disk", "enable_hnsw")),
    "integer_index_params": (q.IntegerIndexParams, ("lookup", "range", "is_principal", "on_disk", "enable_hnsw")),
    "float_index_params": (q.FloatIndexParams, ("is_principal", "on_disk", "enable_hnsw")),
    "datetime_index_params": (q.DatetimeIndexParams, ("is_principal", "on_disk", "enable_hnsw")),
}


_TEXTS = (
    ("No point with id", grpc.StatusCode.NOT_FOUND, "Not found: "),
    ("Vector dimension error", grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: "),
    ("failed to parse", grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: "),
    ("No appropriate index", grpc.StatusCode.INVALID_ARGUMENT, "Bad request: "),
)
"""How the engine's errors begin, and what a server makes of them."""


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        code: Of gRPC.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def refusal(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Code and text that answer an error of the stand-in or of the engine, which raises bare exceptions."""
    text = " ".join(str(error).split())
    if isinstance(error, RefusedError):
        return error.code, text
    if isinstance(error, NotImplementedError):
        return grpc.StatusCode.UNIMPLEMENTED, "the stand-in doesn't know this call"
    for begin, code, before in _TEXTS:
        if text.startswith(begin):
            return code, before + text
    return grpc.StatusCode.INTERNAL, f"Service internal error: {type(error).__name__}: {text}"


def known(message: Message, *fields: str) -> None:
    """Refuse a message in which other fields are set than these."""
    strange = [field.name for field, _ in message.ListFields() if field.name not in fields]
    if strange:
        name = message.DESCRIPTOR.name
        raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in doesn't know {strange[0]} of {name}")


# from a request


def edge_id(id: proto.PointId) -> int | str:
    return id.num if id.WhichOneof("point_id_options") == "num" else id.uuid


def edge_point(point: proto.PointStruct) -> q.Point:
    known(point.vectors, "vector")
    vector = point.vectors.vector
    known(vector, "dense", "data")  # `data` is what older clients fill
    values = vector.dense.data if vector.HasField("dense") else vector.data
    return q.Point(edge_id(point.id), list(values), grpc_to_payload(point.payload))


def edge_fields(selector: proto.WithPayloadSelector) -> bool | list[str]:
    """The payload fields that are asked for: all, none, or some."""
    known(selector, "enable", "include")
    return list(selector.include.fields) if selector.HasField("include") else selector.enable


def edge_vectors(selector: proto.WithVectorsSelector) -> bool:
    """Whether vectors are asked for."""
    known(selector, "enable")
    return selector.enable


def edge_filter(message: proto.Filter) -> q.Filter:
    known(message, "must", "should", "must_not")
    parts = {name: [_condition(item) for item in getattr(message, name)] for name in ("must", "should", "must_not")}
    return q.Filter(**{name: conditions or None for name, conditions in parts.items()})


def filter_of(request: Any) -> q.Filter | None:
    """The filter of any request that may have one."""
    return edge_filter(request.filter) if request.HasField("filter") else None


def filter_fields(message: proto.Filter) -> Iterator[str]:
    """The payload fields that a filter asks for."""
    for condition in (*message.must, *message.should, *message.must_not):
        kind = condition.WhichOneof("condition_one_of")
        if kind == "filter":
            yield from filter_fields(condition.filter)
        elif kind not in ("has_id", "has_vector"):
            yield getattr(condition, kind).key


def edge_query(request: proto.QueryPoints) -> q.QueryRequest:
    known(
        request, "collection_name", "query", "filter", "params", "limit", "offset", "with_payload", "with_vectors",
        "score_threshold", "read_consistency", "timeout",
    )  # fmt: skip
    known(request.query, "nearest")
    known(request.query.nearest, "dense")
    return q.QueryRequest(
        limit=request.limit if request.HasField("limit") else LIMIT,
        offset=request.offset,
        query=q.Query.Nearest(list(request.query.nearest.dense.data)),
        filter=filter_of(request),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_search_params(request.params),
        with_payload=edge_fields(request.with_payload),
        with_vector=edge_vectors(request.with_vectors),
    )


def edge_index(request: proto.CreateFieldIndexCollection) -> Any:
    """Parameters of a payload index, or its type alone."""
    kind = request.field_index_params.WhichOneof("index_params")
    if kind is None:
        return getattr(q.PayloadSchemaType, proto.FieldType.Name(request.field_type).removeprefix("FieldType"))
    if kind not in _KINDS:
        raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in makes no index by {kind}")
    make, names = _KINDS[kind]
    params = getattr(request.field_index_params, kind)
    known(params, *names)
    return make(**{field.name: value for field, value in params.ListFields()})


def edge_update(operation: proto.PointsUpdateOperation) -> q.UpdateOperation:
    """One operation of a batch of updates."""
    kind = operation.WhichOneof("operation")
    if kind == "upsert":
        known(operation.upsert, "points")
        return q.UpdateOperation.upsert_points([edge_point(point) for point in operation.upsert.points])
    if kind == "delete_points":
        known(operation.delete_points, "points")
        return edge_delete(operation.delete_points.points)
    if kind == "set_payload":
        message = operation.set_payload
        known(message, "payload", "points_selector")
        known(message.points_selector, "points")
        ids = [edge_id(id) for id in message.points_selector.points.ids]
        return q.UpdateOperation.set_payload(ids, grpc_to_payload(message.payload))
    raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in does no {kind}")


def edge_delete(selector: proto.PointsSelector) -> q.UpdateOperation:
    if selector.HasField("filter"):
        return q.UpdateOperation.delete_points_by_filter(edge_filter(selector.filter))
    return q.UpdateOperation.delete_points([edge_id(id) for id in selector.points.ids])


def _condition(condition: proto.Condition) -> Any:
    kind = condition.WhichOneof("condition_one_of")
    message = getattr(condition, kind)
    if kind == "field":
        return _field(message)
    if kind == "filter":
        return edge_filter(message)
    if kind == "has_id":
        return q.HasIdCondition({edge_id(id) for id in message.has_id})
    if kind == "has_vector":
        return q.HasVectorCondition(message.has_vector)
    if kind == "is_empty":
        return q.IsEmptyCondition(message.key)
    if kind == "is_null":
        return q.IsNullCondition(message.key)
    raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in doesn't filter by {kind}")


def _field(field: proto.FieldCondition) -> q.FieldCondition:
    known(field, "key", "match", "range", "datetime_range")
    if field.HasField("match"):
        kind = field.match.WhichOneof("match_value")
        if kind not in _MATCHES:
            raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in doesn't match by {kind}")
        return q.FieldCondition(key=field.key, match=_MATCHES[kind](getattr(field.match, kind)))
    if field.HasField("range"):
        return q.FieldCondition(key=field.key, range=q.RangeFloat(**_sides(field.range)))
    return q.FieldCondition(key=field.key, range=q.RangeDateTime(**_sides(field.datetime_range)))


def _sides(message: Any) -> dict[str, Any]:
    sides = {name: getattr(message, name) for name in _SIDES if message.HasField(name)}
    return {name: side.ToJsonString() if isinstance(side, Timestamp) else side for name, side in sides.items()}


def _search_params(params: proto.SearchParams) -> q.SearchParams:
    known(params, "hnsw_ef", "exact", "quantization", "indexed_only")
    quantization = None
    if params.HasField("quantization"):
        known(params.quantization, "ignore", "rescore", "oversampling")
        given = {field.name: value for field, value in params.quantization.ListFields()}
        quantization = q.QuantizationSearchParams(**given)
    return q.SearchParams(
        hnsw_ef=params.hnsw_ef if params.HasField("hnsw_ef") else None,
        exact=params.exact,
        quantization=quantization,
        indexed_only=params.indexed_only,
    )


# into an answer


def wire_id(id: Any) -> proto.PointId:
    return proto.PointId(num=id) if isinstance(id, int) else proto.PointId(uuid=str(id))


def wire_record(record: q.Record) -> proto.RetrievedPoint:
    return proto.RetrievedPoint(id=wire_id(record.id), **_contents(record))


def wire_hit(point: q.ScoredPoint) -> proto.ScoredPoint:
    return proto.ScoredPoint(id=wire_id(point.id), score=point.score, version=point.version, **_contents(point))


def wire_facet(hit: q.FacetHit) -> proto.FacetHit:
    kinds = {bool: "bool_value", int: "integer_value", str: "string_value"}
    return proto.FacetHit(value=proto.FacetValue(**{kinds[type(hit.value)]: hit.value}), count=hit.count)


def wire_index(info: Any) -> proto.PayloadSchemaInfo:
    kind = str(info.data_type).rpartition(".")[2]
    made = proto.PayloadSchemaInfo(data_type=proto.PayloadSchemaType.Value(kind), points=info.points)
    if isinstance(info.params, q.KeywordIndexParams):
        made.params.keyword_index_params.is_tenant = bool(info.params.is_tenant)
    return made


def _contents(point: q.Record | q.ScoredPoint) -> dict[str, Any]:
    contents: dict[str, Any] = {"payload": payload_to_grpc(point.payload or {})}
    vector = point.vector  # the engine makes a list of it at each look
    if vector is not None:
        contents["vectors"] = {"vector": {"dense": {"data": vector}}}
    return contents
