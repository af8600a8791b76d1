"""From the header of a frame to what is stored of it: an allow-list of controlled terms. Nothing else leaves it."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cbmir.ingest.privacy.dates import shifted, years_between
from cbmir.ingest.tables.values import years_of
from cbmir.keyfile import Key
from cbmir.media.dicom_header import first_with, groups_of, items, number, numbers, text, texts
from cbmir.media.dicom_regions import Rules, region_of
from cbmir.modalities import MODALITIES, modality_code
from cbmir.spellings import sex_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

OLDEST = 90.0
"""Ages of 90 and more are stored as 90."""

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_VIEWS = {
    **{name: name for name in ("AP", "PA", "RL", "LLD", "LLO", "RLD", "RLO", "CC", "MLO", "ML", "LM", "XCCL", "XCCM")},
    **{"LL": "LATERAL", "LATERAL": "LATERAL", "LAT": "LATERAL", "OBLIQUE": "OBLIQUE", "LO": "LO", "FB": "FB"},
    **{"AXIAL": "AXIAL", "SAGITTAL": "SAGITTAL", "CORONAL": "CORONAL", "ODONTOID": "ODONTOID", "SUNRISE": "SUNRISE"},
}
"""Controlled terms of ViewPosition; any other is left out."""
_VIEW_CODES = {"R-10206": "AP", "R-10214": "PA", "R-10236": "LATERAL", "R-10228": "LATERAL", "R-10242": "CC"}
_VIEW_CODES |= {"R-10226": "MLO", "R-10224": "ML", "R-10228": "LM", "399348003": "AP", "399368009": "MLO"}
_VIEW_CODES |= {"272479007": "PA", "399162004": "CC", "399067008": "LATERAL", "399260004": "ML", "399352003": "LM"}
_SIDES = {"R": "right", "L": "left", "B": "both"}
_MAKERS = {
    **{"siemens": "Siemens", "philips": "Philips", "ge": "GE", "general electric": "GE", "canon": "Canon"},
    **{"toshiba": "Toshiba", "hitachi": "Hitachi", "fujifilm": "Fujifilm", "fuji": "Fujifilm", "agfa": "Agfa"},
    **{"carestream": "Carestream", "kodak": "Kodak", "hologic": "Hologic", "lorad": "Lorad", "samsung": "Samsung"},
    **{"shimadzu": "Shimadzu", "konica": "Konica Minolta", "acuson": "Acuson", "aloka": "Aloka", "esaote": "Esaote"},
    **{"mindray": "Mindray", "united imaging": "United Imaging", "uih": "United Imaging", "ziehm": "Ziehm"},
    **{"neusoft": "Neusoft", "picker": "Picker", "marconi": "Marconi", "elscint": "Elscint", "bruker": "Bruker"},
    **{"planmed": "Planmed", "planmeca": "Planmeca", "sirona": "Sirona", "swissray": "Swissray", "sectra": "Sectra"},
    **{"ims": "IMS", "eizo": "Eizo", "medison": "Samsung", "atl": "ATL", "varian": "Varian", "elekta": "Elekta"},
}
"""First words of manufacturers, and their name; of any other ``other`` is stored."""
_MODEL = re.compile(r"[A-Za-z][A-Za-z0-9 ._/+()-]{0,39}")
_DERIVED = ("MPR", "MIP", "MINIP", "ADC", "FA", "TRACE", "SUBTRACTION", "REFORMATTED", "PROJECTION", "MEAN", "CURVED")
_SLICES = ("CT", "MR", "PT", "NM")
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored of a frame.

    Attributes:
        fields: Payload fields by name, as texts.
        extra: Own columns.
        disagrees: Whether sources name different regions.
    """

    fields: Mapping[str, str]
    extra: Mapping[str, Any]
    disagrees: bool = False


