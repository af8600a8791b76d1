"""Parquet, in which a few bytes can stand for many rows and long texts: what comes out is counted before it is made."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cbmir.errors import SourceError, one_line
from cbmir.limits import Limits

CHUNK_ROWS = 20_000
_AT_ONCE = 1 << 28  # bytes of texts
MAX_CELL = 1_000_000
"""Bytes of one text; no image can have as much with it, see `cbmir.bounds`."""


class Parquet:
    """An open file.

    Attributes:
        names: Its columns.
        rows: Their number.

    Raises:
        SourceError: it tells of more rows or bytes than the limit.
        OSError, pyarrow.ArrowException: it is no Parquet, or damaged.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        with pq.ParquetFile(path) as file:
            said = file.metadata
            self.names: list[str] = list(file.schema_arrow.names)
            self.rows: int = said.num_rows
            texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
            self._texts = [field.name for field in file.schema_arrow if any(is_text(field.type) for is_text in texts)]
            unpacked = sum(said.row_group(number).total_byte_size for number in range(said.num_row_groups))
        self._limits.check_bytes(max(unpacked, self.rows * len(self.names)), f"table {path} ")  # a byte a cell at least

    def rows_of(self) -> Iterator[Sequence[Any] | str]:
        """The cells of each row, or why it can't be used.

        Raises:
            SourceError: they are more bytes than the limit.
            OSError, pyarrow.ArrowException: it is damaged.
        """
        told = 0
        with pq.ParquetFile(self._path, read_dictionary=self._texts) as file:  # a text that comes often is kept once
            for batch in file.iter_batches(CHUNK_ROWS):
                lengths = [_lengths(column) for column in batch.columns]
                told += batch.num_rows * batch.num_columns
                told += sum(
                    column.nbytes if of is None else pc.sum(of).as_py() or 0
                    for column, of in zip(batch.columns, lengths, strict=True)
                )
                self._limits.check_bytes(told, f"table {self._path} ")
                yield from _without_long(batch, [of for of in lengths if of is not None])


def open_parquet(path: Path, limits: Limits) -> Parquet:
    """Open a file, see `Parquet`.

    Raises:
        SourceError: it can't be read.
    """
    try:
        return Parquet(path, limits)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"can't read the table {path}: {one_line(error)}") from error


def _lengths(column: Any) -> Any:
    """Bytes of each text of a column that is kept as a dictionary; None for other columns."""
    if not isinstance(column, pa.DictionaryArray):
        return None
    return pc.take(pc.cast(pc.binary_length(column.dictionary), pa.int64()), column.indices)


def _plain(column: Any) -> Any:
    """A column without a dictionary, which takes five times longer to be turned into values."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _without_long(batch: Any, lengths: list[Any]) -> Iterator[Sequence[Any] | str]:
    """Rows; the texts of those that have one of over `MAX_CELL` are not made."""
    if all((pc.max(of).as_py() or 0) <= MAX_CELL and (pc.sum(of).as_py() or 0) <= _AT_ONCE for of in lengths):
        yield from zip(*(_plain(column).to_pylist() for column in batch.columns), strict=True)
        return
    for place in range(batch.num_rows):
        longest = max(of[place].as_py() or 0 for of in lengths)
        if longest > MAX_CELL:
            yield f"holds a text of {longest:,} bytes, {MAX_CELL:,} at most"
        else:
            yield tuple(column[place].as_py() for column in batch.columns)
