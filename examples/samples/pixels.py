"""Grey values to 8-bit pictures."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.samples.source import Window

Picture = NDArray[np.uint8]

MAX_SIDE_PX = 768
"""Encoders take 224 to 512 px; a full-size radiograph would be most of the set's bytes."""

_DARK = 16


def apply_window(values: NDArray[np.float32], window: Window) -> Picture:
    """Map low..high linearly onto 0..255 and clip.

    Args:
        values: Any shape; for CT in Hounsfield units.
        window: Black and white point.

    Returns:
        The same shape, rounded half up.
    """
    scaled = (values.astype(np.float64) - window.low) * 255.0 / (window.high - window.low)
    return np.floor(np.clip(scaled, 0.0, 255.0) + 0.5).astype(np.uint8)


def robust_window(values: NDArray[np.float32]) -> Window:
    """The 1st to 99.5th percentile of the finite values: MR has no absolute scale and bright outliers.

    Args:
        values: A whole volume, so that its slices share one scale.

    Returns:
        The window; one unit wide where all values are equal.
    """
    low, high = np.percentile(values[np.isfinite(values)], [1.0, 99.5])
    return Window(float(low), float(max(high, low + 1.0 if high == low else high)))


def to_isotropic(picture: Picture, row_mm: float, column_mm: float) -> Picture:
    """Resample so that pixels are square, at the finer of the two spacings.

    Args:
        picture: (rows, columns).
        row_mm: Distance between rows.
        column_mm: Distance between columns.

    Returns:
        (rows * row_mm / finer, columns * column_mm / finer), each rounded.
    """
    finer = min(row_mm, column_mm)
    rows, columns = picture.shape
    size = (round(columns * column_mm / finer), round(rows * row_mm / finer))
    if size == (columns, rows):
        return picture
    # After windowing, not before: Pillow resamples 8-bit pictures in whole numbers, alike on every machine.
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def limit_size(picture: Picture, side_px: int = MAX_SIDE_PX) -> Picture:
    """Shrink a picture, keeping its shape, until no side is longer than `side_px`."""
    rows, columns = picture.shape[:2]
    longest = max(rows, columns)
    if longest <= side_px:
        return picture
    size = (round(columns * side_px / longest), round(rows * side_px / longest))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def foreground_share(picture: Picture) -> float:
    """Share, 0 to 1, of pixels that are not black or nearly so.

    Args:
        picture: (rows, columns) or (rows, columns, 3); a coloured pixel counts by its brightest channel.
    """
    grey = picture.max(axis=2) if picture.ndim == 3 else picture
    return float(np.mean(grey > _DARK))
