"""A table of image records, CSV or Parquet: the published one-hot format, or a ``labels`` column, or both.

Columns named as payload fields fill them. A column whose name has a slash (``XR/chest/Pneumonia``) is a label and holds
0 or 1. ``labels`` holds labels parted by ``|`` (in Parquet also lists). Any other column goes to ``extra``.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cbmir.errors import RecordError
from ingest.sources.base import Failure, Source, SourceImage, SourceOptions, make_record, printable
from ingest.tables.columns import Columns
from ingest.tables.labels import one_hot, split
from ingest.tables.rows import SUFFIXES, BrokenRow, TableFile
from ingest.tables.values import json_of, text_of

FORM = "a table (.csv, .csv.gz, .tsv, .parquet)"


def accepts(path: Path) -> bool:
    """Whether the path looks like a table."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, options: SourceOptions) -> Source:
    """Open a table; its rows are read as they are asked for.

    Raises:
        SourceError: it can't be read, has no column ``filepath``, or a column twice.
    """
    return TableSource(path, options)


class TableSource:
    """The rows of one table.

    Attributes:
        total: Rows, where the format knows; a CSV would have to be read for it.
        ignored: Always empty.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._name = printable(path.name)
        self._options = options
        self._root = options.root or path.parent
        self.ignored: Mapping[str, int] = {}
        self._file = TableFile(path)
        self.total = self._file.total
        self._columns = Columns.of(self._file.names, path)

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All rows, in order."""
        for number, row in enumerate(self._file, start=1):
            place = f"{self._name} row {number}"
            yield Failure(row.first, place, row.reason) if isinstance(row, BrokenRow) else self._item(row, place)

    def _item(self, cells: Sequence[Any], place: str) -> SourceImage | Failure:
        columns = self._columns
        row = {name: cells[place] for place, name in columns.plain}
        filepath = text_of(row["filepath"])
        try:
            if not filepath:
                raise RecordError("has no filepath")
            texts = {columns.known[name]: text_of(value) for name, value in row.items() if name in columns.known}
            given = {**self._options.constants, **{name: text for name, text in texts.items() if text}}
            dataset = texts.get("dataset") or self._options.dataset or self._name.partition(".")[0]
            extra = {name: value for name in columns.others if (value := json_of(row[name])) is not None}
            labels = [*split(row, columns.known), *one_hot(cells, columns.labels)]
            record = make_record(self._key(filepath), dataset, labels, given, extra)
        except RecordError as error:
            return Failure(filepath, place, str(error))
        return SourceImage(record, self._root / filepath)

    def _key(self, filepath: str) -> str:
        """Absolute paths below the root are made relative, so that moving the data changes no id."""
        path = Path(filepath)
        if path.is_absolute() and path.is_relative_to(self._root.absolute()):
            return path.relative_to(self._root.absolute()).as_posix()
        return filepath
