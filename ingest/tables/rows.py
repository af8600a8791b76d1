"""The rows of a table file, CSV or Parquet."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cbmir.errors import SourceError

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")
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
        total: Rows, where the format knows; a CSV would have to be read for it.

    Raises:
        SourceError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total: int | None = None
        try:
            if path.suffix.lower() == ".parquet":
                parquet = pq.ParquetFile(path)
                self.total, self.names = parquet.metadata.num_rows, list(parquet.schema_arrow.names)
            else:
                self.names = self._header()
        except _BROKEN as error:
            raise SourceError(f"can't read the table {path}: {_line(error)}") from error

    def __iter__(self) -> Iterator[Sequence[Any] | BrokenRow]:
        """The cells of each row, in order."""
        try:
            yield from self._rows() if self.total is None else self._parquet_rows()
        except _BROKEN as error:
            raise SourceError(f"the table {self.path} breaks off: {_line(error)}") from error

    def _header(self) -> list[str]:
        cells = next(self._lines(), None)
        if cells is None:
            raise ValueError("it is empty")
        if isinstance(cells, str):
            raise ValueError(f"its first line {cells}")
        return [name.strip() or f"column {place}" for place, name in enumerate(cells, start=1)]

    def _rows(self) -> Iterator[Sequence[Any] | BrokenRow]:
        lines = self._lines()
        next(lines, None)  # the header
        for cells in lines:
            if isinstance(cells, str):
                yield BrokenRow("", cells)
            elif len(cells) < len(self.names) or any(cells[len(self.names) :]):
                yield BrokenRow(cells[0], f"has {len(cells)} cells where the header has {len(self.names)}")
            else:
                yield cells

    def _lines(self) -> Iterator[list[str] | str]:
        """The lines of a CSV in cells, or as the reason why one can't be read; empty lines are passed over."""
        opened = gzip.open if self.path.suffix.lower() == ".gz" else open
        separator = "\t" if self.path.suffix.lower() == ".tsv" else ","
        with opened(self.path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            while True:
                try:
                    cells = next(reader)
                    "".join(cells).encode()
                except StopIteration:
                    return
                except csv.Error as error:
                    yield f"can't be read: {error}, in line {reader.line_num}"
                except UnicodeEncodeError:
                    yield "is not UTF-8 text"
                else:
                    if cells:
                        yield cells

    def _parquet_rows(self) -> Iterator[Sequence[Any]]:
        for batch in pq.ParquetFile(self.path).iter_batches(CHUNK_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
