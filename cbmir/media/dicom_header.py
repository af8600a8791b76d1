"""The header of a DICOM file and where its pixels are, without the pixels; how its values are read."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

from cbmir.errors import ImageError
from cbmir.extras import install
from cbmir.limits import Limits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_FIRST_TAGS = {0x0008: range(0x0000, 0x0019), 0x0002: range(0x0000, 0x0017)}
_VRS = frozenset(b"AE AS CS DA DT IS LO OB OW PN SH ST TM UI UL UN US".split())
_UNDEFINED = 0xFFFFFFFF
_META_BYTES = 4096
"""The transfer syntax stands within so many bytes."""


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixels of a file are.

    Attributes:
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        at: Where their value begins in the stream.
        length: Of the value; None where it is divided into items, as compressed pixels are.
        vr: Of the element; empty where the file doesn't say.
    """

    keyword: str
    at: int
    length: int | None
    vr: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """All of a file but its pixels.

    Attributes:
        dataset: What is in the header.
        syntax: UID of the transfer syntax.
        pixels: None where the file has none.
        inflated: The file after it was inflated, where its transfer syntax says that it is deflated; None otherwise.
    """

    dataset: "Dataset"
    syntax: str
    pixels: PixelPlace | None
    inflated: bytes | None = None

    def stream(self, file: IO[bytes]) -> IO[bytes]:
        """The stream that `pixels` counts in."""
        return file if self.inflated is None else BytesIO(self.inflated)


def is_dicom(head: bytes) -> bool:
    """Whether a file is DICOM by its first bytes: with the usual preamble, or beginning with an element of DICOM."""
    return head[128:132] == b"DICM" or _begins_with_element(head)


@contextmanager
def quiet() -> Iterator[None]:
    """Let pydicom say nothing of its own: its warnings quote values of the header."""
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        before = logger.disabled
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = before


