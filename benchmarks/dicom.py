"""``python -m benchmarks.dicom``: a DICOM file to 8 bits, beside pydicom with numpy, on one core.

In one run, on the same files, in turns: ours is cbmir's decoder; the usual way is ``pixel_array``,
``apply_modality_lut`` and ``apply_voi_lut`` of pydicom, scaled to 8 bits, with the same decoders. SimpleITK joins where
it is installed. The files are made here: a CT slice of 512 x 512 with 16 bits, as it is and compressed in several ways.
Both ways give the same picture within one grey level.
"""

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from cbmir.device import cores
from cbmir.encoders import get
from cbmir.limits import Limits
from cbmir.media import Asset, prepare
from cbmir.media.dicom_header import groups_of, quiet, read_header
from cbmir.media.dicom_pixels import Layout, frame_bytes, samples_of
from cbmir.media.dicom_render import rendered, turned
from cbmir.media.dicom_settings import DicomSettings

_SIDE = 512
_SETTINGS = DicomSettings("dicom")
_LIMITS = Limits.read("image")
_LOWEST, _HIGHEST = -1024.0, 64511.0
"""What pydicom's window gives for black and white of 16 unsigned bits and an intercept of -1024."""
Picture = NDArray[np.uint8]


def made(folder: Path) -> dict[str, Path]:
    """The slice in each transfer syntax that can be written here."""
    import imagecodecs

    axis = np.linspace(-1.0, 1.0, _SIDE)
    x, y = np.meshgrid(axis, axis)
    body = np.where(x**2 + 1.6 * y**2 < 0.8, 1064 + 60 * np.sin(9 * x) * np.cos(7 * y), 24.0)
    noise = np.random.default_rng(0).normal(0, 12, body.shape)
    pixels = np.clip(body + noise, 0, 4095).astype(np.uint16)
    files = {"uncompressed": folder / "uncompressed.dcm", "RLE": folder / "rle.dcm"}
    _dataset(pixels).save_as(files["uncompressed"], enforce_file_format=True)
    rle = _dataset(pixels)
    rle.compress(RLELossless)
    rle.save_as(files["RLE"], enforce_file_format=True)
    encoded = {
        "JPEG lossless": ("1.2.840.10008.1.2.4.70", imagecodecs.ljpeg_encode(pixels, bitspersample=16)),
        "JPEG-LS": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(pixels)),
        "JPEG 2000": (
            "1.2.840.10008.1.2.4.90",
            imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0),
        ),
    }
    for name, (syntax, frame) in encoded.items():
        files[name] = folder / f"{syntax}.dcm"
        _compressed(pixels, syntax, bytes(frame)).save_as(files[name], enforce_file_format=True)
    return files


def ours(path: Path) -> Picture:
    """By cbmir: what `cbmir.media.dicom.decode` does, up to 8 bits in one channel."""
    with path.open("rb") as file, quiet():
        header = read_header(file, _LIMITS)
        layout = Layout.of(header)
        samples = samples_of(header, frame_bytes(header, file, 1, layout), 1, layout, _LIMITS)
        places = groups_of(header.dataset, 1)
        return turned(rendered(samples, header.dataset, places, _SETTINGS), header.dataset, places)[0]


def as_image(path: Path) -> Image.Image:
    """By cbmir as encoders take it: an image of three equal channels, within the limits of time and memory."""
    return Asset(path, frame=1, settings=_SETTINGS).image


def usual(path: Path) -> Picture:
    """By pydicom and numpy."""
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    shown: Picture = np.round((values - _LOWEST) / (_HIGHEST - _LOWEST) * 255).astype(np.uint8)
    return shown


def by_simpleitk(path: Path) -> Picture:
    """By SimpleITK, which applies slope and intercept, with the same window."""
    import SimpleITK

    image = SimpleITK.IntensityWindowing(SimpleITK.ReadImage(str(path)), -160.0, 240.0, 0.0, 255.0)
    shown: Picture = SimpleITK.GetArrayFromImage(image)[0].astype(np.uint8)
    return shown


def measure(ways: Mapping[str, Callable[[Path], Any]], path: Path, rounds: int, each: int) -> dict[str, float]:
    """Files a second of each way, medians of rounds in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            for _ in range(each):
                way(path)
            seconds[name].append((time.process_time() - started) / each)
    return {name: 1 / statistics.median(values) for name, values in seconds.items()}


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--each", default=20, show_default=True, help="Times a round.")
def main(rounds: int, each: int) -> None:
    """Print what each way does in a second of one core, as JSON."""
    warnings.simplefilter("ignore")
    encoder = get("pixels")
    ways: dict[str, Callable[[Path], Any]] = {
        "ours": ours,
        "ours as an RGB image": as_image,
        "pydicom and numpy": usual,
    }
    if find_spec("SimpleITK") is not None:
        ways["SimpleITK"] = by_simpleitk
    results: dict[str, Any] = {"cores": cores(), "pydicom": pydicom.__version__}
    with tempfile.TemporaryDirectory() as folder:
        files = made(Path(folder))
        for name, path in files.items():
            usable = {way: function for way, function in ways.items() if _works(function, path)}
            if "pydicom and numpy" in usable:
                apart = np.abs(ours(path).astype(int) - usual(path)).max()
                assert apart <= 1, f"{name}: {apart} grey levels apart"
            found = measure(usable, path, rounds, each)
            ratio = found["ours"] / found["pydicom and numpy"] if "pydicom and numpy" in found else None
            results[name] = {"images/s": {way: round(value, 1) for way, value in found.items()}}
            results[name] |= {"ours to pydicom": round(ratio, 2)} if ratio else {}

        def to_input(path: Path) -> Any:
            return prepare(Asset(path, frame=1, settings=_SETTINGS), encoder.preprocessing)

        speed = measure({"ours": to_input}, files["uncompressed"], rounds, each)
        results["to the input of an encoder (pixels)"] = {"images/s": round(speed["ours"], 1)}
    click.echo(json.dumps(results, indent=2))


def _works(way: Callable[[Path], Any], path: Path) -> bool:
    try:
        way(path)
    except Exception:  # a decoder that isn't installed
        return False
    return True


def _dataset(pixels: NDArray[np.uint16]) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "CT", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _compressed(pixels: NDArray[np.uint16], syntax: str, frame: bytes) -> Dataset:
    dataset = _dataset(pixels)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


if __name__ == "__main__":
    main()
