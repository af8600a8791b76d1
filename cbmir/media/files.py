"""The bytes of a file and their hash: what can't be read says why."""

import hashlib
import os
import stat
from pathlib import Path

from cbmir.errors import ImageError

MAX_BYTES = 500_000_000
"""Larger image files are refused before they are read."""
MAX_VOLUME_BYTES = 8_000_000_000
"""Larger volume files are refused before they are read: a voxel takes 8 bytes at most, see `MAX_VOXELS`."""


def read(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: the file is missing, unreadable, empty, too large, or no regular file.
    """
    check_file(path, MAX_BYTES)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def check_file(path: Path, most_bytes: int) -> None:
    """Refuse what can't be read as a file.

    Raises:
        ImageError: the file is missing, empty, too large, or no regular file (a pipe would block for ever).
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError((getattr(error, "strerror", None) or str(error)) + _windows(path, error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    if status.st_size == 0:
        raise ImageError("is empty")
    if status.st_size > most_bytes:
        raise ImageError(f"is too large: {status.st_size:,} bytes, {most_bytes:,} at most")


def _windows(path: Path, error: Exception) -> str:
    """What to do where a file is not found because its path is written as on Windows; empty otherwise."""
    if os.sep == "\\" or "\\" not in str(path) or not isinstance(error, FileNotFoundError):
        return ""
    return ": the path has backslashes, as on Windows; write it with /, relative to the table or to --root"


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a volume file, which may be too large to be held in memory.

    Raises:
        ImageError: the file is missing, unreadable, empty, too large, or no regular file.
    """
    check_file(path, MAX_VOLUME_BYTES)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
