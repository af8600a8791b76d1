"""A thing that pixels come from, and how it is shown to people."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbmir.errors import ImageError
from cbmir.limits import Limits
from cbmir.media import raster
from cbmir.media.filekind import (
    DECODER,
    HEAD_BYTES,
    Content,
    Decoded,
    DecodeOptions,
    FileKind,
    Note,
    file_kinds,
    named,
    recognised,
)
from cbmir.media.locations import Held, LocalFile, Location, Url, sha256
from cbmir.media.thumbnail import slice_thumbnail, thumbnail
from cbmir.media.volume import Volume
from cbmir.schema import RecordKind
from cbmir.unpacking import unpacked

_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that PNG keeps as they are."""

_GZIP = b"\x1f\x8b"


class Asset:
    """A thing that pixels come from: a file, bytes, a URL, a member of an archive, or one of several images in a file.

    It is opened, hashed and decoded when that is first asked for, and once. It can be pickled; what was read of it
    stays behind. Two are equal if they are the same place.

    Every property and method raises `ImageError` where the bytes can't be read or decoded, or go beyond a limit.

    Attributes:
        location: Where its bytes are.
        frame: Which of several images in the file, from 1; None for the file as a whole.
        settings: How its kind of file is read; None for the usual way.

    Args:
        source: A path (a text is one, whatever it looks like; for a URL see `at`), the bytes of a file, or any other
            location.
        limits: What decoding it may take; those of the environment unless given.
        frame: See there.
        settings: How its kind of file is read, such as `DicomSettings`; other kinds pass over them.
        kills: Whether the system may end this process where decoding doesn't end in time; for those that only decode.
    """

    def __init__(
        self,
        source: str | Path | bytes | Location,
        limits: Limits | None = None,
        *,
        frame: int | None = None,
        settings: Any = None,
        kills: bool = False,
    ) -> None:
        if isinstance(source, bytes):
            self.location: Location = Held(source)
        else:
            self.location = LocalFile(Path(source)) if isinstance(source, str | Path) else source
        self.frame = frame
        self.settings = settings
        self._limits = limits
        self._kills = kills
        self._kind: FileKind | None = None
        self._decoded: Decoded | None = None
        self._kept: dict[str, Any] = {}

    @classmethod
    def of(cls, pixels: "HoldsPixels") -> "Asset":
        """An asset of whatever pixels are in.

        Args:
            pixels: An asset, a path, a file's bytes, a Pillow image, or an array of shape (height, width), or (height,
                width, 3 or 4) with 8 bits a channel. A Pillow image and an array are read as a file of their pixels
                would be.

        Raises:
            ImageError: an array has another shape or type.
        """
        if isinstance(pixels, Asset):
            return pixels
        if isinstance(pixels, str | Path | bytes):
            return cls(pixels)
        image = pixels if isinstance(pixels, Image.Image) else _image_of(np.asarray(pixels))
        file = io.BytesIO()
        try:
            image.save(file, "PNG" if image.mode in _AS_PNG else "TIFF", exif=image.info.get("exif", b""))
        except (OSError, ValueError) as error:
            raise ImageError(f"is a Pillow image of mode {image.mode}, which can't be used: {error}") from error
        return cls(file.getvalue())

    @classmethod
    def at(cls, url: str, *, frame: int | None = None) -> "Asset":
        """An asset behind a URL of fsspec, such as ``s3://bucket/a.png`` or ``zip://x/a.png::file:///data/a.zip``.

        It is fetched when it is first used. Only a program that means to fetch calls this: paths in tables and in
        collections never lead to the network.
        """
        return cls(Url(url), frame=frame)

    @property
    def limits(self) -> Limits:
        """What decoding it may take."""
        if self._limits is None:
            self._limits = Limits.read("image")
        return self._limits

    @property
    def path(self) -> Path | None:
        """Its file on this machine; None for what is elsewhere."""
        return self.location.path if isinstance(self.location, LocalFile) else None

    @property
    def name(self) -> str:
        """Name of the file; of what has none, such as bytes, ``image`` or ``volume``."""
        return self.location.name or self.kind

    def __str__(self) -> str:
        """Where it is, for people; of bytes ``image`` or ``volume``."""
        place = str(self.location) or self.kind
        return place if self.frame is None else f"{place} frame {self.frame}"

    def __repr__(self) -> str:
        return f"<asset {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asset) and (self.location, self.frame) == (other.location, other.frame)

    def __hash__(self) -> int:
        return hash((self.location, self.frame))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.location, self._limits, self.frame, self.settings)

    def within(self, limits: Limits | None, *, kills: bool = False) -> "Asset":
        """The same one, not read yet, with other limits."""
        return Asset(self.location, limits, frame=self.frame, settings=self.settings, kills=kills)

    def read_as(self, settings: Any) -> "Asset":
        """The same one, not read yet, read with other settings of its kind."""
        return Asset(self.location, self._limits, frame=self.frame, settings=settings, kills=self._kills)

    def open(self) -> IO[bytes]:
        """The bytes of its file from the start, with `seek`; the caller closes them."""
        return io.BytesIO(self._data) if self._data is not None else self.location.open(self._most_bytes)

    def check(self) -> None:
        """Refuse what isn't there as a file, or is too large; nothing is read."""
        self.location.check(self._most_bytes)

    @property
    def kind(self) -> RecordKind:
        """``image`` or ``volume``, as its first bytes tell; of an unknown kind of file what its name tells."""
        return self._file_kind.holds

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256: of the bytes of its file; of a frame, of that and its number.

        Of DICOM it is a keyed hash of the pixels, empty where the settings have no key.
        """
        with self._reasons(), self.open() as file:
            kind = self._kind_in(file)
            if kind.digest is not None:
                with self.held():
                    stream, room = unpacked(file, self.limits)
                    return kind.digest(stream, self._options(room))
            whole = sha256(self._data) if self._data is not None else _streamed_sha256(file)
        return whole if self.frame is None else sha256(f"{whole}#{self.frame}".encode())

    @property
    def has_source(self) -> bool:
        """Whether only a source of its own makes records of such files, see `FileKind`."""
        return self._file_kind.has_source

    @property
    def image(self) -> Image.Image:
        """The decoded 8-bit RGB image."""
        content = self.content()
        if not isinstance(content, Image.Image):
            raise ImageError("is a volume, not an image")
        return content

    @property
    def volume(self) -> Volume:
        """The volume as it was measured."""
        content = self.content()
        if not isinstance(content, Volume):
            raise ImageError("is an image, not a volume")
        return content

    @property
    def size(self) -> tuple[int, ...]:
        """Width and height of an image; of a volume width and height of its axial slices, and how many these are."""
        content = self.content()
        return content.size if isinstance(content, Image.Image) else content.values.shape

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done in decoding that people may want to know, of `cbmir.media.NOTES`."""
        self.content()
        assert self._decoded is not None
        return self._decoded.notes

    def content(self, only: RecordKind | None = None, taker: str = "the encoder") -> Content:
        """What is in it: an 8-bit RGB image, or a volume.

        Args:
            only: Refuse another kind, before it is decoded.
            taker: What takes only this kind, for messages.
        """
        if self._decoded is None:
            with self._reasons(), self.open() as file, self.held():
                kind = self._kind_in(file)
                _check_kind(kind, only, taker)
                self._decoded = self._decode(kind, file)
        else:
            _check_kind(self._file_kind, only, taker)
        return self._decoded.content

    def check_kind(self, only: RecordKind, taker: str = "the encoder") -> None:
        """Refuse another kind; no more than the first bytes are read."""
        _check_kind(self._file_kind, only, taker)

    def render(self, window_hu: tuple[float, float] | None = None) -> Image.Image:
        """An 8-bit image for people: an image as it was decoded, or the middle axial slice of a volume.

        Args:
            window_hu: Of a volume, black to white; None for the range of the slice.
        """
        content, show = self.content(), self._file_kind.show
        with self._reasons(), self.held():
            if show is not None:
                return show(content, window_hu)
            return content if isinstance(content, Image.Image) else slice_thumbnail(content, window_hu)

    def thumbnail(self, window_hu: tuple[float, float] | None = None) -> Image.Image:
        """The same, scaled down as `cbmir.media.thumbnail` does it."""
        return thumbnail(self.render(window_hu))

    def changed_since(self, decoder: int) -> bool:
        """Whether an earlier decoder, by its version `DECODER`, gave other pixels; none is decoded to tell."""
        if decoder >= DECODER:
            return False
        with self._reasons(), self.open() as file, self.held():
            kind = self._kind_in(file)
            return kind.changed_since(unpacked(file, self.limits)[0], decoder)

    def held(self) -> AbstractContextManager[None]:
        """A context that takes no more time and memory than one decode may."""
        return self.limits.held(kills=self._kills)

    @property
    def _file_kind(self) -> FileKind:
        if self._kind is None:
            with self._reasons(), self.open() as file:
                self._kind_in(file)
        assert self._kind is not None
        return self._kind

    def _kind_in(self, file: IO[bytes]) -> FileKind:
        """The kind of the open file, which is at its start before and after."""
        if self._kind is None:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            usual = "image"
            if head.startswith(_GZIP):
                head, usual = _unpacked(file), "volume"
            known = recognised(head) or named(self.location.name)
            self._kind = known or next(kind for kind in file_kinds() if kind.holds == usual)
        return self._kind

    def _decode(self, kind: FileKind, file: IO[bytes]) -> Decoded:
        if kind.most_bytes < self._most_bytes:
            self.location.check(kind.most_bytes)
        stream, room = unpacked(file, self.limits)
        decoded = kind.decode(stream, self._options(room))
        if self.frame is not None and not kind.frames:
            raise ImageError(f"has no frame {self.frame}: {kind.name} files are one image or volume each")
        content = decoded.content
        if not (isinstance(content, Volume) if kind.holds == "volume" else getattr(content, "mode", "") == "RGB"):
            raise ImageError(f"can't be decoded: of {kind.name} came a {type(content).__name__} of another kind")
        expected = named(self.location.name)
        if expected is None or expected.holds == kind.holds:
            return decoded
        return Decoded(content, (*decoded.notes, "misnamed"))

    @property
    def _most_bytes(self) -> int:
        return (named(self.location.name) or raster.KIND).most_bytes

    @cached_property
    def _data(self) -> bytes | None:
        """All bytes; None for what is read in passes, because its name says that it may be large."""
        kind = named(self.location.name)
        return None if kind is not None and kind.streamed else self.location.read(self._most_bytes)

    def _options(self, room: int) -> DecodeOptions:
        return DecodeOptions(self.limits, self.location.name, self.frame, room, self.settings, self._kept)

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """Whatever goes wrong with the bytes as an `ImageError` of one line."""
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except OSError as error:
            raise ImageError(error.strerror or str(error) or type(error).__name__) from error
        except Exception as error:  # kinds of files may raise whatever they like on damaged data
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise ImageError(f"can't be decoded: {said}") from error


HoldsPixels = Asset | Path | str | bytes | Image.Image | NDArray[Any]
"""What `Asset.of` takes."""


def _restored(location: Location, limits: Limits | None, frame: int | None, settings: Any) -> Asset:
    return Asset(location, limits, frame=frame, settings=settings)


def _streamed_sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it asks for less


def _check_kind(kind: FileKind, only: RecordKind | None, taker: str) -> None:
    if only is not None and kind.holds != only:
        from cbmir.encoders.registry import not_taken  # imports this module

        raise ImageError(not_taken(kind.holds, taker))


def _unpacked(file: IO[bytes]) -> bytes:
    """The first bytes of a file, which is at its start before and after, without the gzip around them."""
    head = b""
    with suppress(OSError, EOFError, zlib.error):  # damaged: that is said when it is decoded
        head = gzip.GzipFile(fileobj=file).read(HEAD_BYTES)
    file.seek(0)
    return head


def _image_of(array: NDArray[Any]) -> Image.Image:
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    try:
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        raise ImageError(
            f"is an array of shape {array.shape} and type {array.dtype}: give (height, width) of 8 or 16 bits or of "
            "floats, or (height, width, 3) of 8 bits"
        ) from error
