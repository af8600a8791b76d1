"""CSV files that people open: a program for spreadsheets takes a cell such as ``=1+1`` for a formula, and runs it."""

from collections.abc import Iterable
from typing import Any

_BEGIN = tuple("=+-@＝＋－＠")


def harmless(row: Iterable[Any]) -> list[Any]:
    """A row of a CSV file; before texts that would be formulas stands an apostrophe, as people write it themselves.

    Numbers stay, also as texts, and so does a lone sign.
    """
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def _is_formula(text: str) -> bool:
    start = text.lstrip(" \t\r\n\v\f\0\"'")  # which some programs leave out
    if len(start) < 2 or not start.startswith(_BEGIN):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
