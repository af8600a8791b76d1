"""Where thumbnails lie, and the URLs under which a web server shows them."""

import io
import ipaddress
import re
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from cbmir.errors import ThumbnailError

QUALITY = 80
"""Of the JPEG files."""

MODE = 0o644
"""Everybody may read them: a web server runs as another user."""

_OURS = re.compile(r"/([0-9a-f]{2})/\1[0-9a-f]{6}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jpg")
_PARTS = ".part"  # unfinished files are apart: what a killed run has left is found without a look into all folders
_STALE_S = 3600.0  # no run takes that long to write one


@dataclass(frozen=True, slots=True)
class Place:
    """The folder and the URL of thumbnails: ``5b/5b7a4a4e-....jpg`` below both. `open_place` makes one.

    Attributes:
        folder: Where the files are.
        base: Absolute http(s) URL that shows the folder; without the slash at its end.
        mode: Rights of the files, whatever the umask; new folders can be entered by all who may read the files.

    Raises:
        ThumbnailError: the URL is none that a browser can open with a path behind it, or it holds a password.
    """

    folder: Path
    base: str
    mode: int = MODE

    def __post_init__(self) -> None:
        _check(self.base)
        object.__setattr__(self, "base", self.base.rstrip("/"))

    def path(self, id: str) -> Path:
        """The file of an image, by point id."""
        return self.folder / id[:2] / f"{id}.jpg"

    def url(self, id: str) -> str:
        """The URL of an image, by point id."""
        return self.base + _end(id)


def open_place(folder: Path, base: str, mode: int = MODE) -> Place:
    """A place that can be written to; makes the folder, and deletes what killed runs have left half written.

    Raises:
        ThumbnailError: the URL can't be used, see `Place`, or the folder can't be written to.
    """
    place = Place(folder, base, mode)
    parts = folder / _PARTS
    try:
        for missing in [item for item in (folder, *folder.parents) if not item.exists()][::-1]:
            _make_folder(missing, mode)
        parts.mkdir(mode=0o700, exist_ok=True)
        for left in parts.iterdir():
            with suppress(FileNotFoundError):  # another run is at work
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()
        with tempfile.TemporaryFile(dir=parts) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise ThumbnailError(f"can't write thumbnails to {folder}: {error.strerror}") from error
    return place


def write(picture: Image.Image, path: Path, mode: int = MODE) -> None:
    """Write a thumbnail as JPEG, whole or not at all; one that is there is replaced.

    Args:
        picture: RGB or grey.
        path: From `Place.path`.
        mode: Rights of the file.

    Raises:
        ThumbnailError: the file can't be written.
    """
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY)
    part = path.parent.parent / _PARTS / uuid.uuid4().hex
    try:
        _make_folder(path.parent, mode)
        part.write_bytes(data.getvalue())
        part.chmod(mode)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ThumbnailError(f"can't write the thumbnail {path}: {error.strerror}; what was stored stays") from error


def remove(path: Path) -> None:
    """Remove the thumbnail of an image that failed after all.

    Raises:
        ThumbnailError: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ThumbnailError(f"can't remove the thumbnail {path} of an image that failed: {error.strerror}") from error


def _make_folder(folder: Path, mode: int) -> None:
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(mode | (mode & 0o444) >> 2)  # who may read a folder may enter it


def is_there(path: Path) -> bool:
    """Whether a thumbnail exists; an empty file, as a loss of power leaves it, is none.

    Raises:
        ThumbnailError: its folder can't be looked into.
    """
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ThumbnailError(f"can't read the thumbnail {path}: {error.strerror}; what was stored stays") from error


def is_ours(url: str, id: str) -> bool:
    """Whether a URL was made here for an image, under whatever base."""
    return url.endswith(_end(id))


def is_former(url: str, place: Place) -> bool:
    """Whether a URL was made here for some image, such as one of an id that its image had before."""
    end = url.removeprefix(place.base)
    return end != url and bool(_OURS.fullmatch(end))


def _end(id: str) -> str:
    return f"/{id[:2]}/{id}.jpg"


def _check(base: str) -> None:
    try:
        parts = urlsplit(base)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused(base, str(error)) from error
    if "@" in parts.netloc:
        raise _refused(base, "it has a user or a password, which would be stored with every image")
    if parts.scheme not in ("http", "https") or not host:
        raise _refused(base, "it must be absolute, as in https://images.example.org/thumbnails")
    if "?" in base or "#" in base:
        raise _refused(base, "it must end with its path, without ? and #: the name of a file comes behind it")
    if re.search(r"[\s\x00-\x1f\x7f\\\ud800-\udfff]", base):
        raise _refused(base, "it has a space, a backslash or a sign that can't be seen")
    if not _is_host(host, in_brackets="[" in parts.netloc):
        raise _refused(base, f"{host!r} is no host")


def _refused(base: str, why: str) -> ThumbnailError:
    shown = re.sub(r"[^/]*@", "", re.split(r"[?#]", base)[0])  # the rest may be secret
    return ThumbnailError(f"{shown!r} can't be the URL of thumbnails: {why}")


def _is_host(host: str, in_brackets: bool) -> bool:
    """Whether browsers take it; of those that end with a number, addresses as they are usually written only."""
    try:
        if in_brackets:
            return ipaddress.IPv6Address(host).scope_id is None
        if re.fullmatch(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return re.search(r'[%<>^|`{}\[\]"]', host) is None
