"""A DICOM file in which every attribute that may identify somebody holds a value that is nowhere else."""

import base64
import hashlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from dicoms import made
from pydicom.dataset import Dataset

from cbmir.ingest.privacy.profile import profile

NAMES = ("Mueller-Luedenscheidt^Ottilie", "Yamada^Tarou=山田^太郎", "Hong^Gildong=洪^吉洞=홍^길동", "Люксембург^Роза")
_STORED = ("PatientSex", "PatientAge")
"""Attributes of the profile of which a plain value is stored."""


def planted(path: Path, pixels: np.ndarray, number: int = 0) -> list[str]:
    """Write the file, and return all values in it that nobody may find afterwards.

    Args:
        path: Of the file; its name is one of those values, if it is unique.
        pixels: Of the image.
        number: Makes the values those of another file.
    """
    made(path, pixels, StudyDate="20190115", PatientSex="F", PatientAge="044Y")
    dataset = pydicom.dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    values: list[str] = []
    for place, row in enumerate(profile()):
        if row.keyword in (*_STORED, "StudyDate", "PixelData") or row.keyword.startswith("NumberOf"):
            continue
        tag = int(row.tag.replace("x", "0"), 16)
        if tag >> 16 in (0x0000, 0x0002):  # parts of messages, and the meta header
            continue
        _plant(dataset, tag, row.vr or "LO", 1000 * number + place, values)
    inside = dataset.private_block(0x0099, _value("LO", 1000 * number + 950), create=True)
    values.append(inside.private_creator)
    for offset, vr in enumerate(("LO", "PN", "UT", "UI", "DA")):
        value = _value(vr, 1000 * number + 951 + offset)
        inside.add_new(offset, vr, value)
        values.append(value)
    nested = Dataset()
    nested.PatientName = _value("PN", 1000 * number + 960)
    nested.add_new(0x00990010, "LO", _value("LO", 1000 * number + 961))
    values += [str(nested.PatientName), nested[0x00990010].value]
    inside.add_new(0x20, "SQ", [nested])
    dataset.save_as(path, enforce_file_format=True)
    return [value for value in values if value]


def traces(value: str) -> Iterator[bytes]:
    """How a value may be found in bytes: as it is, and in the usual encodings and hashes."""
    for text in dict.fromkeys((value, value.lower(), *_parts(value))):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1"):
            try:
                raw = text.encode(encoding)
            except UnicodeEncodeError:
                continue
            yield raw
            for shift in range(3):  # base64 of a text that is part of a longer one
                yield base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
        yield urllib.parse.quote(text).encode()
        yield text.encode("unicode_escape")
        for name in ("md5", "sha1", "sha256"):
            digest = hashlib.new(name, text.encode())
            yield digest.hexdigest().encode()
            yield digest.digest()


def _parts(value: str) -> list[str]:
    """Of a name its parts; of a date as ISO writes it."""
    if value.isdigit() and len(value) == 8:
        return [f"{value[:4]}-{value[4:6]}-{value[6:]}"]
    return [part for part in value.replace("=", "^").split("^") if len(part) > 6] if "^" in value else []


def _plant(dataset: Dataset, tag: int, vr: str, number: int, values: list[str]) -> None:
    if vr == "SQ":
        inner = Dataset()
        name, text = _value("PN", number), _value("LO", number)
        inner.PatientName = name
        inner.add_new(0x00081040, "LO", text)
        dataset.add_new(tag, "SQ", [inner])
        values += [name, text]
        return
    value = _value(vr, number)
    if not value:
        return
    dataset.add_new(tag, vr, value.encode() if vr in ("OB", "OW", "UN") else value)
    values.append(value)


def _value(vr: str, number: int) -> str:
    """A value that is valid for a representation and long enough to be found by chance nowhere; empty for numbers."""
    if vr == "PN":
        first, caret, last = NAMES[number % len(NAMES)].partition("^")
        return f"{first}{number:05d}{caret}{last}"
    if vr in ("DA", "DT"):
        day = np.datetime64("1901-01-01") + number % 4000
        return str(day).replace("-", "") + ("112233.123456" if vr == "DT" else "")
    if vr == "TM":
        return f"{number % 24:02d}{number % 60:02d}59.{765432 - number:06d}"
    if vr == "UI":
        return f"1.2.826.0.1.3680043.{9_000_000 + number}"
    if vr in ("IS", "DS"):
        return str(1_900_000_000 + 7919 * number)
    if vr == "AS":
        return ""
    if vr == "CS":
        return f"PLANTED_{number:05d}"
    if vr == "AE":
        return f"PLANTAE{number:05d}"
    if vr in ("LO", "SH", "ST", "LT", "UT", "UC", "UR", "OB", "OW", "UN"):
        return f"Geheimwort{number:05d}"
    return ""
