"""The service as an ASGI application."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from cbmir import __version__
from cbmir.search.api.body import complaint
from cbmir.search.api.errors import ServiceError
from cbmir.search.api.guard import Guard
from cbmir.search.api.models import SearchRequest
from cbmir.search.api.routes import router
from cbmir.search.api.service import Service
from cbmir.search.web.page import add_page

_ABOUT = """Find the stored medical images most similar to an image, a text, or several examples.

For research use, not for diagnosis. Uploaded images are neither stored nor logged."""


def application(service: Service, root_path: str = "") -> Any:
    """The service, ready for an ASGI server.

    Args:
        service: Its state.
        root_path: Where a proxy shows it, such as ``/cbmir``.
    """
    app = FastAPI(
        title="cbmir", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, root_path=root_path
    )
    app.state.service = service
    app.include_router(router)
    add_page(app)
    app.add_exception_handler(ServiceError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        _, schemas = models_json_schema([(SearchRequest, "validation")], ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schemas["$defs"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # so FastAPI's documentation has it
    return Guard(app, service.meter, open_to_loopback=service.keys is None)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status in (401, 403):
        service: Service = request.app.state.service
        route = getattr(request.scope.get("route"), "path", "other")
        service.audit.note(getattr(request.state, "who", ""), f"refused {route}", error.status)
    return _told(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if errors and errors[0]["loc"][:1] == ("path",):
        return _told(ServiceError(404, "no such image in this collection"))
    return _told(ServiceError(400, complaint(errors)))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _told(ServiceError(error.status_code, str(error.detail)), error.headers)


def _told(error: ServiceError, headers: Any = None) -> Response:
    more = dict(headers or {})
    if error.retry_after_s is not None:
        more["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        more["www-authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, more)
