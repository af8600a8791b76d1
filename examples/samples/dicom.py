"""DICOM images and loops to 8-bit pictures."""

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from examples.samples.errors import SourceError
from examples.samples.pixels import Picture, apply_window, robust_window
from examples.samples.source import Source, Window
from examples.samples.volumes import evenly_spaced


class UndecodableError(Exception):
    """The pixel data need a decoder that is not installed, or are damaged; the image is skipped and counted."""


def read_frames(source: Source, path: Path) -> list[tuple[int, Picture]]:
    """The frames that a source asks for, cropped.

    Args:
        source: Says how many frames, the crop, and a window in place of the file's own.
        path: The file.

    Returns:
        (index, picture) pairs; pictures are (rows, columns) or, for colour, (rows, columns, 3).

    Raises:
        SourceError: The file is missing or no DICOM image.
        UndecodableError: No installed decoder can read the pixels.
    """
    try:
        dataset = pydicom.dcmread(path)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise SourceError(f"{source.slug}: cannot read {source.path} of {source.package.name}: {error}") from error
    try:
        pixels = dataset.pixel_array
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UndecodableError(str(error)) from error
    stack = pixels if int(dataset.get("NumberOfFrames", 1)) > 1 else pixels[np.newaxis]
    wanted = evenly_spaced(0, len(stack) - 1, source.frames)
    pictures = ((index, to_picture(stack[index], dataset, source.window)) for index in wanted)
    return [(index, _crop(upright(picture, dataset), source)) for index, picture in pictures]


def to_picture(frame: NDArray[np.generic], dataset: Dataset, window: Window | None = None) -> Picture:
    """One decoded frame as it should look on a screen.

    Palette colours are looked up. Grey values pass the modality LUT (rescale), then the given window, else the file's
    VOI LUT or first window, else the 1st to 99.5th percentile; MONOCHROME1 is inverted at the end (PS3.3
    C.7.6.3.1.2).

    Args:
        frame: (rows, columns), or (rows, columns, 3) in RGB, as pydicom decodes it.
        dataset: Header of the image.
        window: Used in place of the file's own.

    Returns:
        (rows, columns) or (rows, columns, 3).
    """
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        coloured = apply_color_lut(frame, dataset)
        return _to_8_bit(coloured, bits=8 * coloured.dtype.itemsize)
    if frame.ndim == 3:
        return _to_8_bit(frame, bits=int(dataset.BitsStored))
    picture = _grey(apply_modality_lut(frame, dataset), dataset, window)
    return 255 - picture if interpretation == "MONOCHROME1" else picture


def upright(picture: Picture, dataset: Dataset) -> Picture:
    """Flip an axial picture that is stored upside down or mirrored to radiological convention.

    Decided by ImageOrientationPatient: an axial picture should run to the patient's left along a row and to the back
    down a column. Pictures of other planes, or without the attribute, come back as they are.
    """
    cosines = dataset.get("ImageOrientationPatient")
    if cosines is None or len(cosines) != 6:
        return picture
    along_row, down_column = float(cosines[0]), float(cosines[4])
    if min(abs(along_row), abs(down_column)) < 0.8:
        return picture
    return picture[:: -1 if down_column < 0 else 1, :: -1 if along_row < 0 else 1]


def header_window(dataset: Dataset) -> Window | None:
    """The file's first window as black and white points.

    By the linear function of PS3.3 C.11.2.1.2.1: centre - 0.5 -/+ (width - 1) / 2. LINEAR_EXACT has no such halves.
    SIGMOID is shown as if linear, as many viewers do.

    Returns:
        The window, or None where the file has none or one without width.
    """
    if "WindowCenter" not in dataset or "WindowWidth" not in dataset:
        return None
    centre, width = (_first(dataset[name].value) for name in ("WindowCenter", "WindowWidth"))
    if dataset.get("VOILUTFunction", "LINEAR") != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1.0
    return Window(centre - width / 2, centre + width / 2) if width > 0 else None


def _grey(values: NDArray[np.generic], dataset: Dataset, window: Window | None) -> Picture:
    if window is None and "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return _to_8_bit(apply_voi(values, dataset), bits)
    numbers = values.astype(np.float32)
    return apply_window(numbers, window or header_window(dataset) or robust_window(numbers))


def _to_8_bit(values: NDArray[np.generic], bits: int) -> Picture:
    shifted = np.right_shift(values.astype(np.int64), max(bits - 8, 0))
    return np.clip(shifted, 0, 255).astype(np.uint8)


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)  # type: ignore[arg-type]  # DS


def _crop(picture: Picture, source: Source) -> Picture:
    if source.crop is None:
        return picture
    left, top, right, bottom = source.crop
    return picture[top:bottom, left:right]
