"""The Basic Application Level Confidentiality Profile of DICOM PS3.15 (Table E.1-1) as data, and what is done here.

``profile.csv`` has every attribute that the profile removes, replaces or empties, its action there (X remove, Z empty,
D dummy, U another UID, or a choice of these), and what happens here. Nothing is stored that isn't in the allow-list of
`cbmir.ingest.privacy.header`; so an attribute that the table lacks is dropped, too.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Here = Literal["kept", "shifted", "hashed", "read", "dropped"]
_FILE = Path(__file__).with_name("profile.csv")

KEPT = frozenset(
    (
        *("Modality", "ViewPosition", "ViewCodeSequence", "ImageLaterality", "FrameLaterality", "Laterality"),
        *("Manufacturer", "ManufacturerModelName", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
        *("PatientAge", "PatientSex", "Rows", "Columns"),
    )
)
"""Attributes of which a controlled term, a name of a machine or a number is stored."""

READ = frozenset(
    (
        *("BodyPartExamined", "AnatomicRegionSequence", "SeriesDescription", "StudyDescription", "ProtocolName"),
        *("PatientBirthDate", "PatientWeight", "ImageType", "ImageOrientationPatient", "ImagePositionPatient"),
        *("SliceLocation", "SOPClassUID", "NumberOfFrames", "RepresentativeFrameNumber", "PresentationIntentType"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SeriesTime"),
    )
)
"""Attributes that are read to choose a term, an age, a plane or a window; their value isn't stored."""

SHIFTED = frozenset(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"))
"""The first of these that is there is stored, moved back."""

HASHED = frozenset(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID"))
"""Identifiers that are stored as a keyed hash."""


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """An attribute of the profile.

    Attributes:
        tag: Eight hexadecimal digits; ``x`` for any.
        keyword: Of the data dictionary; empty where pydicom knows none.
        vr: Its value representation.
        action: Of the basic profile.
        here: What is done with it here.
    """

    tag: str
    keyword: str
    vr: str
    action: str
    here: Here


@cache
def profile() -> tuple[ProfileRow, ...]:
    """All rows of the table."""
    with _FILE.open(encoding="ascii", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return tuple(ProfileRow(tag, keyword, vr, action, fate(keyword)) for tag, keyword, vr, action, _ in rows)


def profile_source() -> Mapping[str, str]:
    """Where the table comes from, and what departs from the basic profile."""
    return {
        "table": "DICOM PS3.15 2026c, Table E.1-1, Basic Application Level Confidentiality Profile; tags as "
        "transcribed, with their actions, by dicom-anonymizer 2.1.0 (BSD), keywords by pydicom",
        "options": "Retain Patient Characteristics (age and sex only; 90 and above is 90), Retain Longitudinal "
        "Temporal Information with Modified Dates (whole weeks back, by patient)",
        "not done": "Clean Pixel Data: text in the pixels is not looked for",
        "so": "pseudonymised, not anonymous",
    }


def fate(keyword: str) -> Here:
    """What is done with an attribute."""
    for name, group in _GROUPS.items():
        if keyword in group:
            return name
    return "dropped"


_GROUPS: Mapping[Here, frozenset[str]] = {"hashed": HASHED, "shifted": SHIFTED, "kept": KEPT, "read": READ}
