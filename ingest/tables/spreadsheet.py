"""The first sheet of an Excel workbook (.xlsx) that holds anything."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cbmir.errors import SourceError
from cbmir.limits import Limits

SUFFIXES = (".xlsx", ".xlsm")
MAX_ROWS = 1_048_576
"""Of a sheet, by the format; a row may say that it is a later one, and then all before it are empty."""
_CELL_BYTES = 8


def sheets_of(path: Path, limits: Limits) -> list[str]:
    """The sheets that hold more than one row, in order.

    Raises:
        SourceError: it is no workbook, none of its sheets holds rows, or it unpacks to more bytes than the limit.
    """
    with _Workbook(path, limits) as book:
        names = [sheet.title for sheet in book.worksheets if (sheet.max_row or 2) > 1]
    if not names:
        raise SourceError(f"can't read the table {path}: no sheet of it holds rows below a header")
    return names


def rows_of(path: Path, sheet: str, limits: Limits) -> Iterator[list[Any]]:
    """The header and the rows of a sheet, formulas as their last values; empty rows are passed over.

    Raises:
        SourceError: it is no workbook, or larger than the limit or the format lets it be.
    """
    told = 0
    with _Workbook(path, limits) as book:
        for number, cells in enumerate(book[sheet].iter_rows(values_only=True)):
            if number >= MAX_ROWS:
                raise SourceError(f"the table {path} is damaged: sheet {sheet} says it has over {MAX_ROWS:,} rows")
            told += _CELL_BYTES * (len(cells) + 1)
            limits.check_bytes(told, f"table {path} ")
            if any(cell is not None for cell in cells):
                yield list(cells)


class _Workbook:
    """An open workbook, read a row at a time."""

    def __init__(self, path: Path, limits: Limits) -> None:
        import zipfile

        import openpyxl  # takes a tenth of a second
        from openpyxl.utils.exceptions import InvalidFileException

        try:
            with zipfile.ZipFile(path) as parts:  # no part unpacks to more than it says
                limits.check_bytes(sum(part.file_size for part in parts.infolist()), f"table {path} ")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats and extensions, not about values
                self._book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, InvalidFileException) as error:
            raise SourceError(f"can't read the table {path}: {' '.join(str(error).split())[:200]}") from error

    def __enter__(self) -> Any:
        return self._book

    def __exit__(self, *_: object) -> None:
        self._book.close()
