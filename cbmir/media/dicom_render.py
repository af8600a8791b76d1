"""One frame of a DICOM file as 8-bit RGB, by the order of the standard: decode, rescale, window, then inversion."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.media.dicom_header import first_with, number, numbers, text
from cbmir.media.dicom_pixels import Samples
from cbmir.media.dicom_settings import Box, DicomSettings
from cbmir.media.dicom_window import Choice, Linear, Rescale, Voi, choose, percentiles, rescale_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

_CLEAR = 0.8
"""Cosine from which an axis of the image runs along one of the patient."""

_ROWS = 32
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Padding:
    """Stored values that are no part of the image; they are shown black, and don't count for a window."""

    low: float
    high: float


def rendered(samples: Samples, dataset: "Dataset", places: "Sequence[Dataset]", settings: DicomSettings) -> Pixels:
    """(rows, columns) or (rows, columns, 3) of a frame, as people look at it.

    Args:
        samples: Of the frame.
        dataset: Of the file.
        places: Where attributes of the frame may stand, from `groups_of`.
        settings: Of the collection. Boxes are blackened; what is under them doesn't count for a window.

    Raises:
        ImageError: the samples are of a kind that can't be shown.
    """
    if samples.photometric == "PALETTE COLOR":
        shown = _palette(samples, dataset)
    elif samples.values.ndim == 3:
        shown = _colour(samples)
    elif samples.values.dtype.itemsize <= 2 and samples.values.dtype.kind == "u":
        shown = _grey(samples, dataset, places, settings)
    else:
        shown = _wide_grey(samples, dataset, places, settings)
    return _blackened(shown, settings.boxes)


def turned(picture: Pixels, dataset: "Dataset", places: "Sequence[Dataset]") -> tuple[Pixels, bool]:
    """An axial CT or MR in radiological convention: the patient's right on the left, the front on top.

    Returns:
        The picture, and whether it had to be turned or mirrored.
    """
    place = first_with(places, "ImageOrientationPatient")
    cosines = numbers(place, "ImageOrientationPatient") if place is not None else []
    if len(cosines) != 6 or text(dataset, "Modality").upper() not in ("CT", "MR", "PT"):
        return picture, False
    along, down = np.array(cosines[:3]), np.array(cosines[3:])
    if abs(np.cross(along, down)[2]) < _CLEAR:
        return picture, False
    is_across = abs(along[1]) > abs(along[0])
    across, below = (down, along) if is_across else (along, down)
    if min(abs(across[0]), abs(below[1])) < _CLEAR:
        return picture, False
    right = picture.swapaxes(0, 1) if is_across else picture
    shown = right[:: -1 if below[1] < 0 else 1, :: -1 if across[0] < 0 else 1]
    return np.ascontiguousarray(shown), bool(is_across or below[1] < 0 or across[0] < 0)


def _grey(samples: Samples, dataset: "Dataset", places: "Sequence[Dataset]", settings: DicomSettings) -> Pixels:
    """By a table of bit patterns: as many look-ups as pixels, and arithmetic only on the values that come."""
    width = 8 * samples.values.dtype.itemsize
    codes = _codes(samples, width)
    choice = choose(dataset, places, settings, samples.is_signed)
    rescale = rescale_of(places, samples.is_signed)
    values = rescale(codes.astype(np.float64)) * choice.factor
    padding = _padding(dataset, places, samples.is_signed)
    padded = _padded(codes, padding)
    voi = _voi(choice, samples, rescale)
    patterns = codes & ((1 << samples.stored) - 1)
    if voi is None:
        counts = _counts(samples, width, settings.boxes)[patterns]
        counts[padded] = 0
        voi = percentiles(values, counts)
    table = _eight_bits(voi(values), samples.photometric)
    table[padded] = 0
    spread = np.zeros(1 << samples.stored, np.uint8)
    spread[patterns] = table
    if samples.shift or samples.stored < width:  # the bits around those that count may be anything
        spread = np.tile(np.repeat(spread, 1 << samples.shift), 1 << (width - samples.stored - samples.shift))
    shown = np.empty(samples.values.shape, np.uint8)
    for start in range(0, len(shown), _ROWS):  # what NumPy makes of the places stays in the processor's cache
        rows = slice(start, start + _ROWS)
        np.take(spread, samples.values[rows], out=shown[rows], mode="clip")  # none is outside; otherwise it buffers
    return shown


