"""Kinds of files that pixels can be in: each is described by one `FileKind`, which its own module registers.

The first bytes of a file decide what it is. Its name only says which files of a folder are looked at, and what is
expected before a file has been opened.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import IO, Any, Literal

from PIL import Image

from cbmir.limits import Limits
from cbmir.media.volume import Volume
from cbmir.schema import RecordKind

DECODER = 2
"""Version of the decoder, stored with each image; counted up when an image that can be read would get other pixels.

1: no EXIF orientation outside TIFF, white is zero in TIFF of up to 8 bits only. 2: as a viewer shows it.
"""

HEAD_BYTES = 540
"""First bytes that tell every kind; the header of NIfTI-2 is the longest."""

Note = Literal["exif_orientation", "white_is_zero", "first_frame", "misnamed", "turned_axial"]
NOTES: Mapping[Note, str] = {
    "exif_orientation": "images turned or mirrored as their EXIF orientation says: {:,}",
    "white_is_zero": "TIFF images inverted, whose tag says that zero is white: {:,}",
    "first_frame": "files with several frames (animations, MPO), of which the first was taken: {:,}",
    "turned_axial": "axial CT and MR images turned so that the patient's right is on the left: {:,}",
    "misnamed": "files named as a volume that hold an image, or the reverse, taken as what they hold: {:,}",
}

Content = Image.Image | Volume
"""What is in a file: an 8-bit RGB image, or a volume."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What is in a file, and what was done to it that people may want to know.

    Attributes:
        content: An 8-bit RGB image, or a volume as it was measured.
        notes: Of `NOTES`.
    """

    content: Content
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How a file is decoded.

    Attributes:
        limits: What that may take. Sizes that a file declares are checked before they are read, see
            `Limits.check_bytes`.
        name: Of the file, for messages; empty where it has none.
        frame: Which of several images in the file, from 1; None for the file as a whole.
        room: Bytes that the stream can give at most: what a header promises beyond them is not there.
        settings: Of the kind of file, such as `DicomSettings`; None for its usual ones.
        kept: What a kind keeps of this one asset between its functions, such as a header that was read.
    """

    limits: Limits
    name: str = ""
    frame: int | None = None
    room: int = 0
    settings: Any = None
    kept: dict[str, Any] = field(default_factory=dict)


def _unchanged(_file: IO[bytes], _decoder: int) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """A kind of file. Its functions are at the top level of a module: worker processes find them by their names.

    Attributes:
        name: For people, such as ``NIfTI``. It is unique.
        holds: ``image`` or ``volume``.
        suffixes: Endings of names, in lower case with a dot: files of a folder that have one are looked at.
        recognises: Whether a file is of this kind, by its first `HEAD_BYTES`.
        decode: What is in a file, from a stream at its start. It raises `ImageError` with one line where the file can't
            be used. Here and elsewhere gzip around the whole file is taken off.
        show: An 8-bit image for people, of what was decoded and a window (low, high) of a volume, or None. Without it
            an image is shown as it is, and of a volume the middle axial slice.
        changed_since: Whether an earlier `DECODER` gave other pixels of a file that it could read; pixels are not
            decoded to tell.
        most_bytes: Larger files are refused before they are read.
        streamed: Whether a file is read in passes, for it may be too large to be held in memory.
        frames: Whether a file holds several images, each of which is an asset of its own.
        digest: Hash of one image in a file, hexadecimal, where it isn't that of the file's bytes.
        has_source: Whether only a source of its own makes records of such files, because a name or a path may not be
            stored. As a row of a table or a picture of a folder they are refused.
    """

    name: str
    holds: RecordKind
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    decode: Callable[[IO[bytes], DecodeOptions], Decoded]
    show: Callable[[Any, tuple[float, float] | None], Image.Image] | None = None
    changed_since: Callable[[IO[bytes], int], bool] = _unchanged
    most_bytes: int = 500_000_000
    streamed: bool = False
    frames: bool = False
    digest: Callable[[IO[bytes], DecodeOptions], str] | None = None
    has_source: bool = False


_registered: dict[str, FileKind] = {}


def register(kind: FileKind) -> None:
    """Add a kind of file, or replace the one of its name."""
    _registered[kind.name] = kind
    _forget()


def unregister(name: str) -> None:
    """Take out the kind of this name."""
    del _registered[name]
    _forget()


def _forget() -> None:
    for known in (file_kinds, suffixes, _latest):
        known.cache_clear()


@cache
def file_kinds() -> tuple[FileKind, ...]:
    """All kinds in the order in which they were registered, those of images first."""
    return tuple(sorted(_registered.values(), key=lambda kind: kind.holds == "volume"))


@cache
def _latest() -> tuple[FileKind, ...]:
    """The same, the latest first."""
    newest = list(_registered.values())[::-1]
    return tuple(sorted(newest, key=lambda kind: kind.holds == "volume"))


def recognised(head: bytes) -> FileKind | None:
    """The kind of a file by its first `HEAD_BYTES`, of several the one that was registered last.

    Images come first: their signature is where a file begins, that of NIfTI is further behind.
    """
    return next((kind for kind in _latest() if kind.recognises(head)), None)


def named(name: str) -> FileKind | None:
    """The kind that the name of a file tells of; None where its suffix is of no kind."""
    low = name.lower()
    return next((kind for kind in _latest() if low.endswith(kind.suffixes)), None)


@cache
def suffixes() -> tuple[str, ...]:
    """Endings of all kinds."""
    return tuple(suffix for kind in file_kinds() for suffix in kind.suffixes)


def is_readable(name: str) -> bool:
    """Whether a file looks like an image or a volume, by its name."""
    return name.lower().endswith(suffixes())


def expected_kind(name: str) -> RecordKind:
    """What a file should hold by its name; an image where the name says nothing."""
    kind = named(name)
    return kind.holds if kind is not None else "image"


def noted(counts: Mapping[Note, int]) -> list[str]:
    """What was done in decoding, a line for people each; none where nothing was."""
    return [text.format(counts[name]) for name, text in NOTES.items() if counts.get(name)]
