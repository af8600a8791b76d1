"""Several tables as one, a block of rows at a time: the union of their columns, a label that is missing is 0."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from cbmir.errors import RecordError, SourceError, one_line
from cbmir.ingest.tables.writing import ONLY_WHERE_NEEDED, check_suffix, written
from cbmir.limits import Limits
from cbmir.paths import normal_path
from cbmir.schema import label_slug

_BLOCK_BYTES = 8 << 20
_KEY = ("dataset", "filepath")
_ABSOLUTE = r"^(/|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]+:/)"
"""Paths that don't depend on the table's folder: absolute ones, those of Windows, and URIs."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        rows: Rows by table.
        columns: Columns of the new table.
        labels: Of them, labels.
        shared: Labels that more than one table has.
        root: Folder that the file paths are relative to, where it isn't the new table's: a table lies elsewhere.
    """

    rows: dict[str, int]
    columns: int
    labels: int
    shared: list[str]
    root: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table to merge.

    Attributes:
        path: A CSV.
        columns: Its columns by what they mean: labels by their slugs, so that one label is one column.
    """

    path: Path
    columns: dict[str, str]


def merge(tables: Sequence[Path], out: Path, root: Path | None = None) -> Merged:
    """Write several tables as one; labels that differ in case or white space only are one label.

    Memory: a block of rows, and about 100 bytes an image to find those that come twice.

    Args:
        tables: CSVs, each with the columns ``filepath`` and ``dataset``.
        out: The new table; file paths become relative to its folder or, where a table lies elsewhere, to the lowest
            folder above all of them.
        root: Folder that the file paths of all tables are relative to; they then stay as they are. The folder of each
            table unless given.

    Raises:
        SourceError: a table can't be read, lacks a column or has one twice; an image comes twice; `out` is one of the
            tables or can't be written.
    """
    check_suffix(out)
    if any(out.exists() and path.exists() and path.samefile(out) for path in tables):
        raise SourceError(f"{out} is one of the tables to merge; give the new table a name of its own")
    opened = [_open(path) for path in tables]
    spelt = {key: name for table in reversed(opened) for key, name in table.columns.items()}
    order = sorted(dict.fromkeys(key for table in opened for key in table.columns), key=lambda key: "/" in key)
    schema = pa.schema([(spelt[key], pa.int8() if "/" in key else pa.string()) for key in order])
    rows = dict.fromkeys(map(str, tables), 0)
    seen: set[bytes] = set()
    here = os.path.abspath(out.parent)  # noqa: PTH100  without following links
    base = here if root else os.path.commonpath([here, *(os.path.abspath(path.parent) for path in tables)])  # noqa: PTH100
    with written(out) as stream, pa_csv.CSVWriter(stream, schema, write_options=ONLY_WHERE_NEEDED) as writer:
        for table in opened:
            start = "." if root else os.path.relpath(table.path.parent, base)
            with Limits.read("table").held(f"table {table.path} "):
                for block in _blocks(table):
                    moved = _moved(block, start)
                    _refuse_repeated(moved, seen, table.path)
                    writer.write_batch(_widened(moved, table, order, schema))
                    rows[str(table.path)] += block.num_rows
    held = Counter(key for table in opened for key in table.columns if "/" in key)
    shared = [spelt[key] for key, count in held.items() if count > 1]
    return Merged(rows, len(order), len(held), shared, None if base == here else base)


def _open(path: Path) -> _Table:
    """Read the header of a table.

    Raises:
        SourceError: it can't be read, lacks a column, or has one twice.
    """
    with ExitStack() as stack:
        try:
            names = stack.enter_context(pa_csv.open_csv(path)).schema.names
            columns = {label_slug(name) if "/" in name else name: name for name in names}
        except (OSError, pa.ArrowException, RecordError) as error:
            raise _unreadable(path, error) from error
    if len(columns) < len(names):
        twice = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
        raise SourceError(f"table {path} has more than one column {', '.join(twice)}")
    missing = [name for name in _KEY if name not in columns]
    if missing:
        raise SourceError(f"table {path} has no column {' and '.join(missing)}; both tell images apart")
    return _Table(path, columns)


def _blocks(table: _Table) -> Iterator[pa.RecordBatch]:
    """The rows of a table: labels as numbers, all other cells as the texts they are."""
    kinds = {name: pa.float64() if "/" in name else pa.string() for name in table.columns.values()}
    options = pa_csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=False)
    try:
        with pa_csv.open_csv(
            table.path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        ) as reader:
            yield from reader
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(table.path, error) from error


def _moved(block: pa.RecordBatch, start: str) -> pa.RecordBatch:
    """File paths from a table's folder as paths from the new one's; absolute ones and URIs stay."""
    paths = block.column("filepath")
    if start == ".":
        return block
    moved = pc.if_else(
        pc.match_substring_regex(paths, _ABSOLUTE), paths, pc.binary_join_element_wise(start, paths, "/")
    )
    return block.set_column(block.schema.get_field_index("filepath"), "filepath", moved)


def _refuse_repeated(block: pa.RecordBatch, seen: set[bytes], path: Path) -> None:
    for dataset, filepath in zip(*(block.column(name).to_pylist() for name in _KEY), strict=True):
        key = blake2b(f"{dataset}/{normal_path(filepath)}".encode(), digest_size=16).digest()
        if key in seen:
            raise SourceError(f"{filepath} of {dataset} comes again in {path}: one image has one row")
        seen.add(key)


def _widened(block: pa.RecordBatch, table: _Table, order: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """A block with all columns of the new table; labels it lacks, or leaves blank, are 0.

    Raises:
        SourceError: a label is neither 0 nor 1.
    """

    def column(key: str) -> pa.Array:
        name = table.columns.get(key)
        if "/" not in key:
            return pa.repeat("", block.num_rows) if name is None else block.column(name)
        values = pa.repeat(0.0, block.num_rows) if name is None else block.column(name).fill_null(0.0)
        wrong = values.filter(pc.invert(pc.is_in(values, pa.array([0.0, 1.0]))))
        if len(wrong):
            raise SourceError(f"label {name} is {wrong[0].as_py():g} in {table.path}, not 0 or 1")
        return values.cast(pa.int8())

    return pa.record_batch([column(key) for key in order], schema=schema)


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"can't read the table {path}: {one_line(error)}")