def _codes(samples: Samples, width: int) -> NDArray[np.int64]:
    """Stored values in rising order: those from the least to the greatest that comes, if that can be told at once."""
    half = 1 << (samples.stored - 1)
    least, most = (-half, half - 1) if samples.is_signed else (0, 2 * half - 1)
    if samples.shift == 0:
        seen = samples.values.view(f"i{width // 8}") if samples.is_signed else samples.values
        low, high = int(seen.min()), int(seen.max())
        if low >= least and high <= most:
            return np.arange(low, high + 1)
    return np.arange(least, most + 1)


def _voi(choice: Choice, samples: Samples, rescale: Rescale) -> Voi | None:
    """The window that is known without the pixels; None for their percentiles."""
    if choice.voi is not None or not choice.as_stored:
        return choice.voi
    if samples.stored > 8 or rescale != Rescale():
        return None
    low = -float(1 << (samples.stored - 1)) if samples.is_signed else 0.0
    return Linear(low, low + (1 << samples.stored) - 1)


def _counts(samples: Samples, width: int, boxes: Iterable[Box]) -> NDArray[np.int64]:
    """How often each code comes, outside of the boxes."""
    seen = samples.values
    if boxes := tuple(boxes):
        hidden = _blackened(np.ones(seen.shape, np.uint8), boxes) == 0
        seen = seen[~hidden]
    found = np.bincount(seen.ravel(), minlength=1 << width)
    codes = found.reshape(-1, 1 << samples.stored, 1 << samples.shift)
    counts: NDArray[np.int64] = codes.sum(axis=(0, 2))
    return counts


def _wide_grey(samples: Samples, dataset: "Dataset", places: "Sequence[Dataset]", settings: DicomSettings) -> Pixels:
    """Floats, and whole numbers of more than 16 bits."""
    stored = samples.values
    if stored.dtype.kind == "u" and samples.is_signed:
        stored = stored.view(stored.dtype.str.replace("u", "i"))
    values = stored.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("has no pixel with a finite value")
    choice = choose(dataset, places, settings, samples.is_signed)
    padding = _padding(dataset, places, samples.is_signed)
    used = finite & ~_padded(values, padding)
    values = rescale_of(places, samples.is_signed)(np.where(finite, values, 0.0)) * choice.factor
    voi = choice.voi
    if voi is None:
        known, counts = np.unique(values[used], return_counts=True)
        voi = percentiles(known, counts)
    shown = _eight_bits(voi(values), samples.photometric)
    shown[~used] = 0
    return shown


def _eight_bits(values: NDArray[np.float64], photometric: str) -> Pixels:
    grey = np.floor(values + 0.5).astype(np.uint8)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _padding(dataset: "Dataset", places: "Sequence[Dataset]", is_signed: bool) -> _Padding | None:
    place = first_with(places, "PixelPaddingValue")
    value = number(place, "PixelPaddingValue") if place is not None else None
    if value is None:
        return None
    limit = number(dataset, "PixelPaddingRangeLimit")
    ends = [end - 65_536 if is_signed and end >= 32_768 else end for end in (value, value if limit is None else limit)]
    return _Padding(min(ends), max(ends))


def _padded(values: NDArray[Any], padding: _Padding | None) -> NDArray[np.bool_]:
    if padding is None:
        return np.zeros(values.shape, np.bool_)
    within: NDArray[np.bool_] = (values >= padding.low) & (values <= padding.high)
    return within


def _palette(samples: Samples, dataset: "Dataset") -> Pixels:
    from pydicom.pixels.processing import apply_color_lut

    try:
        mask = (1 << samples.stored) - 1
        coloured = apply_color_lut((samples.values >> samples.shift) & mask, dataset)
    except Exception as error:
        raise ImageError(f"has a palette that can't be read ({type(error).__name__})") from None
    return _narrow(coloured, 8 * coloured.dtype.itemsize)[..., :3]


def _colour(samples: Samples) -> Pixels:
    if not samples.photometric.startswith(("RGB", "YBR_RCT", "YBR_ICT")):
        raise ImageError("has colours of a kind that cbmir can't show")
    return _narrow(samples.values[..., :3], samples.stored)


def _narrow(values: NDArray[Any], bits: int) -> Pixels:
    """The upper 8 bits."""
    return np.ascontiguousarray(values >> max(bits - 8, 0)).astype(np.uint8)


def _blackened(picture: Pixels, boxes: Iterable[Box]) -> Pixels:
    for left, top, right, bottom in boxes:
        picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0
    return picture
