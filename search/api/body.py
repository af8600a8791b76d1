"""Reading a request into memory: bounded in bytes and time, without a temporary file."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from cbmir.search.api.errors import ServiceError
from cbmir.search.api.models import SearchRequest

UPLOAD_S = 60.0
"""Longest time that a client may take to send a request."""

MOST_FILES = 16
_JSON_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent to be searched.

    Attributes:
        request: The query.
        images: Contents of uploaded files to be like.
        unlike: Contents of those to be unlike.
    """

    request: SearchRequest
    images: tuple[bytes, ...] = ()
    unlike: tuple[bytes, ...] = ()


async def read_search(request: Request, most_bytes: int) -> Sent:
    """The query of a request, as JSON or as a multipart form with files.

    Raises:
        ServiceError: it is of another type, too large, too slow, or no query.
    """
    kind = _kind(request)
    if kind == "application/json":
        return Sent(_query(await read_body(request, _JSON_BYTES)))
    if kind != "multipart/form-data":
        raise ServiceError(415, "send application/json, or multipart/form-data with the parts query and image")
    data = await read_body(request, most_bytes + _JSON_BYTES)
    fields, files = await _parts(request, data, most_bytes)
    if unknown := sorted({*fields, *files} - {"query", "image", "not_image"}):
        raise ServiceError(400, f"no part {unknown[0][:40]!r} is known; the parts are query, image, not_image")
    query = fields.get("query", b"{}")
    return Sent(_query(query), tuple(files.get("image", ())), tuple(files.get("not_image", ())))


async def read_image(request: Request, most_bytes: int) -> bytes:
    """The content of the only file of a multipart form, in its part ``image``.

    Raises:
        ServiceError: there is another number of files, or see `read_search`.
    """
    if _kind(request) != "multipart/form-data":
        raise ServiceError(415, "send multipart/form-data with the part image")
    _, files = await _parts(request, await read_body(request, most_bytes + _JSON_BYTES), most_bytes)
    images = files.get("image", [])
    if len(images) != 1:
        raise ServiceError(400, "send one file in the part image")
    return images[0]


async def read_body(request: Request, most_bytes: int) -> bytes:
    """All that is sent.

    Raises:
        ServiceError: it is too large, or comes too slowly.
    """
    too_large = ServiceError(413, f"the request is too large: {most_bytes:,} bytes at most")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes:
        raise too_large
    read = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_S):
            async for part in request.stream():
                read += part
                if len(read) > most_bytes:
                    raise too_large
    except TimeoutError as error:
        raise ServiceError(408, f"the request took longer than {UPLOAD_S:g} s to arrive") from error
    return bytes(read)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parts(request: Request, data: bytes, most_bytes: int) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
    """Fields and files by their names."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    parser = MultiPartParser(
        request.headers, stream(), max_files=MOST_FILES, max_fields=MOST_FILES, max_part_size=_JSON_BYTES
    )
    parser.spool_max_size = len(data) + 1  # else large parts would go to a temporary file
    fields: dict[str, bytes] = {}
    files: dict[str, list[bytes]] = {}
    try:
        form = await parser.parse()
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                content = await value.read()
                if len(content) > most_bytes:
                    raise ServiceError(413, f"the file is too large: {most_bytes:,} bytes at most")
                files.setdefault(name, []).append(content)
            else:
                fields[name] = value.encode()
        await form.close()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise ServiceError(400, "the multipart form can't be read") from error
    return fields, files


def _query(data: bytes) -> SearchRequest:
    try:
        return SearchRequest.model_validate_json(data or b"{}")
    except ValidationError as error:
        raise ServiceError(400, complaint(error.errors(include_input=False, include_url=False))) from error


def complaint(errors: object) -> str:
    """The first of pydantic's errors as one line, without what was sent."""
    first = errors[0] if isinstance(errors, list | tuple) and errors else {"loc": (), "msg": "can't be read"}
    place = ".".join(str(item)[:40] for item in first["loc"] if item not in ("body", "query", "path"))
    return f"{place or 'the request'}: {str(first['msg'])[:200]}".replace("\n", " ")
