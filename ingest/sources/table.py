"""A table of image records, CSV or Parquet: the published one-hot format, or a ``labels`` column, or both.

Columns named as payload fields fill them. A column whose name has a slash (``XR/chest/Pneumonia``) is a label and holds
0 or 1. ``labels`` holds labels parted by ``|`` (in Parquet also lists). Any other column goes to ``extra``.
"""

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cbmir.errors import RecordError, SourceError
from ingest.sources.base import GIVEN_FIELDS, Failure, Source, SourceImage, SourceOptions, make_record, printable

FORM = "a table (.csv, .csv.gz, .tsv, .parquet)"
CHUNK_ROWS = 20_000  # of Parquet
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")
_ALIASES = {"plane": "view", "region": "anatomic_region", "label": "labels"}
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_OFF = ("0", 0, "", None)
_FROM_FILE = ("sha256", "kind", "width", "height", "depth")
_RESERVED = ("filepath", "dataset", "labels", "pathology", "primary_label", *_FROM_FILE, "extra")
_BROKEN = (OSError, ValueError, EOFError, zlib.error, csv.Error, pa.ArrowException)


def accepts(path: Path) -> bool:
    """Whether the path looks like a table."""
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)


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
        self._path = path
        self._options = options
        self._root = options.root or path.parent
        self.ignored: Mapping[str, int] = {}
        self.total: int | None = None
        self._columns: list[str] = []
        try:
            if path.suffix.lower() == ".parquet":
                parquet = pq.ParquetFile(path)
                self.total, self._columns = parquet.metadata.num_rows, parquet.schema_arrow.names
            else:
                self._columns = self._header()
        except _BROKEN as error:
            raise SourceError(f"can't read the table {path}: {_line(error)}") from error
        self._check_columns()
        self._known = {name: _ALIASES.get(name, name) for name in self._columns if name not in self._shadowed()}
        self._labels = [(place, name) for place, name in enumerate(self._columns) if "/" in name]
        self._plain = [(place, name) for place, name in enumerate(self._columns) if "/" not in name]
        self._others = [
            name for _, name in self._plain if self._known.get(name, name) not in (*GIVEN_FIELDS, *_RESERVED)
        ]

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All rows, in order."""
        try:
            for number, row in enumerate(self._rows() if self.total is None else self._parquet_rows(), start=1):
                yield row if isinstance(row, Failure) else self._item(row, number)
        except _BROKEN as error:
            raise SourceError(f"the table {self._path} breaks off: {_line(error)}") from error

    def _check_columns(self) -> None:
        if "filepath" not in self._columns:
            raise SourceError(
                f"table {self._path} has no column filepath; its columns are {', '.join(self._columns[:12])}"
            )
        twice = [name for name, count in Counter(self._columns).items() if count > 1]
        if twice:
            raise SourceError(f"table {self._path} has more than one column {', '.join(twice[:12])}")

    def _shadowed(self) -> list[str]:
        return [alias for alias, name in _ALIASES.items() if name in self._columns]

    def _header(self) -> list[str]:
        """Column names of a CSV; a column without a name is called by its place."""
        cells = next(self._lines(), None)
        if cells is None:
            raise ValueError("it is empty")
        if isinstance(cells, str):
            raise ValueError(f"its first line {cells}")
        return [name.strip() or f"column {place}" for place, name in enumerate(cells, start=1)]

    def _rows(self) -> Iterator[Sequence[Any] | Failure]:
        lines = self._lines()
        next(lines, None)  # the header
        for number, cells in enumerate(lines, start=1):
            if isinstance(cells, str):
                yield Failure("", f"{printable(self._path.name)} row {number}", cells)
            elif len(cells) < len(self._columns) or any(cells[len(self._columns) :]):
                reason = f"has {len(cells)} cells where the header has {len(self._columns)}"
                yield Failure(cells[0], f"{printable(self._path.name)} row {number}", reason)
            else:
                yield cells

    def _lines(self) -> Iterator[list[str] | str]:
        """The lines of a CSV in cells, or as the reason why one can't be read; empty lines are passed over."""
        opened = gzip.open if self._path.suffix.lower() == ".gz" else open
        separator = "\t" if self._path.suffix.lower() == ".tsv" else ","
        with opened(self._path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
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
        for batch in pq.ParquetFile(self._path).iter_batches(CHUNK_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _item(self, cells: Sequence[Any], number: int) -> SourceImage | Failure:
        row = {name: cells[place] for place, name in self._plain}
        filepath = _text(row["filepath"])
        place = f"{printable(self._path.name)} row {number}"
        try:
            if not filepath:
                raise RecordError("has no filepath")
            texts = {self._known[name]: _text(value) for name, value in row.items() if name in self._known}
            given = {**self._options.constants, **{name: text for name, text in texts.items() if text}}
            dataset = texts.get("dataset") or self._options.dataset or printable(self._path.name.partition(".")[0])
            extra = {name: value for name in self._others if (value := _json(row[name])) is not None}
            labels = [*_split(row, self._known), *_one_hot(cells, self._labels)]
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


def _one_hot(cells: Sequence[Any], columns: Sequence[tuple[int, str]]) -> list[str]:
    labels = []
    for place, name in columns:
        value = cells[place]
        if value in _OFF:  # nearly all of them, and a table may have hundreds of these columns
            continue
        text = _text(value).lower()
        if text in _TRUE:
            labels.append(name)
        elif text not in _FALSE:
            raise RecordError(f"label {name} is {text!r}, not 0 or 1")
    return labels


def _split(row: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    labels: list[str] = []
    for name, meaning in known.items():
        if meaning != "labels":
            continue
        value = row[name]
        parts = value if isinstance(value, list) else _text(value).split("|")
        labels.extend(text for part in parts if (text := _text(part)))
    return labels


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    return "" if _empty(value) else str(value).strip()


def _json(value: Any) -> Any:
    """A value as JSON, None where it is missing."""
    if isinstance(value, str):
        return value or None
    if _empty(value):
        return None
    if isinstance(value, dict):
        return {str(name): _json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _text(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
