"""What the columns of a table mean, by their names: aliases, near misses, and what the user says."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cbmir.errors import SourceError

GIVEN_FIELDS = (
    "split",
    "modality",
    "anatomic_region",
    "patient_id",
    "study_id",
    "series_id",
    "age_years",
    "sex",
    "view",
    "study_date",
    "thumbnail_url",
)
"""Fields a source may know besides file path, data set and labels; the others are computed from the file."""

NAMED = 12
"""How many columns a message names."""

EXTRA, IGNORED, LABEL = "extra", "ignored", "label"
"""What a column may become besides a field: kept under ``extra``, not kept, or a label that holds 0 or 1."""


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

FIELDS = tuple(alias.field for alias in ALIASES)
_FROM_FILE = ("sha256", "decoder", "kind", "width", "height", "depth")
_DERIVED = ("pathology", "primary_label", "extra", *_FROM_FILE)


def plain(name: str) -> str:
    """A column name without what doesn't matter: ``Patient ID``, ``patient-id`` and ``PatientID`` are one."""
    return re.sub(r"[\s_\-()\[\]]+", "", unicodedata.normalize("NFKC", name)).casefold()


_STRONG = {plain(name): alias.field for alias in ALIASES for name in alias.names}


def assign(names: Sequence[str], said: Mapping[str, str], path: Path) -> list[str]:
    """What each column becomes, as far as names tell: a field, `LABEL` (a name with a slash), `EXTRA` or `IGNORED`.

    Args:
        names: The header.
        said: By column name, what the user says: a field, ``extra`` or ``ignored``.
        path: Of the table, for messages.

    Raises:
        SourceError: a column comes twice; two columns are one field; there is no file path; or the user names a column
            or a field that doesn't exist.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(f"table {path} has more than one column {', '.join(twice[:NAMED])}")
    meant = _said(names, said, path)
    found: dict[str, str] = dict(meant)
    taken = set(meant.values())
    for name in names:
        field = _STRONG.get(plain(name))
        if name not in found and field is not None and field not in taken:
            found[name] = field
    _refuse_two(found, path)
    for alias in ALIASES:
        if alias.field not in found.values():
            found.update(_otherwise(alias, names, found))
    if "filepath" not in found.values():
        raise SourceError(_no_filepath(names, path))
    return [found.get(name) or _rest(name) for name in names]


def near_misses(names: Sequence[str], became: Sequence[str]) -> list[str]:
    """A warning for each column kept under ``extra`` whose name is nearly that of a field that no column fills."""
    open_names = {key: field for key, field in _STRONG.items() if field not in became}
    warnings = []
    for name, role in zip(names, became, strict=True):
        close = difflib.get_close_matches(plain(name), open_names, 1, 0.8) if role == EXTRA else []
        if close:
            field = open_names[close[0]]
            warnings.append(
                f"column {name} is kept under extra, but its name is close to {field}: "
                f"if that is what it holds, give --column '{name}={field}'"
            )
    return warnings


def _said(names: Sequence[str], said: Mapping[str, str], path: Path) -> dict[str, str]:
    by_plain = {plain(name): name for name in names}
    meant: dict[str, str] = {}
    for given, role in said.items():
        name = given if given in names else by_plain.get(plain(given))
        if name is None:
            there = ", ".join(names[:NAMED])
            raise SourceError(f"--column {given}={role}: table {path} has no column {given}; its columns are {there}")
        field = role if role in (EXTRA, IGNORED, *FIELDS) else _STRONG.get(plain(role))
        if field is None:
            raise SourceError(
                f"--column {given}={role}: no field {role}; there are {', '.join(FIELDS)}, extra, ignored"
            )
        meant[name] = field
    _refuse_two(meant, path)
    return meant


def _refuse_two(found: Mapping[str, str], path: Path) -> None:
    for field, count in Counter(found.values()).items():
        if count > 1 and field not in (EXTRA, IGNORED):
            both = [name for name, role in found.items() if role == field]
            raise SourceError(
                f"table {path}: the columns {' and '.join(both)} would both be {field}; "
                f"choose one: --column '{both[0]}={field}', and the other is kept under extra"
            )


def _otherwise(alias: Alias, names: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    free = {plain(name): name for name in names if name not in found}
    return next(({free[plain(name)]: alias.field} for name in alias.otherwise if plain(name) in free), {})


def _rest(name: str) -> str:
    if name in _DERIVED:
        return IGNORED
    return LABEL if "/" in name else EXTRA


def _no_filepath(names: Sequence[str], path: Path) -> str:
    there = f"table {path} has no column filepath; its columns are {', '.join(names[:NAMED])}"
    if any(re.search(r"[^\s.]\.[A-Za-z][A-Za-z0-9]{1,5}$", name) for name in names):
        return f"{there}. The first line looks like a row: write a header above it, such as filepath,labels"
    return f"{there}. Say which one holds the paths of the images: --column NAME=filepath"
