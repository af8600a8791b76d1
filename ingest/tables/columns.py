"""What the columns of a table mean, by their names and by what the user says."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cbmir.aliases import ALIASES, STRONG, Alias, plain
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


FIELDS = tuple(alias.field for alias in ALIASES)
_FROM_FILE = ("sha256", "decoder", "kind", "width", "height", "depth")
_DERIVED = ("pathology", "primary_label", "extra", *_FROM_FILE)


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
        field = STRONG.get(plain(name))
        if name not in found and field is not None and field not in taken:
            found[name] = field
    _refuse_two(found, path)
    for alias in ALIASES:
        if alias.field not in found.values():
            found.update(_otherwise(alias, names, found))
    if "filepath" not in found.values():
        raise SourceError(_no_filepath(names, path))
    return [found.get(name) or _rest(name) for name in names]


def _said(names: Sequence[str], said: Mapping[str, str], path: Path) -> dict[str, str]:
    by_plain = {plain(name): name for name in names}
    meant: dict[str, str] = {}
    for given, role in said.items():
        name = given if given in names else by_plain.get(plain(given))
        if name is None:
            there = ", ".join(names[:NAMED])
            raise SourceError(f"--column {given}={role}: table {path} has no column {given}; its columns are {there}")
        field = role if role in (EXTRA, IGNORED, *FIELDS) else STRONG.get(plain(role))
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
