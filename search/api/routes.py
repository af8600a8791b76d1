"""The endpoints."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from cbmir.media import noted
from cbmir.search.answer import Answer
from cbmir.search.api.access import Principal
from cbmir.search.api.asked import Counted, Record, Scope
from cbmir.search.api.asking import read_filter, read_query
from cbmir.search.api.body import read_image, read_search
from cbmir.search.api.errors import ServiceError
from cbmir.search.api.models import (
    FacetsAnswer,
    FacetsRequest,
    LoginRequest,
    SearchAnswer,
    ShownCollection,
    ShownHit,
    ShownRecord,
    Told,
    Whoami,
)
from cbmir.search.api.pool import DRAW
from cbmir.search.api.service import Service, Serving, needs
from cbmir.search.api.sessions import COOKIE

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Told, "description": text}
    for status, text in {
        400: "It can't be asked that way.",
        401: "A key is missing or unknown.",
        403: "The key may not.",
        404: "There is none, or the key may not see it.",
        413: "Too large.",
        415: "Another type of content.",
        429: "Too many requests wait; try again after Retry-After.",
        503: "The store doesn't answer; try again after Retry-After.",
    }.items()
}
_JPEG: dict[int | str, dict[str, Any]] = {**_ERRORS, 200: {"content": {"image/jpeg": {}}}}
router = APIRouter(responses=_ERRORS)

Searching = Annotated[Principal, Depends(needs("search"))]
Looking = Annotated[Principal, Depends(needs("images"))]
Of = Annotated[str | None, Query(alias="collection", max_length=255)]

SEARCH_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "SearchRequest as JSON."},
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "not_image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
            }
        },
    },
}
_IMAGE_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        }
    },
}


@router.post(
    "/search",
    response_model=SearchAnswer,
    summary="Find similar images",
    openapi_extra={"requestBody": SEARCH_BODY, "x-role": "search"},
)
async def search(request: Request, service: Serving, who: Searching) -> SearchAnswer:
    """Search by uploaded images, stored images, texts, or several of these; uploads are not kept."""
    sent = await read_search(request, service.upload_bytes)
    served = service.collection(who, sent.request.collection)
    asked = read_query(sent, who)
    scope = who.scope(served.name)
    answer: Answer = await service.call(who, "search", scope, asked)
    hits = [
        ShownHit(
            id=hit.id,
            rank=hit.rank,
            score=hit.score,
            possibly_same_patient=hit.id in answer.suspected,
            record=who.shown(hit.payload),
        )
        for hit in answer.hits
    ]
    service.audit.note(who.name, "search", 200, served.name, [hit.id for hit in hits])
    return SearchAnswer(
        collection=served.name,
        encoder=served.encoder,
        fingerprint=served.fingerprint,
        score="fused ranks" if answer.fused else "cosine",
        way=answer.way,
        hits=hits,
        cautions=list(answer.cautions),
        notes=noted(dict.fromkeys(answer.notes, 1)),
    )


@router.post(
    "/preview",
    summary="Show an upload",
    responses=_JPEG,
    response_class=Response,
    openapi_extra={"requestBody": _IMAGE_BODY, "x-role": "search"},
)
async def preview(request: Request, service: Serving, who: Searching, collection: Of = None) -> Response:
    """An uploaded image as JPEG, for what a browser can't show; `x-image-size` has the pixels that a box refers to."""
    served = service.collection(who, collection)
    data = await read_image(request, service.upload_bytes)
    picture, (width, height) = await service.call(who, "preview", served.name, data, priority=DRAW)
    return Response(picture, media_type="image/jpeg", headers={"x-image-size": f"{width}x{height}"})


@router.post("/facets", response_model=FacetsAnswer, summary="Count values", openapi_extra={"x-role": "search"})
async def facets(asked: FacetsRequest, service: Serving, who: Searching) -> FacetsAnswer:
    """How many of the images that you may see have which values."""
    served = service.collection(who, asked.collection)
    where = read_filter(asked.where, who)
    for field in asked.fields:
        who.check_field(field)
    counted: Counted = await service.call(who, "facets", who.scope(served.name), where, asked.fields, asked.limit)
    service.audit.note(who.name, "facets", 200, served.name)
    fields = {name: dict(values) for name, values in counted.fields.items()}
    return FacetsAnswer(total=counted.total, fields=fields, more=sorted(counted.more))


@router.get(
    "/collections",
    response_model=list[ShownCollection],
    summary="List collections",
    openapi_extra={"x-role": "search"},
)
async def collections(service: Serving, who: Searching) -> list[ShownCollection]:
    """The collections that you may see."""
    shown = []
    for served in service.pool.served:
        if who.may_open(served.name):
            images = await _count(service, who, who.scope(served.name))
            names = ("name", "encoder", "fingerprint", "dim", "takes", "texts")
            reason = "queries by stored image only" if served.reason else ""
            shown.append(
                ShownCollection(images=images, reason=reason, **{name: getattr(served, name) for name in names})
            )
    return shown


