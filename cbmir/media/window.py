"""Which measured values become black and white."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError


def windowed(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Values as 0 to 1: `low` becomes 0, `high` 1, and what lies outside is clipped."""
    shown: NDArray[np.float32] = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return shown


def stretched(values: NDArray[Any], inverted: bool = False) -> NDArray[np.uint8]:
    """(rows, columns) grey values of more than 8 bits, from the smallest as 0 to the largest as 255.

    Args:
        values: Whole numbers or floats.
        inverted: Whether the smallest becomes 255 and the largest 0 instead.

    Raises:
        ImageError: a value is not finite.
    """
    low, high = float(values.min()), float(values.max())  # NaN where any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("has pixels that are not finite")
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for row, of in zip(grey, values, strict=True):  # row by row: a whole image in float64 is large
            wide = of.astype(np.float64)
            row[:] = np.round((high - wide if inverted else wide - low) / (high - low) * 255.0)
    return grey
