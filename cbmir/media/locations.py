"""Where the bytes of an asset are: in a file, in memory, or behind a URL. What can't be read says why."""

import hashlib
import io
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol, cast

from cbmir.errors import ImageError

_PART = 1 << 20
_IN_MEMORY = 64 << 20


class Location(Protocol):
    """Where bytes are. It travels to worker processes by pickle; nothing is opened before it is asked for."""

    @property
    def name(self) -> str:
        """Name of the file; empty where it has none."""

    def __str__(self) -> str:
        """For people; without what is secret in a URL, and empty for bytes."""

    def check(self, most_bytes: int) -> None:
        """Refuse what can't be read as a file.

        Raises:
            ImageError: it is missing, empty, too large, or no file.
        """

    def open(self, most_bytes: int) -> IO[bytes]:
        """The bytes from the start, with `seek`.

        Raises:
            ImageError: see `check`, or it can't be opened.
        """

    def read(self, most_bytes: int) -> bytes:
        """All bytes.

        Raises:
            ImageError: see `check`, or it can't be read.
        """


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def check(self, most_bytes: int) -> None:
        """As of every location; a pipe, which would block for ever, is no file."""
        try:
            status = self.path.stat()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise ImageError(reason + _windows(self.path, error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is not a regular file")
        _check_size(status.st_size, most_bytes)

    def open(self, most_bytes: int) -> IO[bytes]:
        """As of every location."""
        self.check(most_bytes)
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error

    def read(self, most_bytes: int) -> bytes:
        """As of every location."""
        self.check(most_bytes)
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes in memory."""

    data: bytes

    @property
    def name(self) -> str:
        """None."""
        return ""

    def __str__(self) -> str:
        return ""

    def check(self, most_bytes: int) -> None:
        """They are there."""

    def open(self, most_bytes: int) -> IO[bytes]:
        """As of every location."""
        return io.BytesIO(self.data)

    def read(self, most_bytes: int) -> bytes:
        """As they are."""
        return self.data


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip archive of this machine.

    Attributes:
        path: The archive.
        member: Its name in there.
    """

    path: Path
    member: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.member.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.path}/{self.member}"

    def check(self, most_bytes: int) -> None:
        """As of every location."""
        with _archive_reasons():
            _check_size(_archive(self.path, self.path.stat().st_mtime_ns).getinfo(self.member).file_size, most_bytes)

    def open(self, most_bytes: int) -> IO[bytes]:
        """As of every location. It is unpacked first, a large one to a temporary file: to go back would do it anew."""
        self.check(most_bytes)
        copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  the caller closes it
        with _archive_reasons(), _archive(self.path, self.path.stat().st_mtime_ns).open(self.member) as file:
            while part := file.read(_PART):
                copy.write(part)
                _check_size(copy.tell(), most_bytes)  # what the archive says of its size may be wrong
        copy.seek(0)
        return cast("IO[bytes]", copy)

    def read(self, most_bytes: int) -> bytes:
        """As of every location."""
        with self.open(most_bytes) as file:
            return file.read()


@lru_cache(4)
def _archive(path: Path, _changed_ns: int) -> zipfile.ZipFile:
    """An open archive: to list a large one for each of its files would take long."""
    return zipfile.ZipFile(path)


@contextmanager
def _archive_reasons() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ImageError("is no longer in its archive") from error
    except OSError as error:
        raise ImageError(error.strerror or "its archive can't be read") from error
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        why = "is encrypted" if "password" in str(error) else f"is damaged ({type(error).__name__})"
        raise ImageError(f"its archive {why}: unpack it first") from None


@dataclass(frozen=True, slots=True)
class Url:
    """A file behind a URL of fsspec, such as ``memory://a.png``, ``s3://bucket/a.png`` or ``zip://a.png::a.zip``.

    A chain of URLs names a member of an archive. Which protocols there are depends on the installed packages. Keys and
    passwords belong into the configuration of fsspec or into the environment.
    """

    url: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return str(self).partition("::")[0].rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        return "::".join(re.sub(r"//[^/]*@", "//", re.split(r"[?#]", part)[0]) for part in self.url.split("::"))

    def check(self, most_bytes: int) -> None:
        """As of every location."""
        with _reasons(self):
            files, path = self._found()
            self._check(files.info(path), most_bytes)

    def open(self, most_bytes: int) -> IO[bytes]:
        """As of every location. It is copied to a temporary file, since to go back in it may fetch it anew."""
        with _reasons(self):
            files, path = self._found()
            self._check(files.info(path), most_bytes)
            with files.open(path, "rb") as opened:
                copy = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
                while part := opened.read(_PART):
                    copy.write(part)
                    _check_size(copy.tell(), most_bytes)
            copy.seek(0)
            return copy

    def read(self, most_bytes: int) -> bytes:
        """As of every location."""
        with _reasons(self):
            files, path = self._found()
            self._check(files.info(path), most_bytes)
            with files.open(path, "rb") as opened:
                data: bytes = opened.read(most_bytes + 1)  # the size may not have been known, or wrong
            _check_size(len(data), most_bytes)
            return data

    def _found(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # imports much

        if "://" not in self.url:
            raise ImageError(f"is no URL: {self.url} has no protocol, as in s3://bucket/a.png")
        files, path = url_to_fs(self.url)
        return files, path

    def _check(self, found: Any, most_bytes: int) -> None:
        if found.get("type") == "directory":
            raise ImageError("is not a regular file")
        if found.get("size") is not None:
            _check_size(found["size"], most_bytes)


@contextmanager
def _reasons(url: Url) -> Iterator[None]:
    """Whatever a file system of fsspec raises as an `ImageError` of one line."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise ImageError("No such file or directory") from error
    except Exception as error:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        said = " ".join(text.replace(url.url, str(url)).split())[:200]
        raise ImageError(f"can't be opened: {said or type(error).__name__}") from error


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def _check_size(size: int, most_bytes: int) -> None:
    if size == 0:
        raise ImageError("is empty")
    if size > most_bytes:
        raise ImageError(f"is too large: {size:,} bytes, {most_bytes:,} at most")


def _windows(path: Path, error: Exception) -> str:
    """What to do where a file is not found because its path is written as on Windows; empty otherwise."""
    if os.sep == "\\" or "\\" not in str(path) or not isinstance(error, FileNotFoundError):
        return ""
    return ": the path has backslashes, as on Windows; write it with /, relative to the table or to --root"
