"""The labels of a row: one-hot columns, and columns that hold labels as text or as lists."""

from collections.abc import Mapping, Sequence
from typing import Any

from cbmir.errors import RecordError
from ingest.tables.values import text_of

_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_OFF = ("0", 0, "", None)


def one_hot(cells: Sequence[Any], columns: Sequence[tuple[int, str]]) -> list[str]:
    """The names of the columns that hold 1.

    Args:
        cells: Of one row.
        columns: Place and name of the label columns.

    Raises:
        RecordError: one holds neither 0 nor 1.
    """
    labels = []
    for place, name in columns:
        value = cells[place]
        if value in _OFF:  # nearly all of them, and a table may have hundreds of these columns
            continue
        text = text_of(value).lower()
        if text in _TRUE:
            labels.append(name)
        elif text not in _FALSE:
            raise RecordError(f"label {name} is {text!r}, not 0 or 1")
    return labels


def split(row: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """The labels that stand in label columns, parted by ``|`` or as lists."""
    labels: list[str] = []
    for name, meaning in known.items():
        if meaning != "labels":
            continue
        value = row[name]
        parts = value if isinstance(value, list) else text_of(value).split("|")
        labels.extend(text for part in parts if (text := text_of(part)))
    return labels
