r"""The normal form of a path, in which it becomes part of an image's id, and what is replaced in paths before.

However it is written, one path is one image: ``./x/a.png``, ``y/../x/a.png``, ``x//a.png``, ``x\a.png`` and
``file:///root/x/a.png``, in NFC and NFD. `cbmir.root` finds the file.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from cbmir.errors import SourceError

_UNUSUAL = re.compile(r"[\\:%]|(?:^|/)\.{0,2}(?:/|$)")
_FILE_URI = re.compile(r"file:(?://(?=[^/])(?!localhost/)|(?://(?:localhost)?)?(?=/))", re.IGNORECASE)
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)[^/]*")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SHARE = re.compile(r"\\\\[^\\/]+[\\/][^\\/]+")


def normal_path(written: str) -> str:
    r"""The normal form of a path: with ``/`` for ``\``, in NFC, without ``.``, ``x/..`` and ``//``.

    A ``file://`` URI becomes a path, without its percent-encoding. Other URIs stay as they are, in NFC. The disk isn't
    looked at. The result may still begin with ``/`` or ``..``: see `Root`.
    """
    if is_plain(written):
        return written
    text = decoded(written)
    if is_uri(text):
        return text
    text = text.replace("\\", "/")
    return posixpath.normpath("/" + text.lstrip("/") if text.startswith("/") else text)


def is_plain(written: str) -> bool:
    """Whether a path is in normal form already, as a quick look tells; most are."""
    return written.isascii() and not _UNUSUAL.search(written)


def is_uri(path: str) -> bool:
    """Whether a path is a URI, as ``s3://bucket/a.png``."""
    return _URI.match(path) is not None


def printable(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 become escapes, for the engine stores text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class PathPrefixes:
    r"""Beginnings of paths that are replaced before anything else is done: ``C:\data`` by ``/mnt/data``.

    A beginning ends where a folder does, so that ``/data`` is none of ``/database/a.png``. Both kinds of slashes are
    one; drives and shares of Windows match in either case. The longest one that fits counts.

    Args:
        pairs: Old and new beginnings; a new one may be empty.

    Raises:
        SourceError: an old one is empty, or comes twice.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._unused: dict[str, None] = {}
        self._pairs: list[tuple[str, str, str]] = []
        for old, new in pairs:
            plain = _plain(old)
            if not plain:
                raise SourceError(f"no prefix {old!r}: write OLD=NEW, such as C:\\data=/mnt/data")
            if any(plain == other for other, _, _ in self._pairs):
                raise SourceError(f"the prefix {old} comes twice")
            self._pairs.append((plain, old, new))
            self._unused[old] = None
        self._pairs.sort(key=lambda pair: -len(pair[0]))

    @property
    def unused(self) -> tuple[str, ...]:
        """Those that no path began with so far."""
        return tuple(self._unused)

    def replaced(self, written: str) -> str:
        """A path with its new beginning."""
        if not self._pairs:
            return written
        for text in dict.fromkeys((_plain(written), normal_path(written))):
            for plain, old, new in self._pairs:
                if (rest := _after(text, plain)) is not None:
                    self._unused.pop(old, None)
                    return f"{new.rstrip('/')}/{rest}" if new else rest
        return written


def common_parent(paths: Iterable[str]) -> str:
    """The lowest folder above all of some absolute paths."""
    return posixpath.commonpath([posixpath.dirname(path) for path in paths])


def _plain(written: str) -> str:
    return decoded(written).replace("\\", "/")


def decoded(written: str) -> str:
    """A path in NFC; a file URI without scheme and percent-encoding."""
    text = unicodedata.normalize("NFC", written)
    if match := _FILE_URI.match(text):
        rest = unicodedata.normalize("NFC", unquote(text[match.end() :], errors="surrogateescape"))
        if _DRIVE.match(rest) or _DRIVE.match(rest[1:]):
            return rest.lstrip("/")
        return rest if rest.startswith("/") else "\\\\" + rest  # a host: a share of Windows
    return text


def _after(text: str, start: str) -> str | None:
    """What follows the beginning of a path; None where it doesn't begin so."""
    if _DRIVE.match(f"{start}/") or start.startswith("//"):
        begins = text[: len(start)].casefold() == start.casefold()
    else:
        begins = text.startswith(start)
    rest = text[len(start) :]
    if not begins or not (start.endswith("/") or not rest or rest.startswith("/")):
        return None
    return rest.lstrip("/")


def foreign(text: str) -> str | None:
    """What to do about a path that is none of this machine; None for any other."""
    if os.sep != "\\" and (match := _DRIVE.match(text) or _SHARE.match(text)):
        start = match[0]
        return (
            f"is a path of Windows: say where that folder is on this machine, --path-prefix '{start}=FOLDER', "
            "or a longer beginning of the path"
        )
    if match := _URI.match(text):
        return (
            f"is a URI, and cbmir reads files: say where a copy of them is, --path-prefix '{match[0]}=FOLDER', "
            "or a longer beginning of the path"
        )
    return None
