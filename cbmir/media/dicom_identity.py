"""Who and what a DICOM file is of, as keyed hashes: patient, study, series, instance. No raw identifier leaves here."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbmir.keyfile import Key
from cbmir.media.dicom_header import text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DUMMIES = frozenset(
    (
        *("anonymous", "anonym", "anonymized", "anonymised", "anon", "unknown", "unk", "none", "na", "nil", "null"),
        *("test", "dummy", "patient", "noid", "noname", "undefined", "default", "unbekannt", "inconnu", "deidentified"),
        *("removed", "xxx", "id", "patientid", "notavailable", "missing", "temp", "emergency", "notfall"),
    )
)
"""Patient ids, without what is no letter or digit and in lower case, that name nobody."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Keyed hashes, 32 hexadecimal digits each; None where the file says none.

    Attributes:
        instance: Of the SOP Instance UID.
        patient: Of issuer and patient id; None for an id that names nobody, too.
        study: Of the Study Instance UID.
        series: Of the Series Instance UID.
        is_dummy: Whether there is a patient id, and it names nobody.
    """

    instance: str | None
    patient: str | None
    study: str | None
    series: str | None
    is_dummy: bool = False


def identity_of(dataset: "Dataset", key: Key, aliases: Mapping[str, str] | None = None) -> Identity:
    """The identity in a header.

    Args:
        dataset: Header of the file.
        key: Of the hashes.
        aliases: Patient ids that were merged, and the id that each is now.
    """
    id = _plain(text(dataset, "PatientID"))
    id = (aliases or {}).get(id, id)
    is_dummy = is_dummy_id(id)
    issuer = _plain(text(dataset, "IssuerOfPatientID"))
    uids = {name: _plain(text(dataset, f"{name}InstanceUID")) for name in ("SOP", "Study", "Series")}
    return Identity(
        instance_hash(uids["SOP"], key) if uids["SOP"] else None,
        None if is_dummy else patient_hash(issuer, id, key),
        key.hashed("study", uids["Study"]) if uids["Study"] else None,
        key.hashed("series", uids["Series"]) if uids["Series"] else None,
        is_dummy,
    )


def instance_hash(uid: str, key: Key) -> str:
    """Of a SOP Instance UID."""
    return key.hashed("instance", uid)


def patient_hash(issuer: str, id: str, key: Key) -> str:
    """Of a patient id and who issued it, which may be empty."""
    return key.hashed("patient", f"{_plain(issuer)}\0{_plain(id)}")


def is_dummy_id(id: str) -> bool:
    """Whether a patient id names nobody: it is blank, a usual word for nobody, or one character again and again."""
    plain = "".join(letter for letter in id.casefold() if letter.isalnum())
    return (len(set(plain)) < 2 and len(plain) != 1) or plain == "0" or plain in DUMMIES


def _plain(written: str) -> str:
    return unicodedata.normalize("NFC", " ".join(written.split()))
