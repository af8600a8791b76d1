"""Cosine and place of an image as one integer, so that sorting integers gives the defined order."""

import numpy as np
from numpy.typing import NDArray

_BITS = 30
_LOW = (1 << 32) - 1
MISSING = np.iinfo(np.int64).min
"""Key of no image."""

Keys = NDArray[np.int64]
Places = NDArray[np.int64]


def keys_of(cosines: NDArray[np.floating], places: Places) -> Keys:
    """One integer an image that sorts by cosine, then by falling place, so that the largest keys are the answer.

    The upper half is the cosine in units of 2**-30, the lower half counts places downwards.
    """
    keys: Keys = np.rint(cosines * np.float64(1 << _BITS)).astype(np.int64)
    keys <<= 32
    keys += _LOW - places
    return keys


def cosines_of(keys: Keys) -> NDArray[np.float64]:
    """The cosines in keys, NaN for `MISSING`."""
    cosines: NDArray[np.float64] = np.where(keys == MISSING, np.nan, (keys >> 32) / float(1 << _BITS))
    return cosines


def places_of(keys: Keys) -> Places:
    """The places in keys, -1 for `MISSING`."""
    places: Places = np.where(keys == MISSING, -1, _LOW - (keys & _LOW))
    return places


def close(table: Keys, unsure: float) -> tuple[Places, Places]:
    """Rows and places in the sorted table of keys that lie so near to another that their order isn't sure."""
    cosines = cosines_of(table)
    gap = cosines[:, :-1] - cosines[:, 1:] <= unsure
    close = np.zeros(table.shape, np.bool_)
    close[:, 1:] |= gap
    close[:, :-1] |= gap
    return np.nonzero(close)  # type: ignore[return-value]