@router.get("/records/{id}", response_model=ShownRecord, summary="Show a record", openapi_extra={"x-role": "search"})
async def record(
    id: UUID, service: Serving, who: Searching, collection: Of = None, vector: bool = False
) -> ShownRecord:
    """What is known of a stored image and may be shown to you."""
    if vector:
        who.require("vectors")
    served = service.collection(who, collection)
    found: Record = await service.call(who, "record", who.scope(served.name), str(id), vector)
    service.audit.note(who.name, "record", 200, served.name, [found.id])
    numbers = None if found.vector is None else list(found.vector)
    return ShownRecord(id=found.id, collection=served.name, record=who.shown(found.payload), vector=numbers)


@router.get(
    "/thumbnails/{id}.jpg",
    summary="A small image",
    responses=_JPEG,
    response_class=Response,
    openapi_extra={"x-role": "images"},
)
async def thumbnail(id: UUID, service: Serving, who: Looking, collection: Of = None) -> Response:
    """A stored image as JPEG of at most 256 pixels."""
    served = service.collection(who, collection)
    data = await service.thumbnail(who, who.scope(served.name), str(id))
    service.audit.note(who.name, "thumbnail", 200, served.name, [str(id)])
    return Response(data, media_type="image/jpeg")


@router.get(
    "/images/{id}", summary="An image", responses=_JPEG, response_class=Response, openapi_extra={"x-role": "images"}
)
async def image(id: UUID, service: Serving, who: Looking, collection: Of = None) -> Response:
    """A stored image as JPEG of at most 2,048 pixels; of a volume the middle axial slice."""
    served = service.collection(who, collection)
    data: bytes = await service.call(who, "draw", who.scope(served.name), str(id), True, priority=DRAW)
    service.audit.note(who.name, "image", 200, served.name, [str(id)])
    return Response(data, media_type="image/jpeg")


@router.post("/session", response_model=Whoami, summary="Sign in", openapi_extra={"x-role": ""})
async def sign_in(login: LoginRequest, request: Request, response: Response, service: Serving) -> Whoami:
    """Trade a key for a cookie, as the page does."""
    if service.keys is None:
        raise ServiceError(400, "no key is needed here")
    who = service.keys.of(login.key)
    if who is None:
        raise ServiceError(401, "the key is not known")
    value, session = service.sessions.begin(who)
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(COOKIE, value, httponly=True, samesite="strict", secure=secure, path="/")
    service.audit.note(who.name, "sign in", 200)
    return Whoami(name=who.name, roles=sorted(who.roles), csrf=session.csrf, keyed=True)


@router.get("/session", response_model=Whoami, summary="Who am I", openapi_extra={"x-role": ""})
async def whoami(request: Request, service: Serving, who: Annotated[Principal, Depends(needs(None))]) -> Whoami:
    """Your name and roles."""
    session = service.session(request)
    csrf = session.csrf if session else None
    return Whoami(name=who.name, roles=sorted(who.roles), csrf=csrf, keyed=service.keys is not None)


@router.delete("/session", status_code=204, summary="Sign out", openapi_extra={"x-role": ""})
async def sign_out(request: Request, service: Serving, who: Annotated[Principal, Depends(needs(None))]) -> Response:
    """End the session of a browser."""
    service.sessions.end(request.cookies.get(COOKIE, ""))
    service.audit.note(who.name, "sign out", 204)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


@router.get("/healthz", summary="Whether it runs", openapi_extra={"x-role": ""})
async def healthz() -> dict[str, str]:
    """The service answers."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether it can search", openapi_extra={"x-role": ""})
async def readyz(service: Serving) -> dict[str, str]:
    """The encoders are loaded and the store answers."""
    await service.call(_ANYBODY, "ping")
    return {"status": "ready"}


@router.get("/metrics", summary="Metrics", response_class=PlainTextResponse, openapi_extra={"x-role": "admin"})
async def metrics(service: Serving, who: Annotated[Principal, Depends(needs("admin"))]) -> PlainTextResponse:
    """Requests, times and the queue, for Prometheus."""
    pool = service.pool
    return PlainTextResponse(service.meter.text(pool.waiting, pool.restarts, pool.away))


_ANYBODY = Principal("", frozenset())


async def _count(service: Service, who: Principal, scope: Scope) -> int:
    try:
        counted: int = await service.call(who, "count", scope)
    except ServiceError as error:
        if error.status == 403:  # the key's filter meets nothing there
            return 0
        raise
    return counted
