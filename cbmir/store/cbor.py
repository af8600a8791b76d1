"""CBOR (RFC 8949) decoded without recursion: what the engine's log holds may be nested deeper than the engine reads."""

import struct
from collections.abc import Callable
from typing import Any

_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7
_BREAK = object()
_SIMPLE_VALUES = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_INDEFINITE = 31


def decode(data: bytes) -> Any:
    """The value in some bytes; what follows it is left alone.

    Raises:
        ValueError: it is cut off, or no CBOR of the kinds that the engine writes.
    """
    reader = _Reader(data)
    open_items: list[_Open] = []
    while True:
        value = reader.next()
        while True:
            if isinstance(value, _Open) and not value.full:
                open_items.append(value)
                break
            if value is _BREAK:
                if not open_items or open_items[-1].missing is not None:
                    raise ValueError("a break where no list ends")
                value = open_items.pop()
            value = value.made() if isinstance(value, _Open) else value
            if not open_items:
                return value
            open_items[-1].add(value)
            if not open_items[-1].full:
                break
            value = open_items.pop()


class _Open:
    """A list or object that isn't complete yet."""

    def __init__(self, build: Callable[[list[Any]], Any], missing: int | None) -> None:
        self._build = build
        self._items: list[Any] = []
        self.missing = missing

    @property
    def full(self) -> bool:
        return self.missing == 0

    def add(self, value: Any) -> None:
        self._items.append(value)
        if self.missing is not None:
            self.missing -= 1

    def made(self) -> Any:
        return self._build(self._items)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def next(self) -> Any:
        """A scalar, a list or object that begins, or the break that ends one."""
        first = self._take(1)[0]
        major, info = first >> 5, first & 31
        if major == _SIMPLE:
            return self._simple(info)
        number = None if info == _INDEFINITE else self._number(info)
        if major == _ARRAY:
            return _Open(list, number)
        if major == _MAP:
            return _Open(_object, None if number is None else 2 * number)
        if number is None:
            raise ValueError("a text in parts")
        if major == 0:
            return number
        if major == 1:
            return -1 - number
        if major == _BYTES:
            return self._take(number)
        if major == _TEXT:
            return self._take(number).decode()
        raise ValueError("a tag")

    def _simple(self, info: int) -> Any:
        if info == _INDEFINITE:
            return _BREAK
        if info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        if info not in _FLOATS:
            raise ValueError(f"the simple value {info}")
        form, size = _FLOATS[info]
        return struct.unpack(form, self._take(size))[0]

    def _number(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise ValueError(f"the length {info}")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("it is cut off")
        self._at += count
        return part


def _object(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or any(not isinstance(key, str | int) for key in items[::2]):
        raise ValueError("an object whose keys are no texts")
    return dict(zip(items[::2], items[1::2], strict=True))
