"""A table of image records, CSV or Parquet: the published one-hot format, or a ``labels`` column, or both.

Columns named as payload fields fill them. A column whose name has a slash (``XR/chest/Pneumonia``) is a label and holds
0 or 1. ``labels`` holds labels parted by ``|`` (in Parquet also lists). Any other column goes to ``extra``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cbmir.errors import RecordError, SourceError
from ingest.sources.base import GIVEN_FIELDS, Failure, Source, SourceImage, SourceOptions, make_record

FORM = "a table (.csv, .csv.gz, .tsv, .parquet)"
CHUNK_ROWS = 20_000
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")
_ALIASES = {"plane": "view", "region": "anatomic_region", "label": "labels"}
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_RESERVED = ("filepath", "dataset", "labels", "pathology", "primary_label", "sha256", "width", "height", "extra")


def accepts(path: Path) -> bool:
    """Whether the path looks like a table."""
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)


def read(path: Path, options: SourceOptions) -> Source:
    """Open a table; its rows are read in chunks.

    Raises:
        SourceError: it can't be read, or has no column ``filepath``.
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
                self._columns = list(next(self._csv(rows=1)).columns)
        except (OSError, ValueError, pa.ArrowException, pd.errors.ParserError, StopIteration) as error:
            raise SourceError(f"can't read the table {path}: {_line(error)}") from error
        if "filepath" not in self._columns:
            raise SourceError(f"table {path} has no column filepath; its columns are {', '.join(self._columns[:12])}")
        self._known = {name: _ALIASES.get(name, name) for name in self._columns if name not in self._shadowed()}
        self._labels = [name for name in self._columns if "/" in name]
        self._others = [
            name
            for name in self._columns
            if "/" not in name and self._known.get(name, name) not in (*GIVEN_FIELDS, *_RESERVED)
        ]

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All rows, in order."""
        row = 0
        for frame in self._frames():
            hot = _one_hot(frame, self._labels)
            plain = frame.drop(columns=self._labels)
            columns = {name: plain[name].tolist() for name in plain.columns}
            for index in range(len(frame)):
                row += 1
                yield self._item({name: values[index] for name, values in columns.items()}, hot[index], row)

    def _shadowed(self) -> list[str]:
        return [alias for alias, name in _ALIASES.items() if name in self._columns]

    def _frames(self) -> Iterator[pd.DataFrame]:
        try:
            if self.total is None:
                yield from self._csv(CHUNK_ROWS)
                return
            for batch in pq.ParquetFile(self._path).iter_batches(CHUNK_ROWS):
                yield batch.to_pandas()
        except (OSError, ValueError, pa.ArrowException, pd.errors.ParserError) as error:
            raise SourceError(f"the table {self._path} breaks off: {_line(error)}") from error

    def _csv(self, rows: int) -> Iterator[pd.DataFrame]:
        separator = "\t" if self._path.suffix.lower() == ".tsv" else ","
        return iter(
            pd.read_csv(
                self._path, sep=separator, dtype=str, keep_default_na=False, chunksize=rows, encoding="utf-8-sig"
            )
        )

    def _item(self, row: Mapping[str, Any], hot: "_Hot", number: int) -> SourceImage | Failure:
        filepath = _text(row["filepath"])
        place = f"{self._path.name} row {number}"
        try:
            if not filepath:
                raise RecordError("has no filepath")
            if hot.wrong:
                raise RecordError(hot.wrong)
            texts = {self._known[name]: _text(value) for name, value in row.items() if name in self._known}
            given = {**self._options.constants, **{name: text for name, text in texts.items() if text}}
            dataset = texts.get("dataset") or self._options.dataset or self._path.name.partition(".")[0]
            extra = {name: value for name in self._others if (value := _plain(row[name])) is not None}
            labels = [*_split(row, self._known), *hot.labels]
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


@dataclass(slots=True)
class _Hot:
    """The one-hot columns of one row: labels that hold, or what is wrong."""

    labels: list[str] = field(default_factory=list)
    wrong: str = ""


def _one_hot(frame: pd.DataFrame, columns: Sequence[str]) -> list[_Hot]:
    """Labels row by row, read column by column: a table may have hundreds of label columns and millions of rows."""
    rows = [_Hot() for _ in range(len(frame))]
    for name in columns:
        codes, values = pd.factorize(frame[name])
        for code, value in enumerate(values):
            text = _text(value).lower()
            if text in _FALSE:
                continue
            for index in np.flatnonzero(codes == code):
                if text in _TRUE:
                    rows[index].labels.append(name)
                else:
                    rows[index].wrong = f"label {name} is {text!r}, not 0 or 1"
    return rows


def _split(row: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    labels: list[str] = []
    for name, meaning in known.items():
        if meaning != "labels":
            continue
        value = row[name]
        parts = _text(value).split("|") if isinstance(value, str) or _empty(value) else list(value)
        labels.extend(text for part in parts if (text := _text(part)))
    return labels


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _text(value: Any) -> str:
    return "" if _empty(value) else str(value).strip()


def _plain(value: Any) -> Any:
    """A value as JSON, None where it is missing."""
    if isinstance(value, str):
        return value or None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if _empty(value):
        return None
    return value if isinstance(value, bool | int | float | list | dict) else str(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
