"""What a payload may hold, so that both engines can write it, read it back and send it.

The embedded engine can't read its write-ahead log again where a payload is nested 122 deep or more, gRPC refuses about
30 levels, and a server refuses requests of 32 MB. An engine tells too late: the collection doesn't open any more, or
all images of a batch fail with the one. So every payload is checked before it is written.
"""

import math
from collections.abc import Mapping
from typing import Any

from cbmir.errors import RecordError

MAX_DEPTH = 16
"""Lists and objects within each other, in one field of a payload; ``extra`` itself is the first."""
MAX_VALUES = 10_000
"""Values in all lists and objects of one field, at any depth."""
MAX_BYTES = 1_000_000
"""Of all texts of a payload in UTF-8, names and keys included; a number counts as one."""

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
"""Whole numbers beyond these come back from an engine as other numbers, or gRPC has no room for them."""
_REMEDY = "shorten it, or leave its column out (--column 'NAME=ignored')"


def check_payload(payload: Mapping[str, Any]) -> None:
    """Refuse a payload that an engine can't keep.

    Raises:
        RecordError: it is nested too deep, has too many values or bytes, or holds something that JSON has not.
    """
    sizes = {name: _size(name, value) for name, value in payload.items()}
    if sum(sizes.values()) > MAX_BYTES:
        most = max(sizes, key=lambda name: sizes[name])
        raise RecordError(f"its payload is over {MAX_BYTES:,} bytes, the limit, most of them in {most}: {_REMEDY}")


def _size(place: str, value: Any) -> int:
    """Bytes of a checked value."""
    if isinstance(value, str):
        return len(value) if value.isascii() else _encoded(place, value)
    if isinstance(value, dict | list | tuple):
        return _size_nested(place, value)
    if value is None or value is True or value is False:
        return 1
    if not isinstance(value, int | float):
        raise RecordError(f"{place} holds a value of the type {type(value).__name__}, which JSON has not")
    if isinstance(value, int):
        if not _LOWEST <= value <= _HIGHEST:
            raise RecordError(f"{place} is a whole number that 64 bits with a sign can't hold; write it as text")
    elif not math.isfinite(value):
        raise RecordError(f"{place} is {value}, which JSON has not")
    return 1


def _size_nested(name: str, value: Any) -> int:
    """Bytes of what a field holds, found without recursion: what is nested may be nested without end."""
    count = size = 0
    waiting = [(name, value, 1)]
    while waiting:
        place, item, depth = waiting.pop()
        if not isinstance(item, dict | list | tuple):
            size += _size(place, item)
            continue
        count += len(item)
        if depth > MAX_DEPTH:
            raise RecordError(f"{place} is nested deeper than {MAX_DEPTH} levels, the limit: {_REMEDY}")
        if count > MAX_VALUES:
            raise RecordError(f"{place} holds more than {MAX_VALUES:,} values, the limit: {_REMEDY}")
        if not isinstance(item, dict):
            waiting += [(place, part, depth + 1) for part in item]
            continue
        for key, part in item.items():
            if not isinstance(key, str):
                raise RecordError(f"{place} has the key {key!r}, which is no text")
            size += len(key) if key.isascii() else _encoded(place, key)
            waiting.append((f"{place}.{key:.60}" if depth == 1 else place, part, depth + 1))
    return size


def _encoded(place: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise RecordError(f"{place} holds {text[error.start]!a}, which is no Unicode text") from error
