"""The rows of a table file: delimited text, Parquet or a workbook."""

import csv
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cbmir.aliases import plain
from cbmir.errors import SourceError
from ingest.tables import delimited, spreadsheet
from ingest.tables.values import text_of

SUFFIXES = (*delimited.SUFFIXES, ".parquet", *spreadsheet.SUFFIXES)
CHUNK_ROWS = 20_000  # of Parquet
_BROKEN = (OSError, ValueError, EOFError, zlib.error, csv.Error, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that can't be read.

    Attributes:
        first: Its first cell, where there is one.
        reason: Why.
    """

    first: str
    reason: str


class TableFile:
    """A table that is read as its rows are asked for.

    Attributes:
        path: The file.
        names: Its columns; a column without a name is called by its place.
        form: How the file is written, for people.
        total: Rows, where the format knows.
        headers: Lines that repeat the header and are no rows, as far as it was read.
        others: Further sheets of a workbook, which are not read.

    Raises:
        SourceError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total: int | None = None
        self.headers = 0
        self.others: tuple[str, ...] = ()
        self._cells: Callable[[], Iterator[Sequence[Any] | BrokenRow]]
        try:
            self._open()
        except _BROKEN as error:
            raise SourceError(f"can't read the table {path}: {_line(error)}") from error
        self._plain = [plain(name) for name in self.names]

    def _open(self) -> None:
        suffix = self.path.suffix.lower()
        if suffix == ".parquet":
            parquet = pq.ParquetFile(self.path)
            self.total, self.names = parquet.metadata.num_rows, list(parquet.schema_arrow.names)
            self.form = "Parquet"
            self._cells = self._parquet_rows
        elif suffix in spreadsheet.SUFFIXES:
            self._sheet, *others = spreadsheet.sheets_of(self.path)
            self.form, self.others = f"sheet {self._sheet} of a workbook", tuple(others)
            self.names = self._named(next(spreadsheet.rows_of(self.path, self._sheet), []))
            self._cells = self._sheet_rows
        else:
            self._dialect = delimited.sniff(self.path)
            self.form = self._dialect.words
            self.names = self._header()
            self._cells = self._delimited_rows

    def __iter__(self) -> Iterator[Sequence[Any] | BrokenRow]:
        """The cells of each row, in order.

        Raises:
            SourceError: it breaks off, or a quote swallows rows.
        """
        self.headers = 0
        try:
            yield from self._cells()
        except _BROKEN as error:
            raise SourceError(f"the table {self.path} breaks off: {_line(error)}") from error

    def _header(self) -> list[str]:
        first = next(delimited.lines_of(self.path, self._dialect), None)
        if first is None:
            raise ValueError("it is empty")
        if first.reason:
            raise ValueError(f"its first line {first.reason}")
        return self._named(first.cells)

    @staticmethod
    def _named(cells: Sequence[Any]) -> list[str]:
        return [text_of(name) or f"column {place}" for place, name in enumerate(cells, start=1)]

    def _delimited_rows(self) -> Iterator[Sequence[Any] | BrokenRow]:
        lines = delimited.lines_of(self.path, self._dialect)
        next(lines, None)  # the header
        width = len(self.names)
        for line in lines:
            if line.reason:
                yield BrokenRow("", line.reason)
            elif len(line.cells) < width or any(line.cells[width:]):
                yield BrokenRow(line.cells[0], f"has {len(line.cells)} cells where the header has {width}")
            elif not self._repeats(line.cells):
                yield line.cells

    def _sheet_rows(self) -> Iterator[Sequence[Any]]:
        rows = spreadsheet.rows_of(self.path, self._sheet)
        next(rows, None)
        width = len(self.names)
        for cells in rows:
            whole = [*cells, *[None] * (width - len(cells))]
            if not self._repeats(whole):
                yield whole

    def _parquet_rows(self) -> Iterator[Sequence[Any]]:
        for batch in pq.ParquetFile(self.path).iter_batches(CHUNK_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _repeats(self, cells: Sequence[Any]) -> bool:
        again = plain(text_of(cells[0])) == self._plain[0] and (
            [plain(name) for name in self._named(cells[: len(self.names)])] == self._plain
        )
        self.headers += again
        return again


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
