"""The first sheet of an Excel workbook (.xlsx) that holds anything."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cbmir.errors import SourceError

SUFFIXES = (".xlsx", ".xlsm")


def sheets_of(path: Path) -> list[str]:
    """The sheets that hold more than one row, in order.

    Raises:
        SourceError: it is no workbook, or none of its sheets holds rows.
    """
    with _Workbook(path) as book:
        names = [sheet.title for sheet in book.worksheets if (sheet.max_row or 2) > 1]
    if not names:
        raise SourceError(f"can't read the table {path}: no sheet of it holds rows below a header")
    return names


def rows_of(path: Path, sheet: str) -> Iterator[list[Any]]:
    """The header and the rows of a sheet, formulas as their last values; empty rows are passed over.

    Raises:
        SourceError: it is no workbook.
    """
    with _Workbook(path) as book:
        for cells in book[sheet].iter_rows(values_only=True):
            if any(cell is not None for cell in cells):
                yield list(cells)


class _Workbook:
    """An open workbook, read a row at a time."""

    def __init__(self, path: Path) -> None:
        import zipfile

        import openpyxl  # takes a tenth of a second
        from openpyxl.utils.exceptions import InvalidFileException

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats and extensions, not about values
                self._book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, InvalidFileException) as error:
            raise SourceError(f"can't read the table {path}: {' '.join(str(error).split())[:200]}") from error

    def __enter__(self) -> Any:
        return self._book

    def __exit__(self, *_: object) -> None:
        self._book.close()
