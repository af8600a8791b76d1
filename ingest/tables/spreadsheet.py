"""The first sheet of an Excel workbook (.xlsx) that holds anything."""

import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cbmir.errors import SourceError, one_line
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
    with _workbook(path, limits) as book:
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
    with _workbook(path, limits) as book:
        for number, cells in enumerate(book[sheet].iter_rows(values_only=True)):
            if number >= MAX_ROWS:
                raise SourceError(f"the table {path} is damaged: sheet {sheet} says it has over {MAX_ROWS:,} rows")
            told += _CELL_BYTES * (len(cells) + 1)
            limits.check_bytes(told, f"table {path} ")
            if any(cell is not None for cell in cells):
                yield list(cells)


def formulas_without_value(path: Path, sheet: str, limits: Limits) -> Counter[int]:
    """Cells of each column, by its place, whose formula has no stored value: they read as empty.

    Programs that write workbooks without calculating them leave such cells; Excel and LibreOffice store the values.

    Raises:
        SourceError: as `rows_of`.
    """
    found: Counter[int] = Counter()
    if not _has_formulas(path):
        return found
    with _workbook(path, limits) as values, _workbook(path, limits, formulas=True) as formulas:
        both = zip(values[sheet].iter_rows(values_only=True), formulas[sheet].iter_rows(values_only=True), strict=False)
        for read, written in both:
            for place, (value, text) in enumerate(zip(read, written, strict=False)):
                found[place] += value is None and text is not None
    return +found


def _has_formulas(path: Path) -> bool:
    """Whether a sheet of the workbook has any; its text is looked through, which is fast."""
    with zipfile.ZipFile(path) as parts:
        for name in parts.namelist():
            if name.startswith("xl/worksheets/"):
                last = b""
                with parts.open(name) as file:
                    while part := file.read(1 << 20):
                        if b"<f>" in (text := last + part) or b"<f " in text:
                            return True
                        last = part[-2:]
    return False


@contextmanager
def _workbook(path: Path, limits: Limits, *, formulas: bool = False) -> Iterator[Any]:
    """An open workbook, read a row at a time; whatever goes wrong with it is a `SourceError`."""
    import openpyxl  # takes a tenth of a second

    try:
        with zipfile.ZipFile(path) as parts:  # no part unpacks to more than it says
            limits.check_bytes(sum(part.file_size for part in parts.infolist()), f"table {path} ")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats and extensions, not about values
            book = openpyxl.load_workbook(path, read_only=True, data_only=not formulas)
        with closing(book):
            yield book
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # openpyxl raises whatever it likes on damaged XML
        reason = one_line(error)
        raise SourceError(f"can't read the table {path}: {reason}") from error
