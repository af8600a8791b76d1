"""The REST half of the stand-in that a client needs for all its work: the calls of `cbmir.store`, as JSON.

Each is turned into the same call over gRPC, so that both halves have one engine and one set of rules. A path that isn't
known gets 404, a body with an unknown field 400.
"""

import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import grpc
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models
from standin_rest import Rest

_STATUS = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
}
Call = Callable[[QdrantClient, str, Any], Any]


def _done(client: QdrantClient, work: Callable[[QdrantClient], Any]) -> models.UpdateResult:
    work(client)
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _create(client: QdrantClient, name: str, body: models.CreateCollection) -> bool:
    given = {field: getattr(body, field) for field in body.model_fields_set - {"vectors"}}
    return client.create_collection(name, vectors_config=body.vectors, **given)


def _update(client: QdrantClient, name: str, body: models.UpdateCollection) -> bool:
    names = {"params": "collection_params"}
    return client.update_collection(name, **{names.get(f, f): getattr(body, f) for f in body.model_fields_set})


def _upsert(client: QdrantClient, name: str, body: Any) -> Any:
    points = body.batch if isinstance(body, models.PointsBatch) else body.points
    return _done(client, lambda client: client.upsert(name, points))


def _retrieve(client: QdrantClient, name: str, body: models.PointRequest) -> Any:
    return client.retrieve(name, body.ids, with_payload=body.with_payload, with_vectors=body.with_vector)


def _scroll(client: QdrantClient, name: str, body: models.ScrollRequest) -> Any:
    found, after = client.scroll(
        name, body.filter, body.limit, None, body.offset, body.with_payload, bool(body.with_vector)
    )
    return models.ScrollResult(points=found, next_page_offset=after)


def _index(client: QdrantClient, name: str, body: models.CreateFieldIndex) -> Any:
    return _done(client, lambda client: client.create_payload_index(name, body.field_name, body.field_schema))


_NAME = r"/collections/([^/]+)"
_CALLS: list[tuple[str, str, Any, Call]] = [
    ("GET", "/collections", None, lambda client, _name, _body: client.get_collections()),
    ("GET", "/aliases", None, lambda client, _name, _body: client.get_aliases()),
    (
        "POST",
        "/collections/aliases",
        models.ChangeAliasesOperation,
        lambda client, _name, body: client.update_collection_aliases(body.actions),
    ),
    ("GET", _NAME, None, lambda client, name, _body: client.get_collection(name)),
    ("PUT", _NAME, models.CreateCollection, _create),
    ("PATCH", _NAME, models.UpdateCollection, _update),
    ("DELETE", _NAME, None, lambda client, name, _body: client.delete_collection(name)),
    ("GET", f"{_NAME}/exists", None, lambda client, name, _body: {"exists": client.collection_exists(name)}),
    ("PUT", f"{_NAME}/index", models.CreateFieldIndex, _index),
    ("PUT", f"{_NAME}/points", models.PointInsertOperations, _upsert),
    ("POST", f"{_NAME}/points", models.PointRequest, _retrieve),
    ("POST", f"{_NAME}/points/scroll", models.ScrollRequest, _scroll),
    (
        "POST",
        f"{_NAME}/points/count",
        models.CountRequest,
        lambda client, name, body: client.count(name, body.filter, exact=bool(body.exact)),
    ),
    (
        "POST",
        f"{_NAME}/points/query/batch",
        models.QueryRequestBatch,
        lambda client, name, body: client.query_batch_points(name, body.searches),
    ),
    (
        "POST",
        f"{_NAME}/points/delete",
        models.PointsSelector,
        lambda client, name, body: _done(client, lambda client: client.delete(name, body)),
    ),
    (
        "POST",
        f"{_NAME}/points/batch",
        models.UpdateOperations,
        lambda client, name, body: (
            client.batch_update_points(name, body.operations) and [_done(client, lambda _client: None)]
        ),
    ),
    (
        "POST",
        f"{_NAME}/facet",
        models.FacetRequest,
        lambda client, name, body: client.facet(name, body.key, body.filter, body.limit, bool(body.exact)),
    ),
]


class RestCalls(Rest):
    """Answers snapshots as `Rest` does, and the calls of `cbmir.store`; below ``/prefix`` where it has one."""

    prefix = ""

    def do_PUT(self) -> None:  # noqa: N802  the server's own name
        self._answer("PUT")

    def do_PATCH(self) -> None:  # noqa: N802  as above
        self._answer("PATCH")

    def _answer(self, method: str) -> None:
        if not self.path.startswith(f"{self.prefix}/"):
            return self._send(404, b"<html>nothing here</html>")
        self.path = self.path.removeprefix(self.prefix)
        path = self.path.partition("?")[0]
        for known, pattern, kind, call in _CALLS:
            if known == method and (found := re.fullmatch(pattern, path)):
                return self._called(found[1] if found.groups() else "", kind, call)
        return super()._answer(method)

    def _called(self, name: str, kind: Any, call: Call) -> None:
        body = self._body()
        if body is None:
            return None
        if self.standin.key is not None and self.headers.get("api-key") != self.standin.key:
            return self._send(401, {"status": {"error": "Must provide an API key or an Authorization bearer token"}})
        try:
            asked = TypeAdapter(kind).validate_python(json.loads(body)) if kind else None
            answer = _plain(call(self._client(), name, asked))
            return self._send(200, {"result": answer, "status": "ok", "time": 0.0})
        except ValidationError as error:
            return self._send(400, {"status": {"error": f"Format error in JSON body: {error.errors()[0]['msg']}"}})
        except grpc.RpcError as error:
            return self._send(_STATUS.get(error.code(), 500), {"status": {"error": error.details()}})

    def _client(self) -> QdrantClient:
        """The way to the other half; one for all calls, as the first on a new channel takes long."""
        kept = self.standin.__dict__
        if "rest_client" not in kept:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the key travels within this machine
                kept["rest_client"] = QdrantClient(
                    url=self.standin.url,
                    grpc_port=self.standin.grpc_port,
                    prefer_grpc=True,
                    api_key=self.standin.key,
                    check_compatibility=False,
                    timeout=60,
                )
        client: QdrantClient = kept["rest_client"]
        return client


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, list) else value


def below(prefix: str) -> type[RestCalls]:
    """A handler as a proxy makes it of a server: everything is below a path."""
    return type("Below", (RestCalls,), {"prefix": prefix})