def read_header(file: IO[bytes], limits: Limits) -> Header:
    """The header of a file that is at its start.

    Args:
        file: With `seek`.
        limits: Of bytes, for deflated files.

    Raises:
        ImageError: the file is damaged, or the extra ``dicom`` isn't installed. Nothing of the file is quoted.
    """
    try:
        with quiet():
            return _read(file, limits)
    except (ImageError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise ImageError(f"is DICOM, for which {error.name} is needed: {install('dicom')}") from error
    except Exception as error:  # pydicom raises whatever it likes on damaged data, and quotes it
        raise ImageError(f"has a damaged DICOM header ({type(error).__name__})") from None


def value(dataset: "Dataset", keyword: str, default: Any = None) -> Any:
    """A value of the header; the default where it is missing, empty, or can't be read."""
    try:
        found = dataset.get(keyword)
    except Exception:  # a broken value is as good as none
        return default
    return default if found is None or found == "" else found


def text(dataset: "Dataset", keyword: str) -> str:
    """A value as text without the space around it; of several the first, empty where there is none."""
    found = value(dataset, keyword, "")
    if not isinstance(found, str) and isinstance(found, Sequence):
        found = found[0] if len(found) else ""
    return str(found).replace("\0", "").strip()


def texts(dataset: "Dataset", keyword: str) -> list[str]:
    """All values as texts."""
    found = value(dataset, keyword, ())
    many = [found] if isinstance(found, str) or not isinstance(found, Sequence) else list(found)
    return [str(item).replace("\0", "").strip() for item in many]


def numbers(dataset: "Dataset", keyword: str) -> list[float]:
    """All values as finite numbers; empty where there are none or one is no number."""
    found = value(dataset, keyword, ())
    many = [found] if isinstance(found, str) or not isinstance(found, Sequence) else list(found)
    try:
        numbers = [float(item) for item in many]
    except (TypeError, ValueError):
        return []
    return numbers if all(abs(number) < float("inf") for number in numbers) else []


def number(dataset: "Dataset", keyword: str) -> float | None:
    """The first value as a finite number; None where there is none."""
    return next(iter(numbers(dataset, keyword)), None)


def items(dataset: "Dataset", keyword: str) -> "list[Dataset]":
    """The items of a sequence; empty where it is missing or damaged."""
    from pydicom.dataset import Dataset

    found = value(dataset, keyword, ())
    try:
        return [item for item in found if isinstance(item, Dataset)]
    except TypeError:
        return []


def groups_of(dataset: "Dataset", frame: int) -> "list[Dataset]":
    """Where an attribute of a frame may stand, the nearest first: its own groups, the shared ones, the file.

    Args:
        dataset: Of the file.
        frame: From 1.
    """
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    places = [own[frame - 1]] if frame <= len(own) else []
    places += items(dataset, "SharedFunctionalGroupsSequence")[:1]
    return [*(_lifted(place) for place in places), dataset]


def first_with(places: "Sequence[Dataset]", keyword: str) -> "Dataset | None":
    """The nearest place that has an attribute; None where no place has it."""
    return next((place for place in places if keyword in place), None)


def frame_count(dataset: "Dataset") -> int:
    """Frames of a file; 1 where it says none."""
    count = number(dataset, "NumberOfFrames")
    return max(1, int(count)) if count is not None else 1


def _lifted(group: "Dataset") -> "Dataset":
    """What is in the macros of a functional group, without their order."""
    from pydicom.dataset import Dataset

    found = Dataset()
    for tag in group.keys():  # noqa: SIM118  a dataset iterates over elements, and may fail at one
        try:
            element = group[tag]
        except Exception:  # noqa: S112  a broken macro is as good as none
            continue
        if element.VR == "SQ" and len(element.value) == 1:
            found.update(element.value[0])
    return found


def _begins_with_element(head: bytes) -> bool:
    """A file without the preamble: its first element is of group 0002 or 0008, in any of the encodings."""
    if len(head) < 12:
        return False
    for order in "<>":
        group, element, vr, length = struct.unpack(f"{order}HH2sH", head[:8])
        if element not in _FIRST_TAGS.get(group, ()):
            continue
        if vr in _VRS and length < 4096:
            return True
        (implicit,) = struct.unpack(f"{order}I", head[4:8])
        if order == "<" and 0 < implicit <= 128 and implicit % 2 == 0:
            return True
    return False


def _read(file: IO[bytes], limits: Limits) -> Header:
    from pydicom.filereader import read_partial

    inflated = _inflated(file, limits)
    stream: IO[bytes] = BytesIO(inflated) if inflated is not None else file
    found: list[PixelPlace] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            found.append(PixelPlace(_PIXELS[tag], stream.tell(), None if length == _UNDEFINED else length, vr or ""))
        return bool(found)

    dataset = read_partial(stream, at_pixels, force=True)  # type: ignore[arg-type]  # any file
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if inflated is not None or not syntax:
        implicit, little = dataset.original_encoding
        syntax = _IMPLICIT if implicit else _EXPLICIT if little else _BIG
    if not len(dataset):
        raise ImageError("is no DICOM file: it has no header")
    return Header(dataset, syntax, found[0] if found else None, inflated)


def _inflated(file: IO[bytes], limits: Limits) -> bytes | None:
    """A deflated file as if it had not been; None for any other."""
    start = file.tell()
    meta_like = file.read(_META_BYTES)
    file.seek(start)
    if _DEFLATED.encode() not in meta_like:
        return None
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(file, True)  # type: ignore[arg-type]  # any file
    meta = _read_file_meta_info(file)  # type: ignore[arg-type]  # any file
    end = file.tell()
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        file.seek(start)
        return None
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpack.decompress(file.read(), limits.bytes + 1)
    limits.check_bytes(len(data))
    file.seek(start)
    head = file.read(end - start)
    return head.replace(_DEFLATED.encode(), _EXPLICIT.encode().ljust(len(_DEFLATED), b"\0"), 1) + data
