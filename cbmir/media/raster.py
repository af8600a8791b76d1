"""From the bytes of an image file to 8-bit RGB: one decoder for ingest and for queries."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from cbmir.errors import ImageError
from cbmir.media.window import stretched

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")  # Pillow would run Ghostscript on EPS
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded; a mammogram has about 25 million."""


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


def _check(picture: Image.Image) -> None:
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise ImageError(f"is too large: {picture.width} x {picture.height} pixels, {MAX_PIXELS:,} at most")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"holds {frames} frames; save each as an image of its own")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(stretched(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return picture.convert("RGB")
