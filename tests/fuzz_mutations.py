"""Damaged and hostile variants of a file, the same ones for the same seed."""

import random
import re
import struct
import zlib
from collections.abc import Sequence

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64,
)
WORDS = (
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b"\r",
        b"\n",
        b",",
        b";",
        b"\t",
        b"|",
        b"\\",
        b"{",
        b"[",
        b"]}",
    ),
    *(
        b"nan",
        b"inf",
        b"-inf",
        b"1e999",
        b"null",
        b"true",
        b"NaN",
        b"0x7f",
        b"1979-05-27",
        b"..",
        b"/",
        b"../../etc/passwd",
    ),
    *(
        "é".encode(),
        "𝟙".encode(),
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
        b"\x1b[2J",
        b"=1+1",
        b"&a",
        b"*a",
        b"!!python/object",
    ),
    *(b"[" * 2000, b"{" * 2000, b'"' * 51, b"," * 500, b"9" * 5000, b"x" * 150_000, b"a: &a [*a]", b"\n- - - - -"),
)


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """A variant of a file: one to four changes.

    Args:
        data: The file.
        rng: Decides what is done.
        others: Files of the same kind, of which parts may be taken.
    """
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_CHANGES)(found, rng, others)
    return bytes(found)


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a PNG, as far as it is whole."""
    found, place = [], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        if place + 12 + length > len(png):
            break
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def unchunked(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The inverse of `chunks`, with the checksums that fit."""
    made = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums that fit, so that a decoder reads on."""
    return unchunked(chunks(png)) if chunks(png) else png


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, headers more often."""
    return rng.randrange(min(len(data), rng.choice((64, 600, 1 << 30))) or 1)


def _bits(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 3, 20)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _bytes(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, rng)
    count = rng.choice((1, 4, 30))
    data[place : place + count] = rng.randbytes(count)


def _cut(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    del data[_place(data, rng) :]


def _without(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 8, 100, 4000))]


def _again(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, rng)
    part = data[place : place + rng.choice((1, 8, 100, 4000))]
    data[place:place] = part * rng.choice((1, 3, 50))


def _number(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _float(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, rng) // 4 * 4
    value = rng.choice((0.0, -1.0, 1e-30, 1e9, 1e30, float("nan"), float("inf"), float("-inf")))
    data[place : place + 4] = struct.pack("<f", value)


def _digits(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    spans = [match.span() for match in re.finditer(rb"[0-9]+", data[:20_000])]
    if spans:
        start, end = rng.choice(spans)
        data[start:end] = str(rng.choice(NUMBERS)).encode()


def _word(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, rng)
    data[place : place + rng.choice((0, 0, 1, 10))] = rng.choice(WORDS)


def _spliced(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others) if others else bytes(data)
    start = rng.randrange(len(other) or 1)
    place = _place(data, rng)
    data[place : place + rng.choice((0, 8, 500))] = other[start : start + rng.choice((8, 100, 5000))]


_CHANGES = (
    _bits,
    _bits,
    _bytes,
    _cut,
    _without,
    _again,
    _number,
    _number,
    _number,
    _float,
    _digits,
    _word,
    _word,
    _spliced,
)
