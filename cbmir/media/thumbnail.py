"""The small picture of an image or of a volume."""

import numpy as np
from PIL import Image

from cbmir.media.volume import Volume

LONGEST_PX = 256
"""Longest side of a thumbnail; smaller pictures are not enlarged."""

_ABOVE = 2.0  # large pictures are averaged to about twice the size first: faster, and no difference to see


def thumbnail(picture: Image.Image, shape: tuple[float, float] | None = None) -> Image.Image:
    """A picture scaled down to `LONGEST_PX`, grey where it has no colour, and without the metadata of its file.

    Args:
        picture: 8-bit RGB or grey, as `cbmir.media.decode` gives it.
        shape: Width and height in some unit, where pixels are not square.
    """
    width, height = shape or picture.size
    scale = min(1.0, LONGEST_PX / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = (max(1, int(old / new / _ABOVE)) for old, new in zip(picture.size, size, strict=True))
    reduced = _without_colour(picture.reduce((across, down)))
    small = reduced.resize(size, Image.Resampling.BICUBIC)
    small.info = {}  # Pillow would write a comment that the source had
    return small


def slice_thumbnail(volume: Volume, window_hu: tuple[float, float] | None = None) -> Image.Image:
    """The middle axial slice as it is looked at: the patient's right on the left, the front on top.

    Args:
        volume: As it was read.
        window_hu: What becomes black and white; None for the lowest and highest value of the slice.
    """
    values = volume.values[:, :, volume.values.shape[2] // 2]
    low, high = window_hu or (float(values.min()), float(values.max()))
    grey = np.clip((values - low) / ((high - low) or 1.0), 0, 1) * 255
    picture = Image.fromarray(np.ascontiguousarray(grey.round().astype(np.uint8)[::-1, ::-1].T))
    x_mm, y_mm, _ = volume.spacing_mm
    least_mm = min(x_mm, y_mm)
    return thumbnail(picture, (picture.width * x_mm / least_mm, picture.height * y_mm / least_mm))


def _without_colour(picture: Image.Image) -> Image.Image:
    """In one channel where all are the same."""
    first, *others = picture.split()
    return first if all(first.tobytes() == other.tobytes() for other in others) else picture
