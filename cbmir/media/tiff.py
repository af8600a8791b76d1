"""TIFF that Pillow reads otherwise than it should, not at all, or without end.

Where zero is white, Pillow inverts a few pixel types, and refuses or ignores it in the others.
"""

import struct
from dataclasses import dataclass

from cbmir.errors import ImageError

MAX_DIRECTORIES = 1000
"""Pages and smaller copies of one file; a pyramid has about ten."""

_BITS, _PHOTOMETRIC, _SAMPLES, _FORMAT = 258, 262, 277, 339
_CODES = {1: "B", 3: "H", 4: "I"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by its type."""
_OFTEN = 8
"""How often the values of tags may count each byte of a file: pages may share them."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_KINDS = {_UNSIGNED: "integers", _SIGNED: "signed integers", _FLOAT: "floating point"}
WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1


@dataclass(frozen=True, slots=True)
class _Entry:
    code: str
    count: int
    at: int
    value: int


def check_directories(data: bytes) -> None:
    """Refuse a TIFF that would take without end to read: its directories are chained, and may point to the same bytes.

    Raises:
        ImageError: it has over `MAX_DIRECTORIES`, or its tags tell of more bytes than the file has.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, counter, step, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    at = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    seen: set[int] = set()
    told = 0
    try:
        while at and at not in seen:
            seen.add(at)
            if len(seen) > MAX_DIRECTORIES:
                raise ImageError(f"holds over {MAX_DIRECTORIES:,} frames; save each as an image of its own")
            count = struct.unpack_from(order + counter, data, at)[0]
            start = at + struct.calcsize(order + counter)
            told += count * step
            for place in range(start, start + min(count, len(data) // step + 1) * step, step):
                _, kind, numbers = struct.unpack_from(order + "HH" + word, data, place)
                size = _SIZES.get(kind, 1) * numbers
                told += size if inline < size <= len(data) else 0  # what goes beyond the file isn't read
            if told > _OFTEN * len(data):
                raise ImageError("is damaged: its tags tell of more bytes than the file has")
            at = struct.unpack_from(order + word, data, start + count * step)[0]
    except struct.error:
        return  # it ends there, and the decoder says so


def black_is_zero(data: bytes) -> bytes | None:
    """The same file marked as black is zero, for a decoder to read its values as they are stored.

    Returns:
        None where there is nothing to mark: the file is no TIFF, is damaged, its black is zero already, or Pillow
        inverts it: one sample of 1 to 8 bits without sign.
    """
    try:
        order = {b"II": "<", b"MM": ">"}[data[:2]]
        entries = _entries(data, order)
    except (KeyError, struct.error):
        return None
    photometric = entries.get(_PHOTOMETRIC)
    if photometric is None or photometric.value != WHITE_IS_ZERO:
        return None
    bits, samples, form = (entries.get(tag) for tag in (_BITS, _SAMPLES, _FORMAT))
    plain = form is None or (form.count == 1 and form.value == _UNSIGNED)
    single = (samples is None or samples.value == 1) and (bits is None or bits.count == 1)
    if plain and single and (bits is None or bits.value <= 8):
        return None
    changed = bytearray(data)
    struct.pack_into(order + photometric.code, changed, photometric.at, _BLACK_IS_ZERO)
    return bytes(changed)


def refusal(data: bytes) -> str:
    """Why a TIFF can't be read that Pillow doesn't open, and what to do."""
    try:
        entries = _entries(data, {b"II": "<", b"MM": ">"}[data[:2]])
    except (KeyError, struct.error):
        return "is a damaged TIFF: save or copy it again"
    bits, form = entries.get(_BITS), entries.get(_FORMAT)
    size = bits.value if bits is not None and bits.count == 1 else 0
    kind = _KINDS.get(form.value if form is not None else _UNSIGNED)
    if kind and (size > 32 or (kind == _KINDS[_FLOAT] and size != 32)):
        remedy = "save it as 32-bit floating point or 16-bit integers"
        return f"is a TIFF of {size}-bit {kind}, which cbmir can't read: {remedy}"
    return "is damaged, or a TIFF of a kind not known here: save it with 8 or 16 bits a channel"


def _entries(data: bytes, order: str) -> dict[int, _Entry]:
    """The whole numbers of the first directory, by tag; a value of several numbers is given as where it stands."""
    (magic,) = struct.unpack_from(order + "H", data, 2)
    big = magic == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    start, size, value_at = (at + 8, 20, 12) if big else (at + 2, 12, 8)
    entries = {}
    for place in range(start, start + min(count, 65_535) * size, size):
        tag, kind = struct.unpack_from(order + "HH", data, place)
        (numbers,) = struct.unpack_from(order + ("Q" if big else "I"), data, place + 4)
        if kind in _CODES:
            value = struct.unpack_from(order + _CODES[kind], data, place + value_at)[0]
            entries[tag] = _Entry(_CODES[kind], numbers, place + value_at, value)
    return entries
