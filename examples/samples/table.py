"""The table that ingest reads: one row a picture."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from examples.samples.errors import SampleError


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One picture; the fields are the columns of the table, all text.

    Attributes:
        filepath: Relative to the table's folder, with forward slashes.
        dataset: Package that the picture comes from.
        split: train, val or test.
        modality: XR, CT, MR, US or NM.
        anatomic_region: Slug.
        labels: `modality/region`.
        plane: axial, coronal, sagittal, frontal or empty.
        patient_id: Slug of the source.
        licence: Terms of the picture.
        attribution: Whom to credit.
        source_file: File in the package.
        slice: Slice or frame in that file, from 0.
    """

    filepath: str
    dataset: str
    split: str
    modality: str
    anatomic_region: str
    labels: str
    plane: str
    patient_id: str
    licence: str
    attribution: str
    source_file: str
    slice: str


COLUMNS = tuple(field.name for field in fields(Row))


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write the rows, sorted by file, with Unix line ends on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in sorted(rows))
    path.write_bytes(text.getvalue().encode())


def read_table(path: Path) -> list[Row]:
    """Read a table back.

    Raises:
        SampleError: The columns are not those of this version.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        header, *lines = list(csv.reader(stream)) or [[]]
    if tuple(header) != COLUMNS:
        raise SampleError(f"{path} has other columns than this program writes: remove it and run again")
    return [Row(*line) for line in lines]


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(values: Sequence[str]) -> dict[str, int]:
    """How often each value occurs, sorted by value."""
    return {value: values.count(value) for value in sorted(set(values))}
