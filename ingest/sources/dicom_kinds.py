"""Which DICOM files hold no image to compare, and why; counted by reasons that a radiographer knows."""

from typing import TYPE_CHECKING

from cbmir.media.dicom_header import Header, text, texts

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LOCALIZER = "localizers (scout images)"
SCREEN = "screen captures (Secondary Capture)"
PROCESSING = "images for processing, of which one for presentation is there"
DERIVED = "derived slices (such as MPR, MIP, ADC)"
OPTIONAL = {"localizer": LOCALIZER, "screen-capture": SCREEN, "for-processing": PROCESSING}
"""What ``--include`` takes all the same."""

_PREFIX = "1.2.840.10008.5.1.4.1.1."
_CLASSES = (
    ("7", SCREEN),
    ("66", "segmentations (SEG) and registrations"),
    ("9", "waveforms (such as ECG)"),
    ("11", "presentation states (PR)"),
    ("88.59", "key object selections (KO)"),
    ("88", "structured reports (SR)"),
    ("104", "documents (PDF, CDA, STL)"),
    ("481.1", None),
    ("481", "radiotherapy doses, plans and structures (RT)"),
    ("67", "real world value mappings"),
    ("68", "surface scans"),
    ("77.1.6", None),
)
"""Beginnings of SOP classes, the first that fits; None for images."""
_DIRECTORY = "1.2.840.10008.1.3.10"
_MPEG = "1.2.840.10008.1.2.4.10"


def reason(header: Header) -> str | None:
    """What a file is passed over as; None for an image."""
    dataset = header.dataset
    uid = text(dataset, "SOPClassUID")
    if (
        _DIRECTORY in (uid, str(dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
        or "DirectoryRecordSequence" in dataset
    ):
        return "indexes of discs (DICOMDIR)"
    by_class = _by_class(uid)
    if by_class is not None and by_class != SCREEN:
        return by_class
    if header.pixels is None or "Rows" not in dataset:
        return "objects without an image"
    if header.syntax.startswith(_MPEG) and len(header.syntax) == len(_MPEG) + 1:
        return "videos (MPEG)"
    if by_class == SCREEN:
        return SCREEN
    return LOCALIZER if is_localizer(dataset) else None


def is_localizer(dataset: "Dataset") -> bool:
    """Whether ImageType says so."""
    kinds = {kind.upper() for kind in texts(dataset, "ImageType")}
    return bool(kinds & {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"})


def _by_class(uid: str) -> str | None:
    if not uid.startswith(_PREFIX):
        return None
    rest = uid.removeprefix(_PREFIX)
    return next((why for start, why in _CLASSES if rest == start or rest.startswith(f"{start}.")), None)
