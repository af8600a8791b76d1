"""DICOM files for the tests: those that packages ship, and small ones that are made here."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def shipped() -> list[Path]:
    """All DICOM images in pydicom itself, nothing is downloaded."""
    spec = find_spec("pydicom")
    assert spec is not None
    return sorted(Path(spec.submodule_search_locations[0], "data/test_files").glob("*.dcm"))  # type: ignore[index]


def made(path: Path, pixels: np.ndarray | None = None, **values: Any) -> Path:
    """Write a small CT, or whatever the values make of it; None leaves an attribute out."""
    pixels = np.arange(64, dtype=np.int16).reshape(8, 8) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = values.get("SOPClassUID") or CT_IMAGE
    meta.MediaStorageSOPInstanceUID = values.get("SOPInstanceUID") or generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    frames = pixels.shape[0] if pixels.ndim == 3 else 1
    facts: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
        "Modality": "CT",
        "PatientID": "P1",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "StudyDate": "20200115",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **({"NumberOfFrames": frames} if frames > 1 else {}),
        **values,
    }
    for name, value in facts.items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def oracle(path: Path, frame: int = 1) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3) as floats from 0 to 255, by pydicom and numpy alone: the header's window.

    Without one: from the 0.5th to the 99.5th percentile of a frame, or as stored where it has 8 bits.
    """
    dataset = header(path, frame)
    values = dataset.pixel_array
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        values = values[frame - 1]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        coloured = apply_color_lut(values, dataset)
        return coloured.astype(float) // (256 if coloured.dtype.itemsize > 1 else 1)
    if values.ndim == 3:
        return values.astype(float) // 2 ** max(int(dataset.BitsStored) - 8, 0)
    shown = _windowed(values, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    shown[_padded(values, dataset)] = 0
    return shown


def header(path: Path, frame: int = 1) -> Dataset:
    """The header of a frame, with its functional groups at the top level."""
    dataset = pydicom.dcmread(path, force=True)
    _lift(dataset, frame)
    return dataset


def _lift(dataset: Dataset, frame: int) -> None:
    """The functional groups of a frame to the top level."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = dataset.get(name) or []
        place = frame - 1 if name.startswith("Per") else 0
        for macro in groups[place] if place < len(groups) else ():
            if macro.VR == "SQ" and macro.value:
                dataset.update(macro.value[0])


def _windowed(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    measured = apply_modality_lut(values, dataset)
    if "VOILUTSequence" in dataset:
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return apply_voi_lut(measured, dataset).astype(float) / (2**bits - 1) * 255
    if "WindowWidth" in dataset:
        shown = apply_voi_lut(measured, dataset)
        low, high = _outputs(dataset)
        return np.clip((shown - low) / (high - low) * 255, 0, 255)
    if dataset.BitsStored <= 8 and "RescaleSlope" not in dataset:
        low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        return (values - float(low)) / (2**dataset.BitsStored - 1) * 255
    counted = measured[~_padded(values, dataset)]
    low, high = np.percentile(counted, (0.5, 99.5), method="inverted_cdf").astype(float)
    if high <= low:
        low, high = float(counted.min()), float(counted.max())
    return np.clip((measured - low) / ((high - low) or 1) * 255, 0, 255)


def _outputs(dataset: Dataset) -> tuple[float, float]:
    """Range of what pydicom's window gives."""
    if "ModalityLUTSequence" in dataset:
        return 0.0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    low, high = (0, 2**dataset.BitsStored - 1)
    if dataset.PixelRepresentation:
        low, high = -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    return low * slope + intercept, high * slope + intercept


def _padded(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    if "PixelPaddingValue" not in dataset:
        return np.zeros(values.shape, bool)
    first = dataset.PixelPaddingValue
    last = dataset.get("PixelPaddingRangeLimit", first)
    return (values >= min(first, last)) & (values <= max(first, last))


def images() -> Iterator[tuple[Path, int]]:
    """The shipped files that hold an image, each with its first and its last frame."""
    for path in shipped():
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            frames = int(dataset.get("NumberOfFrames") or 1)
            if "Rows" in dataset:
                yield from ((path, frame) for frame in dict.fromkeys((1, frames)))
        except Exception:
            continue
