"""One spelling a modality: what DICOM, hospitals and published tables write, and the code that is stored.

Ingest and filters share the table, so that ``--modality MRI`` finds what a table called ``Magnetic Resonance``.
"""

import re
from collections.abc import Mapping

MODALITIES = {
    "CT": ("CT", "CT scan", "CAT scan", "computed tomography"),
    "MR": ("MR", "MRI", "NMR", "magnetic resonance", "magnetic resonance imaging"),
    "XR": (
        *("XR", "X-ray", "CR", "DX", "DR", "RG", "CXR", "radiograph", "radiography"),
        *("computed radiography", "digital radiography", "plain film"),
    ),
    "US": ("US", "ultrasound", "USG", "sonography", "ultrasonography"),
    "MG": ("MG", "mammography", "mammogram", "MMG"),
    "NM": ("NM", "nuclear medicine", "scintigraphy"),
    "PT": ("PT", "PET", "positron emission tomography"),
    "XA": ("XA", "angiography", "X-ray angiography"),
    "RF": ("RF", "fluoroscopy"),
    "OP": ("OP", "fundus", "fundus photography"),
    "OCT": ("OCT", "optical coherence tomography"),
    "ES": ("ES", "endoscopy"),
    "SM": ("SM", "histopathology", "slide microscopy"),
    "DERM": ("DERM", "dermoscopy", "dermatoscopy"),
}
"""Stored code to spellings. Case, spaces, ``-`` and ``_`` don't matter; what is not listed is stored in upper case."""


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()


_CODES = {_plain(spelling): code for code, spellings in MODALITIES.items() for spelling in spellings}


def is_modality(text: str) -> bool:
    """Whether a text is one of the spellings in `MODALITIES`."""
    return _plain(text) in _CODES


def modality_code(text: str, more: Mapping[str, str] | None = None) -> str:
    """The stored code of a modality: ``MRI`` is ``MR``, ``X-Ray`` is ``XR``; others in upper case.

    Args:
        text: Any spelling.
        more: Further spellings and what they are, which count before those of `MODALITIES`.
    """
    own = {_plain(spelling): code for spelling, code in more.items()} if more else {}
    text = own.get(_plain(text), text)
    return _CODES.get(_plain(text), text.strip().upper())
