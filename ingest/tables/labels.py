"""The labels of a row: columns that hold 0 or 1, and columns that hold labels as text or as lists."""

import ast
import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from cbmir.ingest.tables.findings import is_finding
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.values import text_of

UNCERTAIN = "-1"
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "positive", "present"), "1"),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "negative", "absent"), "0"),
    **dict.fromkeys(("-1", "-1.0"), UNCERTAIN),
}


def flag_of(text: str) -> str | None:
    """``1``, ``0`` or ``-1`` for what a label column holds; empty where it is missing, None for anything else."""
    return _FLAGS.get(text.lower()) if text else ""


def is_flag_column(values: Iterable[str]) -> bool:
    """Whether there are values, and all of them are 0, 1, -1, yes or no."""
    flags = [flag_of(value) for value in values if value]
    return bool(flags) and None not in flags


def asked_for(name: str, options: TableOptions) -> bool:
    """Whether ``--label-columns`` means this column."""
    return any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in options.label_columns)


def label_name(text: str) -> str:
    """A label as the table writes it; the slash in a finding such as ``Nodule/Mass`` is no level of a label."""
    return text.replace("/", "_") if "/" in text and is_finding(text) else text


class Splitter:
    """Takes the cells of a label column apart.

    Attributes:
        separators: Those that cells are split at.
        lists: Whether cells hold lists as programs write them, ``['mass', 'edema']``.
        held_together: A value that holds a comma at which it is not split; empty where there is none.

    Args:
        values: The distinct cells of the column.
        options: The separator, where the user says it.
    """

    def __init__(self, values: Collection[str], options: TableOptions) -> None:
        renamed = options.values.get("labels", {})
        self._renamed: Mapping[str, str] = renamed
        self.lists = any(_listed(value) is not None for value in values)
        said = options.label_separator
        found = (said,) if said else tuple(sign for sign in ("|", ";") if any(_cut(value, sign) for value in values))
        self.separators: tuple[str, ...] = found
        self.held_together = ""
        if not said and "," not in found:
            self._try_commas(values)
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, cell: Any) -> tuple[str, ...]:
        """The labels in a cell."""
        if isinstance(cell, list | tuple):
            return tuple(self._clean(text_of(part)) for part in cell if text_of(part))
        text = text_of(cell)
        if text not in self._known:
            self._known[text] = tuple(map(self._clean, self._parts(text)))
        return self._known[text]

    def _clean(self, part: str) -> str:
        return label_name(self._renamed.get(part.casefold(), part))

    def _parts(self, text: str) -> list[str]:
        listed = _listed(text)
        parts = [text] if listed is None else listed
        for sign in self.separators:
            parts = [piece for part in parts for piece in _pieces(part, sign)]
        return [part for piece in parts if (part := text_of(piece.replace("\\|", "|")))]

    def _try_commas(self, values: Collection[str]) -> None:
        whole = [part for value in values for part in self._parts(value)]
        alone = {part.casefold() for part in whole if "," not in part}
        joined = [part for part in whole if "," in part]
        if joined and all(piece.casefold() in alone for part in joined for piece in _pieces(part, ",")):
            self.separators += (",",)
        elif joined:
            self.held_together = joined[0]


def _pieces(text: str, sign: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", text) if sign == "|" else text.split(sign)
    return [part.strip() for part in parts if part.strip()]


def _cut(text: str, sign: str) -> bool:
    return len(_pieces(text, sign)) > 1


def _listed(text: str) -> list[str] | None:
    """The texts of a list as Python or JSON writes it; None for anything else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [str(part) for part in found] if isinstance(found, list) else None
