"""Results on their way out: whole files, and rows of which a NaN is null in JSON and an empty cell in CSV."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.errors import CbmirError
from cbmir.formulas import harmless

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def row_json(row: "DataclassInstance") -> dict[str, Any]:
    """One row as JSON takes it: null for NaN."""
    return {name: None if _missing(value) else value for name, value in asdict(row).items()}


def write_rows(path: Path, rows: Sequence["DataclassInstance"], terms: Mapping[str, object]) -> None:
    """Write rows of one kind as CSV, each with what it is a result of.

    Args:
        path: The file, which is replaced.
        rows: One or more; their fields are the first columns.
        terms: The columns that are the same in all rows.

    Raises:
        CbmirError: the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(harmless([*(item.name for item in fields(rows[0])), *terms]))
            for row in rows:
                values = ("" if _missing(value) else value for value in asdict(row).values())
                writer.writerow(harmless([*values, *terms.values()]))
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error.strerror}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and its folder, so that a crash leaves the old one or the new one.

    Raises:
        CbmirError: it can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error.strerror}") from error


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
