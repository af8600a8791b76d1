"""Labels of a table for DICOM images: joined on an identifier, which is hashed and never stored as the table has it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.aliases import plain
from cbmir.errors import SourceError
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.rows import TableFile
from cbmir.keyfile import Key
from cbmir.media.dicom_header import text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "instance": ("sopinstanceuid", "sopuid", "instanceuid", "imageuid"),
    "series": ("seriesinstanceuid", "seriesuid", "seriesid"),
    "study": ("studyinstanceuid", "studyuid", "studyid"),
    "accession": ("accessionnumber", "accession"),
    "patient": ("patientid", "patient"),
}
"""Names of columns that identify, without what `cbmir.aliases.plain` takes off; the narrowest first."""
_ATTRIBUTES = {
    "instance": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient": "PatientID",
}
JOINS = tuple(_COLUMNS)


@dataclass(frozen=True, slots=True)
class Said:
    """What a table says of an image.

    Attributes:
        labels: As they are stored.
        split: Empty where it says none.
    """

    labels: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels by hashed identifier.

    Attributes:
        by: What it is joined on, of `JOINS`.
        rows: What it says, by hash.
        unread: Rows that can't be read.
    """

    by: str
    rows: Mapping[str, Said]
    unread: int

    def hash_of(self, dataset: "Dataset", key: Key) -> str:
        """The hash by which the table may know a file."""
        return _hashed(self.by, text(dataset, _ATTRIBUTES[self.by]), key)


def read_labels(path: Path, by: str | None, table: TableOptions, key: Key) -> LabelTable:
    """Read labels and split of a table; its other columns are not stored.

    Args:
        path: CSV, Excel or Parquet.
        by: What it is joined on; the narrowest identifier that it has a column of, unless given.
        table: How it is read.
        key: Of the hashes.

    Raises:
        SourceError: it can't be read, or has no column of such identifiers.
    """
    from cbmir.ingest.sources.base import SourceImage, SourceOptions
    from cbmir.ingest.sources.table import TableSource

    names = {plain(name): name for name in TableFile(path).names}
    wanted = [by] if by else list(JOINS)
    found = next(((kind, names[name]) for kind in wanted for name in _COLUMNS[kind] if name in names), None)
    if found is None:
        known = ", ".join(_COLUMNS[kind][0] for kind in wanted)
        raise SourceError(f"the table of labels has no column that identifies images; there should be one of {known}")
    kind, column = found
    columns = {**table.columns, column: "filepath"}
    source = TableSource(path, SourceOptions(table=replace(table, columns=columns), uris=True))
    rows: dict[str, Said] = {}
    unread = 0
    for item in source:
        if not isinstance(item, SourceImage):
            unread += 1
            continue
        hash = _hashed(kind, item.record.filepath, key)
        before = rows.get(hash, Said())
        labels = tuple(dict.fromkeys((*before.labels, *item.record.labels)))
        rows[hash] = Said(labels, before.split or item.record.split or "")
    return LabelTable(kind, rows, unread)


def _hashed(by: str, written: str, key: Key) -> str:
    """In a domain of its own: it is compared, and not stored."""
    return key.hashed(f"labels by {by}", " ".join(written.split()))
