"""DICOM files: each frame is an image, windowed as the collection that it goes to or is compared with."""

from typing import IO, TYPE_CHECKING

from PIL import Image

from cbmir.errors import ImageError
from cbmir.media.asset import Asset
from cbmir.media.dicom_header import Header, first_with, groups_of, is_dicom, quiet, read_header, value
from cbmir.media.dicom_identity import Identity, identity_of
from cbmir.media.dicom_pixels import Layout, frame_bytes, samples_of
from cbmir.media.dicom_render import rendered, turned
from cbmir.media.dicom_settings import DicomSettings
from cbmir.media.filekind import Decoded, DecodeOptions, FileKind, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima", ".dic", ".dcm30")
MAX_BYTES = 8_000_000_000
NAME = "DICOM"

_SEEN = (
    *("Modality", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept"),
    *("RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ImageOrientationPatient", "Units", "PatientWeight", "BodyPartExamined", "SeriesDescription"),
)
"""Attributes beside the pixels that change what is seen."""
_TABLES = (
    *("ModalityLUTSequence", "VOILUTSequence", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableData", "RadiopharmaceuticalInformationSequence", "AnatomicRegionSequence"),
)


def decode(file: IO[bytes], options: DecodeOptions) -> Decoded:
    """One frame as 8-bit RGB.

    Raises:
        ImageError: the file holds no image, several of which none is named, or one that can't be decoded.
    """
    settings = options.settings if isinstance(options.settings, DicomSettings) else DicomSettings()
    with quiet():
        header, layout, frame, data = _found(file, options)
        samples = samples_of(header, data, frame, layout, options.limits)
        places = groups_of(header.dataset, frame)
        shown = rendered(samples, header.dataset, places, settings)
        shown, is_turned = turned(shown, header.dataset, places)
    image = Image.fromarray(shown)
    image = image if shown.ndim > 2 else Image.merge("RGB", [image] * 3)  # three times as fast as to convert it
    return Decoded(image, ("turned_axial",) if is_turned else ())


def digest(file: IO[bytes], options: DecodeOptions) -> str:
    """Keyed hash of a frame: of its pixels as they are in the file, and of what the header says how they look.

    Returns:
        64 hexadecimal digits; empty without a key.

    Raises:
        ImageError: see `decode`.
    """
    settings = options.settings
    if not isinstance(settings, DicomSettings) or settings.key is None:
        return ""
    with quiet():
        header, _, frame, data = _found(file, options)
        return pixel_digest(header, groups_of(header.dataset, frame), data, settings)


def pixel_digest(header: Header, places: "Sequence[Dataset]", data: bytes, settings: DicomSettings) -> str:
    """See `digest`.

    Args:
        header: Of the file.
        places: Where attributes of the frame may stand.
        data: Its pixels as they are in the file.
        settings: With a key.
    """
    assert settings.key is not None
    looks = [header.syntax]
    for name in (*_SEEN, *_TABLES):
        place = first_with(places, name)
        looks.append(f"{name}={value(place, name) if place is not None else None}")
    return settings.key.digest("pixels", "\n".join(looks).encode("utf-8", "backslashreplace"), data)


def identity(asset: Asset) -> Identity:
    """Who and what a DICOM file is of, by the key in its settings.

    Raises:
        ImageError: the file can't be read.
    """
    settings = asset.settings
    assert isinstance(settings, DicomSettings)
    assert settings.key is not None
    with asset.open() as file, asset.held(), quiet():
        return identity_of(read_header(file, asset.limits).dataset, settings.key)


def _found(file: IO[bytes], options: DecodeOptions) -> tuple[Header, Layout, int, bytes]:
    """The header, the layout, the number and the bytes of the frame that is wanted; once a file."""
    kept = options.kept
    if "found" not in kept:
        header = read_header(file, options.limits)
        layout = Layout.of(header)
        if options.frame is None and layout.frames > 1:
            raise ImageError(f"holds {layout.frames} frames; name one, as in {options.name or 'FILE'}#1")
        frame = options.frame or 1
        kept["found"] = (header, layout, frame, frame_bytes(header, file, frame, layout))
    found: tuple[Header, Layout, int, bytes] = kept["found"]
    return found


KIND = FileKind(
    name=NAME,
    holds="image",
    suffixes=SUFFIXES,
    recognises=is_dicom,
    decode=decode,
    digest=digest,
    most_bytes=MAX_BYTES,
    streamed=True,
    frames=True,
    has_source=True,
)
register(KIND)
