"""Compressed files, unpacked no further than a limit: a few bytes can stand for many terabytes."""

import bz2
import gzip
import io
import os
from typing import IO, cast

from cbmir.errors import ImageError
from cbmir.limits import Limits

_DEFLATE_RATIO = 1032
"""The most bytes that one byte of gzip can stand for."""


class LimitedGzip(gzip.GzipFile):
    """Refuses to go beyond a number of unpacked bytes, by reading or by seeking.

    Args:
        file: Compressed.
        limits: Of bytes.
        what: It is, for messages, with a space behind.
    """

    def __init__(self, file: IO[bytes], limits: Limits, what: str = "") -> None:
        super().__init__(fileobj=file)
        self._limits = limits
        self._what = what

    def read(self, size: int | None = -1) -> bytes:
        """As of a file."""
        return self._checked(super().read(self._part(size)))

    def read1(self, size: int = -1) -> bytes:
        """As of a file."""
        return self._checked(super().read1(self._part(size)))

    def readline(self, size: int | None = -1) -> bytes:
        """As of a file."""
        return self._checked(super().readline(self._part(size)))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of a file, but not from its end."""
        if whence == io.SEEK_END:
            raise OSError("the end of a compressed file isn't known before it is read")
        self._limits.check_bytes(offset + (self._at if whence == io.SEEK_CUR else 0), self._what)
        return super().seek(offset, whence)

    @property
    def _at(self) -> int:
        return super().seek(0, io.SEEK_CUR)

    def _part(self, size: int | None) -> int:
        rest = self._limits.bytes - self._at + 1
        return rest if size is None or size < 0 else min(size, rest)

    def _checked(self, data: bytes) -> bytes:
        self._limits.check_bytes(self._at, self._what)
        return data


def unpacked(file: IO[bytes], limits: Limits) -> tuple[IO[bytes], int]:
    """What is in a file, unpacked if it is gzip by its first bytes.

    Args:
        file: Read from its start.
        limits: Of bytes; the stream raises an `ImageError` beyond them.

    Returns:
        The stream at its start, and the most bytes that can come out of it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not is_compressed:
        return file, size
    return cast("IO[bytes]", LimitedGzip(file, limits)), min(size * _DEFLATE_RATIO, limits.bytes)


def inflated(stream: IO[bytes], encoding: str, most: int) -> bytes:
    """What the rest of a stream unpacks to.

    Args:
        stream: Compressed.
        encoding: ``gzip`` or ``bzip2``.
        most: Bytes at most.

    Raises:
        ImageError: they are more.
        OSError, EOFError, zlib.error: it is damaged.
    """
    with gzip.GzipFile(fileobj=stream) if encoding == "gzip" else bz2.BZ2File(stream) as file:
        data: bytes = file.read(most + 1)
    if len(data) > most:
        raise ImageError(f"is damaged: its voxels unpack to more than {most:,} bytes, which its header doesn't tell of")
    return data
