"""From the bytes of an image file to the 8-bit pixels an encoder takes: one decoder for ingest and for queries."""

import hashlib
import io
import math
import stat
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cbmir.errors import ImageError
from cbmir.schema import RecordKind

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".jp2")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")  # Pillow would run Ghostscript on EPS
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded; a mammogram has about 25 million."""
MAX_BYTES = 500_000_000
"""Larger files are refused before they are read."""

Pixels = NDArray[np.uint8]
Resize = Literal["shortest", "squash", "pad", "square"]
Crop = Literal["round", "floor"]
Scaling = Literal["fixed", "minmax"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to a picture before the network, as data.

    Attributes:
        input_px: Height and width the network takes.
        resize: ``shortest`` scales the short side to `resize_px` and crops the centre; ``squash`` scales to `input_px`;
            ``pad`` scales the long side and leaves the right or the bottom empty: zero after normalisation; ``square``
            lays the picture in the middle of a black square, then scales that to `input_px`.
        resize_px: Length of the short side after scaling, or the least side of the ``square`` before; else unused.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, all with anti-aliasing but the first.
        mean: Subtracted from each channel after scaling to 0..1.
        std: Divides each channel after that.
        channels: 3 for RGB, 1 for grey.
        crop: Which way half of an odd margin goes: ``round`` as torchvision, ``floor`` as transformers.
        scaling: To 0..1 by ``fixed`` 255, or by each picture's own ``minmax``.
    """

    input_px: tuple[int, int]
    resize: Resize
    resize_px: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    crop: Crop = "round"
    scaling: Scaling = "fixed"
    kind: ClassVar[RecordKind] = "image"
    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels that `preprocess` gives: with ``pad`` one channel more."""
        return (*self.input_px, self.channels + (self.resize == "pad"))

    def as_json(self) -> Mapping[str, Any]:
        """The form that goes into an encoder's fingerprint; a later field is in it only where it isn't the default."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        later = {"crop": "round", "scaling": "fixed"}
        return {name: value for name, value in data.items() if later.get(name) != value}


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
        raise ImageError(getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    if status.st_size == 0:
        raise ImageError("is empty")
    if status.st_size > most_bytes:
        raise ImageError(f"is too large: {status.st_size:,} bytes, {most_bytes:,} at most")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Image.Image:
    """An 8-bit RGB picture from the bytes of a file.

    Grey pictures with more than 8 bits are scaled from their smallest to their largest value; a transparent picture is
    laid on black.

    Raises:
        ImageError: the bytes are no picture, are damaged, hold several frames, or have over `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, and damaged tags don't matter
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check(picture)
                if picture.format == "PNG":
                    picture.verify()  # the checksums, which `load` passes over; it leaves the picture unusable
                    return _to_rgb(Image.open(io.BytesIO(data), formats=_FORMATS))
                picture.load()
                return _to_rgb(picture)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("is not in a picture format known here") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"is too large: {error}") from error
    except MemoryError as error:
        raise ImageError("is too large for the memory of this machine") from error
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise ImageError(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def preprocess(picture: Image.Image, how: Preprocessing) -> Pixels:
    """Resize and crop a picture the way an encoder wants it.

    Equal, pixel for pixel, to torchvision's Resize and CenterCrop on a PIL picture. Scaling by mean and std is left to
    the encoder, which does it on its device.

    Args:
        picture: 8-bit RGB.
        how: The encoder's preprocessing.

    Returns:
        Pixels of `how.shape`; with ``pad`` the last channel is 255 where the picture is and 0 beside it.

    Raises:
        ImageError: scaled by its short side, the picture would have over `MAX_PIXELS` pixels.
    """
    height, width = how.input_px
    resample = _RESAMPLING[how.interpolation]
    if how.channels == 1:
        picture = picture.convert("L")
    if how.resize == "pad":
        return _padded(_resized(picture, _longest(picture.size, max(how.input_px)), resample), how)
    if how.resize == "square":
        picture = _squared(picture, how.resize_px)
    if how.resize in ("squash", "square"):
        picture = _resized(picture, (width, height), resample)
    else:
        picture = _resized(picture, _shortest(picture.size, how.resize_px), resample)
        left, top = _margin(picture.width - width, how.crop), _margin(picture.height - height, how.crop)
        picture = picture.crop((left, top, left + width, top + height))  # beyond the edge: black, as both pad
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels.reshape(how.shape)


def _padded(picture: Image.Image, how: Preprocessing) -> Pixels:
    pixels = np.zeros(how.shape, np.uint8)
    pixels[: picture.height, : picture.width, :-1] = np.asarray(picture).reshape(picture.height, picture.width, -1)
    pixels[: picture.height, : picture.width, -1] = 255
    return pixels


def _squared(picture: Image.Image, least_px: int) -> Image.Image:
    side = max(*picture.size, least_px)
    if side * side > MAX_PIXELS:
        raise ImageError(f"is too large: {picture.width} x {picture.height} pixels, {side} x {side} when squared")
    square = Image.new(picture.mode, (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _resized(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"is too thin: {picture.width} x {picture.height} pixels, {size[0]} x {size[1]} when scaled")
    return picture if picture.size == size else picture.resize(size, resample)


def _margin(spare_px: int, crop: Crop) -> int:
    """Half of what is over or missing, by torchvision's two ways to halve an odd number, or by transformers' way."""
    if crop == "floor":
        return spare_px // 2
    return round(spare_px / 2.0) if spare_px >= 0 else -(-spare_px // 2)


def _shortest(size: tuple[int, int], target_px: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return target_px, int(target_px * height / width)
    return int(target_px * width / height), target_px


def _longest(size: tuple[int, int], target_px: int) -> tuple[int, int]:
    """Half pixels go up, as in Segment Anything's ResizeLongestSide."""
    scale = target_px / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _check(picture: Image.Image) -> None:
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise ImageError(f"is too large: {picture.width} x {picture.height} pixels, {MAX_PIXELS:,} at most")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"holds {frames} frames; save each as an image of its own")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _scaled(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return picture.convert("RGB")


def _scaled(values: NDArray[Any]) -> Image.Image:
    low, high = float(values.min()), float(values.max())  # NaN where any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("has pixels that are not finite")
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for row, of in zip(grey, values, strict=True):  # row by row: a whole picture in float64 is large
            row[:] = np.round((of.astype(np.float64) - low) / (high - low) * 255.0)
    return Image.fromarray(grey).convert("RGB")