def facts_of(dataset: "Dataset", frame: int, whose: str, key: Key, rules: Rules = ()) -> Facts:
    """What is stored of a frame, but for identifiers.

    Args:
        dataset: Header of its file.
        frame: From 1.
        whose: Keyed hash of the patient or study, for the shift of dates.
        key: The same.
        rules: Of the user, words for regions.
    """
    places = groups_of(dataset, frame)
    written = text(dataset, "Modality")
    modality = modality_code(written) if modality_code(written) in MODALITIES else "OT" if written else ""
    region = region_of(dataset, rules)
    age, day = _age(dataset), next(filter(None, (text(dataset, name) for name in _DATES)), "")
    fields = {
        "modality": modality,
        "anatomic_region": region.region or "",
        "view": _view(dataset),
        "sex": sex_of(text(dataset, "PatientSex")) or "",
        "age_years": "" if age is None else f"{min(age, OLDEST):g}",
        "study_date": shifted(day, whose, key) or "",
    }
    extra: dict[str, Any] = {
        "laterality": _side(dataset, places),
        "plane": _plane(places),
        "manufacturer": _maker(text(dataset, "Manufacturer")),
        "model": _model(text(dataset, "ManufacturerModelName")),
        "derived": derived(dataset),
        "slice_position_mm": _position(places),
        "spacing_mm": _spacing(places),
        "slice_thickness_mm": _rounded(_nearest(places, "SliceThickness")),
        "region_sources": dict(region.by_source) if region.disagrees else None,
    }
    known = {name: value for name, value in extra.items() if value not in (None, "", [])}
    return Facts({name: value for name, value in fields.items() if value}, known, region.disagrees)


def derived(dataset: "Dataset") -> str | None:
    """How a slice image was computed of others, such as ``mpr`` or ``adc``; None for what was measured.

    Radiographs that were processed are DERIVED too, and that is no reason.
    """
    kinds = [kind.upper() for kind in texts(dataset, "ImageType")]
    named = next((name for kind in kinds for name in _DERIVED if name in re.split(r"[\s_\\]", kind)), None)
    if named:
        return named.lower()
    is_slice = text(dataset, "Modality").upper() in _SLICES
    return "derived" if is_slice and kinds[:1] == ["DERIVED"] else None


def _age(dataset: "Dataset") -> float | None:
    with suppress(ValueError):
        if written := text(dataset, "PatientAge"):
            return years_of(written)
    return next(
        (
            years
            for name in _DATES
            if (years := years_between(text(dataset, "PatientBirthDate"), text(dataset, name))) is not None
        ),
        None,
    )


def _view(dataset: "Dataset") -> str:
    code = next((text(item, "CodeValue") for item in items(dataset, "ViewCodeSequence")), "")
    return _VIEWS.get(text(dataset, "ViewPosition").upper()) or _VIEW_CODES.get(code, "")


def _side(dataset: "Dataset", places: "Sequence[Dataset]") -> str | None:
    for name in ("ImageLaterality", "FrameLaterality", "Laterality"):
        place = first_with(places, name)
        if place is not None and (side := _SIDES.get(text(place, name).upper())):
            return side
    return None


def _plane(places: "Sequence[Dataset]") -> str | None:
    place = first_with(places, "ImageOrientationPatient")
    cosines = numbers(place, "ImageOrientationPatient") if place is not None else []
    if len(cosines) != 6:
        return None
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return _PLANES[int(normal.argmax())] if normal.max() > 0.8 else "oblique"


def _position(places: "Sequence[Dataset]") -> float | None:
    """Along the normal of the slice."""
    both = [first_with(places, name) for name in ("ImageOrientationPatient", "ImagePositionPatient")]
    if both[0] is not None and both[1] is not None:
        cosines, origin = numbers(both[0], "ImageOrientationPatient"), numbers(both[1], "ImagePositionPatient")
        if len(cosines) == 6 and len(origin) == 3:
            return _rounded(float(np.dot(np.cross(cosines[:3], cosines[3:]), origin)))
    return _rounded(_nearest(places, "SliceLocation"))


def _spacing(places: "Sequence[Dataset]") -> list[float] | None:
    """Between rows and between columns."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        place = first_with(places, name)
        found = numbers(place, name) if place is not None else []
        if len(found) == 2:
            return [round(value, 4) for value in found]
    return None


def _nearest(places: "Sequence[Dataset]", name: str) -> float | None:
    place = first_with(places, name)
    return number(place, name) if place is not None else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _maker(written: str) -> str:
    plain = written.casefold().strip()
    known = next((name for start, name in _MAKERS.items() if re.match(rf"{re.escape(start)}\b", plain)), None)
    return known or ("other" if plain else "")


def _model(written: str) -> str:
    """As it is written, if it looks like a name of a machine."""
    return written if _MODEL.fullmatch(written) else ""
