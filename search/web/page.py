"""Serves the page and its files. They are read when the service starts: no path of a request is ever opened."""

import mimetypes
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from jinja2 import Environment, FunctionLoader, select_autoescape

from cbmir import __version__
from cbmir.search.api.errors import ServiceError

_HERE = files("cbmir.search.web")


def add_page(app: FastAPI) -> None:
    """Add the page to an application."""
    static = {item.name: item.read_bytes() for item in _HERE.joinpath("static").iterdir() if item.is_file()}
    templates = _HERE.joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: templates.joinpath(name).read_text("utf-8")), autoescape=select_autoescape()
    )
    page = environment.get_template("page.html.j2").render(version=__version__)

    @app.get("/", include_in_schema=False)
    async def show_page(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/static/{name}", include_in_schema=False)
    async def show_file(name: str) -> Response:
        if name not in static:
            raise ServiceError(404, "no such file")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(static[name], media_type=kind, headers={"cache-control": "no-cache"})
