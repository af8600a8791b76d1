"""The stored values of one frame of a DICOM file, before anything is done to them for the eye."""

import math
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.limits import Limits
from cbmir.media.dicom_codecs import use_in
from cbmir.media.dicom_header import Header, frame_count, number, text, value

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_PIXELS = 100_000_000
"""Larger frames are refused before they are decoded."""

MAX_FRAMES = 100_000
"""Files that say they hold more are refused; the longest clips have some thousands."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_VIDEO = "1.2.840.10008.1.2.4.10"
_BIG = "1.2.840.10008.1.2.2"
_TYPES = {8: "u1", 16: "u2", 32: "u4"}
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels are stored.

    Attributes:
        rows: Of a frame.
        columns: Of a frame.
        samples: Of a pixel: 1, or 3 of colour.
        allocated: Bits of a sample in the file.
        stored: Of these, those that count.
        high: The highest that counts.
        is_signed: Whether samples are two's complement.
        photometric: What samples mean, such as ``MONOCHROME2`` or ``RGB``.
        frames: In the file.
    """

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    is_signed: bool
    photometric: str
    frames: int

    @classmethod
    def of(cls, header: Header) -> "Layout":
        """The layout that a header declares.

        Raises:
            ImageError: it declares none, or too much.
        """
        dataset = header.dataset
        if header.pixels is None:
            raise ImageError("holds no image: the DICOM file has no pixel data")
        rows, columns = (int(number(dataset, name) or 0) for name in ("Rows", "Columns"))
        samples = int(number(dataset, "SamplesPerPixel") or 1)
        allocated = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(
            header.pixels.keyword, int(number(dataset, "BitsAllocated") or 0)
        )
        stored = int(number(dataset, "BitsStored") or allocated)
        high = number(dataset, "HighBit")
        if rows < 1 or columns < 1 or samples not in (1, 3, 4) or allocated not in (1, 8, 16, 32, 64):
            raise ImageError("has a DICOM header that doesn't say how large its image is, or in how many bits")
        if rows * columns > MAX_PIXELS:
            raise ImageError(f"is too large: {columns} x {rows} pixels, {MAX_PIXELS:,} at most")
        stored = stored if 0 < stored <= allocated else allocated
        top = stored - 1 if high is None or not stored - 1 <= high < allocated else int(high)
        frames = frame_count(dataset)
        if frames > MAX_FRAMES:
            raise ImageError(f"says that it holds {frames:,} frames, {MAX_FRAMES:,} at most")
        photometric = text(dataset, "PhotometricInterpretation").upper() or (_GREY[1] if samples == 1 else "RGB")
        signed = number(dataset, "PixelRepresentation") == 1
        return cls(rows, columns, samples, allocated, stored, top, signed, photometric, frames)


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one frame.

    Attributes:
        values: (rows, columns) or (rows, columns, 3); of grey with up to 16 bits the bit patterns, unsigned.
        photometric: What they mean now: colours that were stored as YBR are RGB.
        stored: Bits that count.
        shift: Bits below those.
        is_signed: Whether patterns are two's complement.
    """

    values: NDArray[Any]
    photometric: str
    stored: int
    shift: int = 0
    is_signed: bool = False


def frame_bytes(header: Header, file: IO[bytes], frame: int, layout: Layout) -> bytes:
    """The bytes of a frame as they are in the file; of pixels that are packed in bits, those of all frames.

    Args:
        header: Of the file.
        file: The same, open.
        frame: From 1.
        layout: As the header declares it.

    Raises:
        ImageError: there is no such frame, or the file ends before it does.
    """
    if frame > layout.frames:
        raise ImageError(f"holds {layout.frames} frames, none with number {frame}")
    place, stream = header.pixels, header.stream(file)
    assert place is not None
    stream.seek(place.at)
    if place.length is None:
        try:
            from pydicom.encaps import get_frame

            offsets = _offsets(header.dataset)
            return get_frame(stream, frame - 1, number_of_frames=layout.frames, extended_offsets=offsets)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageError(f"has damaged pixel data ({type(error).__name__})") from None
    if layout.allocated == 1:
        return stream.read(place.length)
    size = _frame_size(layout)
    if frame * size > place.length:
        raise ImageError(f"has less pixel data than its header says: {place.length:,} bytes for {layout.frames} frames")
    stream.seek((frame - 1) * size, 1)
    data = stream.read(size + size % 2 if layout.frames == 1 else size)  # with the byte that makes the length even
    if len(data) < size:
        raise ImageError("ends within its pixel data: copy it again")
    return data


def samples_of(header: Header, data: bytes, frame: int, layout: Layout, limits: Limits) -> Samples:
    """The samples of a frame.

    Args:
        header: Of the file.
        data: From `frame_bytes`.
        frame: From 1.
        layout: As the header declares it.
        limits: Of bytes.

    Raises:
        ImageError: they can't be decoded.
    """
    limits.check_bytes(layout.rows * layout.columns * layout.samples * math.ceil(layout.allocated / 8))
    is_native = header.pixels is not None and header.pixels.length is not None
    if is_native and layout.samples == 1 and (layout.allocated in (16, 32, 64) or _is_simple(header, layout)):
        return _native(header, data, layout)
    if not is_native and header.syntax.startswith(_VIDEO) and len(header.syntax) == len(_VIDEO) + 1:
        raise ImageError("is a video (MPEG), which cbmir can't decode")
    try:
        return _decoded(header, data, frame, layout)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like, and may quote the file
        raise ImageError(f"has pixel data that can't be decoded ({type(error).__name__})") from None


def _is_simple(header: Header, layout: Layout) -> bool:
    """Grey of 8 bits; of big-endian files pydicom sorts the bytes."""
    return layout.allocated == 8 and header.syntax != _BIG


def _frame_size(layout: Layout) -> int:
    pixels = layout.rows * layout.columns
    if layout.photometric == "YBR_FULL_422" and layout.samples == 3:
        return pixels * 2 * layout.allocated // 8
    return pixels * layout.samples * layout.allocated // 8


def _offsets(dataset: "Dataset") -> tuple[bytes, bytes] | None:
    table, lengths = (value(dataset, name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    return (table, lengths) if isinstance(table, bytes) and isinstance(lengths, bytes) else None


def _native(header: Header, data: bytes, layout: Layout) -> Samples:
    assert header.pixels is not None
    order = ">" if header.syntax == _BIG else "<"
    kind = _FLOATS.get(header.pixels.keyword) or _TYPES.get(layout.allocated)
    if kind is None:
        raise ImageError(f"has pixels of {layout.allocated} bits, which cbmir can't read")
    count = layout.rows * layout.columns
    values: NDArray[Any] = np.frombuffer(data, order + kind, count).reshape(layout.rows, layout.columns)
    if values.dtype.byteorder == (">" if sys.byteorder == "little" else "<"):
        values = values.astype(values.dtype.newbyteorder("="))
    shift = layout.high + 1 - layout.stored
    return Samples(values, layout.photometric, layout.stored, shift, layout.is_signed)


def _decoded(header: Header, data: bytes, frame: int, layout: Layout) -> Samples:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(header.syntax))
    except NotImplementedError:
        raise ImageError(
            f"has pixels of the transfer syntax {_named(header.syntax)}, which cbmir can't decode"
        ) from None
    use_in(decoder, header.syntax)
    place = header.pixels
    assert place is not None
    several = layout.allocated == 1 and place.length is not None
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "number_of_frames": layout.frames if several else 1,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.is_signed),
        "planar_configuration": int(number(header.dataset, "PlanarConfiguration") or 0),
        "pixel_keyword": place.keyword,
        "pixel_vr": place.vr,
    }
    source = encapsulate([data], has_bot=False) if place.length is None else data
    values, found = decoder.as_array(source, index=frame - 1 if several else 0, **options)
    photometric = str(found["photometric_interpretation"])
    if values.ndim == 2 and values.dtype.itemsize <= 2:
        unsigned = values.view(f"u{values.dtype.itemsize}")
        return Samples(unsigned, photometric, min(layout.stored, 8 * values.dtype.itemsize), 0, layout.is_signed)
    return Samples(values, photometric, layout.stored, 0, layout.is_signed)


def _named(syntax: str) -> str:
    """The name of a transfer syntax of the standard; a private one has none, and isn't quoted."""
    from pydicom._uid_dict import UID_dictionary

    known = UID_dictionary.get(syntax)
    return known[0] if known else "of a vendor"
