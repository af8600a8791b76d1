"""Small CSV files that users write as rules, such as words for regions or patient ids that were merged."""

import csv
from collections.abc import Sequence
from pathlib import Path

from cbmir.errors import SourceError


def read_small_table(path: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """The rows of a CSV in UTF-8 with a header.

    A quotation mark that is never closed would swallow rows, so it is an error. Messages hold no value of the file,
    which may name patients.

    Args:
        path: The file.
        columns: Those it must have; others are left out.
        what: What it holds, for messages.

    Returns:
        A row each, its values without spaces at the ends.

    Raises:
        SourceError: the file can't be read, is badly quoted, or lacks a column.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            rows = []
            for row in reader:
                line = reader.line_num
                rows.append({column: str(row.get(column) or "").strip() for column in columns})
    except (OSError, ValueError) as error:
        raise SourceError(f"can't read {what} in {path}: {type(error).__name__}") from error
    except csv.Error as error:
        raise SourceError(f"can't read {what} in {path} after line {line}: {error}") from error
    if missing:
        raise SourceError(f"{path} holds {what} and needs the columns {' and '.join(columns)}")
    return rows
