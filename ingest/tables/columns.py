"""What the columns of a table mean."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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

_ALIASES = {"plane": "view", "region": "anatomic_region", "label": "labels"}
_FROM_FILE = ("sha256", "kind", "width", "height", "depth")
_RESERVED = ("filepath", "dataset", "labels", "pathology", "primary_label", *_FROM_FILE, "extra")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table.

    Attributes:
        known: The field that a column fills, by column; columns that fill none stand for themselves.
        labels: Place and name of the one-hot columns.
        plain: Place and name of all others.
        others: Columns that go to ``extra``.
    """

    known: dict[str, str]
    labels: list[tuple[int, str]]
    plain: list[tuple[int, str]]
    others: list[str]

    @classmethod
    def of(cls, names: Sequence[str], path: Path) -> Self:
        """Tell the columns of a table apart by their names.

        Raises:
            SourceError: there is no column ``filepath``, or a column twice.
        """
        if "filepath" not in names:
            raise SourceError(f"table {path} has no column filepath; its columns are {', '.join(names[:12])}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise SourceError(f"table {path} has more than one column {', '.join(twice[:12])}")
        shadowed = [alias for alias, name in _ALIASES.items() if name in names]
        known = {name: _ALIASES.get(name, name) for name in names if name not in shadowed}
        plain = [(place, name) for place, name in enumerate(names) if "/" not in name]
        return cls(
            known,
            [(place, name) for place, name in enumerate(names) if "/" in name],
            plain,
            [name for _, name in plain if known.get(name, name) not in (*GIVEN_FIELDS, *_RESERVED)],
        )
