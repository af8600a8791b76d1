"""The rows of a table file: delimited text, Parquet or a workbook."""

import csv
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cbmir.aliases import plain
from cbmir.errors import SourceError, one_line
from cbmir.ingest.tables import columnar, delimited, spreadsheet
from cbmir.ingest.tables.values import text_of
from cbmir.limits import Limits
from cbmir.units import counted

SUFFIXES = (*delimited.SUFFIXES, ".parquet", *spreadsheet.SUFFIXES)
CHUNK_ROWS = columnar.CHUNK_ROWS
MAX_COLUMNS = 50_000
"""More are refused; the widest tables of cohort studies have about 30,000."""
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
        uncalculated: Cells of a workbook whose formula has no stored value, by the place of their column.
        limits: What reading it once may take.

    Raises:
        SourceError: it can't be read, has over `MAX_COLUMNS` columns, or goes beyond a limit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total: int | None = None
        self.headers = 0
        self.others: tuple[str, ...] = ()
        self.uncalculated: Mapping[int, int] = {}
        self.limits = Limits.read("table")
        self._cells: Callable[[], Iterator[Sequence[Any] | BrokenRow]]
        try:
            if not path.is_file():  # to open a pipe would block
                raise ValueError("it is not a file that is there")
            with self.held():
                self._open()
        except _BROKEN as error:
            raise SourceError(f"can't read the table {path}: {one_line(error)}") from error
        if len(self.names) > MAX_COLUMNS:
            raise SourceError(f"the table {path} has {len(self.names):,} columns, {MAX_COLUMNS:,} at most")
        self._plain = [plain(name) for name in self.names]

    def held(self) -> AbstractContextManager[None]:
        """A context in which reading the table once takes no more time and memory than it may."""
        return self.limits.held(f"table {self.path} ")

    def _open(self) -> None:
        suffix = self.path.suffix.lower()
        self.limits.check_bytes(self.path.stat().st_size, f"table {self.path} ")
        if suffix == ".parquet":
            self._parquet = columnar.open_parquet(self.path, self.limits)
            self.total, self.names = self._parquet.rows, self._parquet.names
            self.form = "Parquet"
            self._cells = self._parquet_rows
        elif suffix in spreadsheet.SUFFIXES:
            self._sheet, *others = spreadsheet.sheets_of(self.path, self.limits)
            self.form, self.others = f"sheet {self._sheet} of a workbook", tuple(others)
            self.names = self._named(next(spreadsheet.rows_of(self.path, self._sheet, self.limits), []))
            self.uncalculated = spreadsheet.formulas_without_value(self.path, self._sheet, self.limits)
            self._cells = self._sheet_rows
        else:
            self._dialect = delimited.sniff(self.path, self.limits)
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
            raise SourceError(f"the table {self.path} breaks off: {one_line(error)}") from error

    def _header(self) -> list[str]:
        first = next(delimited.lines_of(self.path, self._dialect, self.limits), None)
        if first is None:
            raise ValueError("it is empty")
        if first.reason:
            raise ValueError(f"its first line {first.reason}")
        return self._named(first.cells)

    @staticmethod
    def _named(cells: Sequence[Any]) -> list[str]:
        return [text_of(name) or f"column {place}" for place, name in enumerate(cells, start=1)]

    def _delimited_rows(self) -> Iterator[Sequence[Any] | BrokenRow]:
        lines = delimited.lines_of(self.path, self._dialect, self.limits)
        next(lines, None)  # the header
        width = len(self.names)
        for line in lines:
            if line.reason:
                yield BrokenRow("", line.reason)
            elif len(line.cells) < width or any(line.cells[width:]):
                yield BrokenRow(line.cells[0], f"has {counted(len(line.cells), 'cell')} where the header has {width}")
            elif not self._repeats(line.cells):
                yield line.cells

    def _sheet_rows(self) -> Iterator[Sequence[Any]]:
        rows = spreadsheet.rows_of(self.path, self._sheet, self.limits)
        next(rows, None)
        width = len(self.names)
        for cells in rows:
            whole = [*cells, *[None] * (width - len(cells))]
            if not self._repeats(whole):
                yield whole

    def _parquet_rows(self) -> Iterator[Sequence[Any] | BrokenRow]:
        for cells in self._parquet.rows_of():
            yield BrokenRow("", cells) if isinstance(cells, str) else cells

    def _repeats(self, cells: Sequence[Any]) -> bool:
        again = plain(text_of(cells[0])) == self._plain[0] and (
            [plain(name) for name in self._named(cells[: len(self.names)])] == self._plain
        )
        self.headers += again
        return again
