"""Parquet files of image records: a row an image by rising id, a typed column a payload field.

Lists are lists, a field that is not known is null, and ``extra`` is JSON in text, so that nothing in it changes.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cbmir.errors import SourceError, one_line
from cbmir.schema import PAYLOAD_FIELDS, Payload, PayloadField, StoredPoint

GROUP_ROWS = 8192
"""Rows of a row group, at least; the unit in which others read the file."""

_TYPES = {"integer": pa.int64(), "float": pa.float64()}
_OBJECTS = tuple(item.name for item in PAYLOAD_FIELDS if item.kind == "object")


def _type(field: PayloadField) -> Any:
    kind = _TYPES.get(field.kind, pa.string())  # a date stays as it is spelt
    return pa.list_(kind) if field.many else kind


SCHEMA = pa.schema([("id", pa.string()), *((item.name, _type(item)) for item in PAYLOAD_FIELDS)])


class RecordWriter:
    """A new file of image records.

    What goes wrong comes out as the `OSError`, `ValueError` or `pyarrow.ArrowException` that PyArrow raises.

    Args:
        path: Replaced if it exists; not whole before `close`.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._sink = path.open("xb")  # a link that somebody has put there is not followed
        self._writer = pq.ParquetWriter(self._sink, SCHEMA, compression="zstd")
        self._waiting: list[Any] = []

    def append(self, points: Sequence[StoredPoint]) -> None:
        """Add the payload of points, but for fields that no column has."""
        columns = {name: [point.payload.get(name) for point in points] for name in SCHEMA.names if name != "id"}
        for name in _OBJECTS:
            columns[name] = [
                None if value is None else json.dumps(value, ensure_ascii=False) for value in columns[name]
            ]
        columns["id"] = [point.id for point in points]
        arrays = []
        for field in SCHEMA:
            try:
                arrays.append(pa.array(columns[field.name], field.type))
            except (pa.ArrowException, OverflowError) as error:
                raise ValueError(f"{field.name} holds a value that is no {field.type}: {error}") from error
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        if sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write all to disk."""
        try:
            self._flush()
        finally:
            self._writer.close()
            self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
            self._waiting = []


class RecordFile:
    """A file of image records, open for reading.

    Attributes:
        count: Rows.

    Raises:
        SourceError: it is missing, no Parquet, or its columns are others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"can't read {path} as Parquet: {one_line(error)}") from error
        self.count: int = self._file.metadata.num_rows
        try:
            self._check()
        except SourceError:
            self.close()
            raise

    def ids(self) -> Iterator[NDArray[np.bytes_]]:
        """Ids in ASCII, in parts."""
        for batch in self._batches(GROUP_ROWS, ["id"]):
            yield np.array([str(id).encode() for id in batch.column(0).to_pylist()], dtype=np.bytes_)

    def payloads(self, size: int) -> Iterator[list[tuple[str, Payload]]]:
        """Ids and payloads, in lists of `size` at most.

        Raises:
            SourceError: the file is damaged there.
        """
        for batch in self._batches(size, None):
            rows = []
            for row in batch.to_pylist():
                payload = {name: value for name, value in row.items() if value is not None}
                rows.append((str(payload.pop("id", "")), self._with_objects(payload)))
            yield rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check(self) -> None:
        columns = self._file.schema_arrow
        unknown = [name for name in columns.names if name not in SCHEMA.names]
        if unknown:
            raise SourceError(f"{self._path} has columns that this cbmir doesn't know: {', '.join(unknown[:12])}")
        wrong = [name for name in columns.names if columns.field(name).type != SCHEMA.field(name).type]
        missing = [name for name in ("id", "filepath", "dataset") if name not in columns.names]
        if wrong or missing:
            raise SourceError(
                f"{self._path} is no file of image records: "
                f"{', '.join(wrong or missing)} {'has another type' if wrong else 'is missing'}"
            )

    def _batches(self, size: int, columns: list[str] | None) -> Iterator[Any]:
        try:
            yield from self._file.iter_batches(size, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{self._path} is damaged: {one_line(error)}") from error

    def _with_objects(self, payload: Payload) -> Payload:
        for name in _OBJECTS:
            if name in payload:
                try:
                    payload[name] = json.loads(payload[name])
                except (ValueError, RecursionError) as error:
                    raise SourceError(f"{self._path} is damaged: {name} is no JSON: {error}") from error
        return payload
