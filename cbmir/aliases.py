"""Names under which a table's columns are found, and what each of them is as a payload field.

Ingest reads tables by them, and filters tell a user who writes one of them the name of the field.
"""

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alias:
    """The names under which a field is found.

    Attributes:
        field: What a column of this name becomes.
        names: Two columns with names of these are refused.
        otherwise: Names that count only where no column has one of `names`; the first one found counts.
    """

    field: str
    names: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


ALIASES = (
    Alias(
        "filepath",
        (
            "filepath",
            "path",
            "filename",
            "file",
            "image",
            "image path",
            "image file",
            "image name",
            "image index",
            "img",
        ),
        ("png path", "jpg path", "image id", "dicom id", "isic id", "dicom path"),
    ),
    Alias("dataset", ("dataset", "dataset name")),
    Alias("split", ("split", "subset", "partition")),
    Alias("modality", ("modality", "image modality"), ("modality dicom",)),
    Alias(
        "anatomic_region",
        ("anatomic region", "anatomical region", "region", "body part", "body part examined", "body region"),
        ("anatomy", "organ", "study part"),
    ),
    Alias(
        "labels",
        ("labels", "label", "finding labels", "findings", "finding", "diagnosis", "class", "class name"),
        ("pathology", "pathologies", "dx", "primary label"),
    ),
    Alias(
        "patient_id",
        ("patient id", "patient", "subject id", "subject", "participant id", "participant", "pid", "eid"),
        ("patient key", "patient number", "person id", "mrn"),
    ),
    Alias(
        "study_id",
        ("study id", "study", "study instance uid"),
        ("accession number", "exam id", "session id", "session"),
    ),
    Alias("series_id", ("series id", "series", "series instance uid")),
    Alias(
        "age_years", ("age years", "age", "patient age", "age in years"), ("age approx", "age at study", "anchor age")
    ),
    Alias("sex", ("sex", "gender", "patient sex", "patient gender"), ("patient sex dicom",)),
    Alias(
        "view",
        ("view", "view position", "plane", "frontal/lateral"),
        ("ap/pa", "projection", "view position dicom"),
    ),
    Alias("study_date", ("study date", "exam date", "acquisition date"), ("study date dicom", "acq time", "date")),
    Alias("thumbnail_url", ("thumbnail url",)),
)
"""Which column names are which field. Case, spaces, ``_``, ``-`` and brackets don't matter."""


def plain(name: str) -> str:
    """A column name without what doesn't matter: ``Patient ID``, ``patient-id`` and ``PatientID`` are one."""
    return re.sub(r"[\s_\-()\[\]]+", "", unicodedata.normalize("NFKC", name)).casefold()


STRONG = {plain(name): alias.field for alias in ALIASES for name in alias.names}
"""Fields by the names of which two columns are refused."""

_ALL = STRONG | {plain(name): alias.field for alias in reversed(ALIASES) for name in alias.otherwise}


def is_of_patients(name: str) -> bool:
    """Whether the name of a column speaks of patients."""
    return any(word in plain(name) for word in ("patient", "subject"))


def field_of(name: str) -> str | None:
    """The payload field that a column of this name becomes, if it is one of `ALIASES`."""
    return _ALL.get(plain(name))
