"""From the bytes of an image file to 8-bit RGB, as a viewer shows it: one decoder for ingest and for queries."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from cbmir.errors import ImageError, one_line
from cbmir.limits import Limits
from cbmir.media.filekind import DECODER, HEAD_BYTES, Decoded, DecodeOptions, FileKind, Note, register
from cbmir.media.remedies import remedy
from cbmir.media.tiff import WHITE_IS_ZERO, black_is_zero, check_directories, refusal
from cbmir.media.window import stretched

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded; a mammogram has about 25 million."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k"),
)

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")  # Pillow would run Ghostscript on EPS
_STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    *(f"P{letter}".encode() for letter in "0123456fy"),
)
"""Of the same formats, as Pillow tells them."""
_ANIMATED = ("GIF", "WEBP", "PNG", "MPO")  # frames after the first show it later, from elsewhere or smaller
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RGB_BYTES = 3
_VALUE_BYTES = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}  # of modes that have not one byte a band
_SUBFILE, _BITS, _PHOTOMETRIC, _FORMAT = 254, 258, 262, 339  # tags of TIFF
_REDUCED = 1  # bit of _SUBFILE
_UNSIGNED, _SIGNED = 1, 2  # values of _FORMAT


def decode(data: bytes) -> Image.Image:
    """An 8-bit RGB picture from the bytes of a file, see `decode_noted`."""
    image = decode_noted(data).content
    assert isinstance(image, Image.Image)
    return image


def decode_noted(data: bytes, name: str = "", limits: Limits | None = None) -> Decoded:
    """An 8-bit RGB picture from the bytes of a file, and what was done to it.

    Grey pictures with more than 8 bits are scaled from their smallest to their largest value; colour with 16 bits
    keeps its upper 8; a transparent picture is laid on black. Of an animation, and of the several pictures in one JPEG
    (MPO), the first is taken.

    Args:
        data: The whole file.
        name: Of the file, for messages.
        limits: Of bytes; those of the environment unless given.

    Raises:
        ImageError: the bytes are no picture, are damaged, hold several pages, have over `MAX_PIXELS` pixels, or unpack
            to more bytes than the limit.
    """
    limits = limits or Limits.read("image")
    with _reasons(data, name), _opened(data) as (picture, inverted):
        is_animated = _check(picture, limits)
        if picture.format == "PNG":
            picture.verify()  # the checksums, which `load` passes over; it leaves the picture unusable
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        is_tiff = picture.format == "TIFF"
        white = is_tiff and (inverted or picture.tag_v2.get(_PHOTOMETRIC) == WHITE_IS_ZERO)
        orientation = _orientation(picture)
        values = _values(picture)
        if not is_tiff:  # Pillow turns TIFF itself, and drops the tag
            orientation = _orientation(picture)  # of a PNG it may stand behind the pixels
        image = _to_rgb(picture, values, inverted)
        if not is_tiff and orientation != 1:
            image = image.transpose(_TURNS[orientation])
    notes: dict[Note, bool] = {
        "exif_orientation": orientation != 1,
        "white_is_zero": white,
        "first_frame": is_animated,
    }
    return Decoded(image, tuple(name for name, so in notes.items() if so))


def changed_since(data: bytes, version: int) -> bool:
    """Whether an image that an earlier `DECODER` could read has other pixels now; its pixels are not decoded.

    Raises:
        ImageError: it can't be opened.
    """
    if version >= DECODER:
        return False
    with _reasons(data), _opened(data) as (picture, inverted):
        if picture.format == "PNG" and b"eXIf" in data:
            picture.load()  # it may stand behind the pixels
        turned = picture.format != "TIFF" and _orientation(picture) != 1
        return turned or inverted or _reinterpreted(picture) is not None or _is_grey_with_clear(picture)


@contextmanager
def _reasons(data: bytes, name: str = "") -> Iterator[None]:
    """Whatever goes wrong as an `ImageError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, and damaged tags don't matter
            yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_unknown(data, name)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"is too large: {error}") from error
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise ImageError(f"can't be decoded: {one_line(error)}") from error


def _unknown(data: bytes, name: str) -> str:
    if text := remedy(name, data[:HEAD_BYTES]):
        return text
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return refusal(data)
    return "is not in a picture format known here"


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, bool]]:
    """The picture, and whether its grey values are still to be inverted."""
    check_directories(data)
    marked = black_is_zero(data)
    with Image.open(io.BytesIO(marked or data), formats=_FORMATS) as picture:
        yield picture, marked is not None


def _check(picture: Any, limits: Limits) -> bool:
    """Whether there are several frames.

    Raises:
        ImageError: the picture is too large, or has pages of which none is the only one.
    """
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise ImageError(f"is too large: {picture.width} x {picture.height} pixels, {MAX_PIXELS:,} at most")
    limits.check_bytes(pixels * max(_RGB_BYTES, len(picture.getbands()) * _VALUE_BYTES.get(picture.mode, 1)))
    if picture.format in _ANIMATED:
        return bool(getattr(picture, "is_animated", False))  # to count the frames would read all of them
    frames: int = getattr(picture, "n_frames", 1)
    for page in range(1, frames):
        picture.seek(page)
        if not picture.tag_v2.get(_SUBFILE, 0) & _REDUCED:
            raise ImageError(f"holds {frames} frames; save each as an image of its own")
    picture.seek(0)
    return False  # the others are smaller copies of it


def _orientation(picture: Any) -> int:
    """1 to 8 as EXIF counts them; 1 where it says none or nonsense, as viewers take it."""
    if picture.format == "TIFF":
        orientation = picture.tag_v2.get(ExifTags.Base.Orientation, 1)
    else:
        exif = Image.Exif()
        try:
            data = picture.info.get("exif") or b""
            check_directories(data.removeprefix(b"Exif\0\0"))
            exif.load(data)
            orientation = exif.get(ExifTags.Base.Orientation, 1)
        except Exception:  # damaged: viewers show the picture as it is
            return 1
    return orientation if orientation in _TURNS else 1


def _values(picture: Any) -> NDArray[Any] | None:
    """(rows, columns) grey values that are not simply 8 bits; None for all other pictures, which are loaded only."""
    other = _reinterpreted(picture)
    picture.load()
    if other is not None:
        return np.asarray(picture).view(other)
    return np.asarray(picture) if picture.mode.startswith("I") or picture.mode == "F" else None


def _reinterpreted(picture: Any) -> np.dtype[Any] | None:
    """The type of grey TIFF values that Pillow takes for another of the same size."""
    if picture.format != "TIFF":
        return None
    form = picture.tag_v2.get(_FORMAT, (_UNSIGNED,))
    if picture.mode == "L" and form == (_SIGNED,):
        return np.dtype(np.int8)
    if picture.mode == "I" and form == (_UNSIGNED,) and picture.tag_v2.get(_BITS) == (32,):
        return np.dtype(np.uint32)
    return None


def _is_grey_with_clear(picture: Any) -> bool:
    return picture.mode.startswith("I") and "transparency" in picture.info


def _to_rgb(picture: Any, values: NDArray[Any] | None, inverted: bool) -> Image.Image:
    if values is not None:
        grey = stretched(values, inverted)
        if _is_grey_with_clear(picture):
            grey[values == picture.info["transparency"]] = 0
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        clear = picture.info.get("transparency")
        if isinstance(clear, tuple) and max(clear) > 255:
            raise ImageError("has a transparent colour of 16 bits a channel: save it with 8 bits a channel")
        layer = picture.convert("RGBA")
        if inverted:
            *colours, alpha = layer.split()
            layer = Image.merge("RGBA", (*map(ImageChops.invert, colours), alpha))
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    rgb: Image.Image = picture.convert("RGB")
    return ImageChops.invert(rgb) if inverted else rgb


def _is_raster(head: bytes) -> bool:
    return head.startswith(_STARTS) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def _decoded(file: IO[bytes], options: DecodeOptions) -> Decoded:
    return decode_noted(file.read(), options.name, options.limits)


def _changed_since(file: IO[bytes], decoder: int) -> bool:
    return changed_since(file.read(), decoder)


KIND = FileKind(
    name="picture",
    holds="image",
    suffixes=SUFFIXES,
    recognises=_is_raster,
    decode=_decoded,
    changed_since=_changed_since,
)
register(KIND)
