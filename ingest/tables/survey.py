"""One pass over a table, before anything is done with it: what its columns hold, and what follows for reading it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from cbmir.aliases import is_of_patients
from cbmir.errors import SourceError
from cbmir.ingest.tables.columns import EXTRA, IGNORED, LABEL, NAMED, assign
from cbmir.ingest.tables.findings import is_finding
from cbmir.ingest.tables.labels import UNCERTAIN, Splitter, asked_for, flag_of, is_flag_column
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.rows import CHUNK_ROWS, BrokenRow, TableFile
from cbmir.ingest.tables.values import AmbiguousDateError, text_of, value_of
from cbmir.modalities import modality_code

SHOWN = 3
"""Values of a column that are shown."""

_KEPT = 1000
"""Distinct values that are counted of a column which is no field: enough to see that it holds 0 and 1."""


@dataclass(slots=True)
class Held:
    """What a column holds.

    Attributes:
        first: Its first distinct values.
        empty: Rows without a value.
        types: Of its cells.
        counts: Rows by value; None where there are too many values.
    """

    first: list[str] = field(default_factory=list)
    empty: int = 0
    types: set[type] = field(default_factory=set)
    counts: Counter[str] | None = field(default_factory=Counter)

    def add(self, cells: Sequence[Any], keep_all: bool) -> None:
        """Count more cells."""
        types = set(map(type, cells))
        self.types |= types
        found: Counter[str] = Counter()
        if types <= {str}:  # the same cells come again and again
            for cell, count in Counter(cells).items():
                found[text_of(cell)] += count
        else:
            found.update(map(_shown, cells))
        self.empty += found.pop("", 0)
        for value in islice(found, SHOWN - len(self.first) if len(self.first) < SHOWN else 0):
            if value not in self.first:
                self.first.append(value)
        if self.counts is not None:
            self.counts.update(found)
            if not keep_all and len(self.counts) > _KEPT:
                self.counts = None

    @property
    def lists(self) -> bool:
        """Whether cells are lists, as in Parquet."""
        return list in self.types

    @property
    def numbers(self) -> bool:
        """Whether all values are numbers by their type, as in Parquet and workbooks."""
        return bool(self.first) and self.types <= {int, float, type(None)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table is read.

    Attributes:
        file: The table.
        became: By place, what a column is: a field, `LABEL`, `EXTRA` or `IGNORED`.
        held: By place, what it holds.
        splitters: By place of a column of labels, what takes its cells apart.
        values: By field, the values by the text in the table; None for a text that can't be read.
        warnings: What may not be as the user means it.
        rows: Rows that can be read.
        broken: Rows that can't.
    """

    file: TableFile
    became: list[str]
    held: list[Held]
    splitters: dict[int, Splitter]
    values: dict[str, dict[str, str | None]]
    warnings: list[str]
    rows: int
    broken: int

    def places(self, role: str) -> list[int]:
        """The columns that became this."""
        return [place for place, became in enumerate(self.became) if became == role]


def survey(file: TableFile, options: TableOptions) -> Plan:
    """Read a table once and decide how it is read.

    Raises:
        SourceError: it breaks off; a quote swallows rows; columns are missing, double or can't be what they are said to
            be; dates are ambiguous; or reading it goes beyond a limit.
    """
    became = assign(file.names, options.columns, file.path)
    with file.held():
        return _survey(file, became, options)


def _survey(file: TableFile, became: list[str], options: TableOptions) -> Plan:
    held = [Held() for _ in file.names]
    rows = broken = 0
    for chunk in _chunks(file):
        good = [row for row in chunk if not isinstance(row, BrokenRow)]
        rows += len(good)
        broken += len(chunk) - len(good)
        for place, cells in enumerate(zip(*(row[: len(held)] for row in good), strict=True)):
            if became[place] != "filepath":
                held[place].add(cells, became[place] not in (EXTRA, IGNORED, LABEL))
            else:
                held[place].add(cells, keep_all=False)
    warnings = _label_columns(file, became, held, options)
    splitters = {
        place: Splitter((held[place].counts or ()) if not held[place].lists else (), options)
        for place, role in enumerate(became)
        if role == "labels"
    }
    values = {
        role: _values(file, file.names[place], role, held[place].counts or Counter(), options)
        for place, role in enumerate(became)
        if role not in (EXTRA, IGNORED, LABEL, "labels", "filepath", "dataset")
    }
    return Plan(file, became, held, splitters, values, warnings, rows, broken)


def _chunks(file: TableFile) -> Iterator[list[Sequence[Any] | BrokenRow]]:
    rows = iter(file)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def _shown(cell: Any) -> str:
    if isinstance(cell, list | tuple):
        return "|".join(text for part in cell if (text := text_of(part)))
    return text_of(cell)


def _label_columns(file: TableFile, became: list[str], held: list[Held], options: TableOptions) -> list[str]:
    """Settle which columns are labels; what is left of those that hold 0 and 1 only is a warning."""
    warnings = []
    flagged: list[str] = []
    others: dict[str, str] = {}
    for place, name in enumerate(file.names):
        values = held[place].counts
        flags = values is not None and is_flag_column(values)
        if name in options.columns:
            continue
        if asked_for(name, options):
            if became[place] not in (EXTRA, IGNORED, LABEL):
                raise SourceError(
                    f"--label-columns: {name} is {became[place]} already; give --column '{name}=extra' too"
                )
            wrong = next((value for value in values or held[place].first if flag_of(value) is None), None)
            if wrong is not None:
                raise SourceError(f"--label-columns: {name} holds {wrong!r}, not 0, 1, -1, yes, no or blank")
            became[place] = LABEL
        elif became[place] == LABEL and held[place].first and not any(map(flag_of, held[place].first)):
            became[place] = EXTRA
            shown = ", ".join(held[place].first)
            warnings.append(f"column {name} has a slash but is no label, for it holds {shown}: kept under extra")
        elif became[place] == EXTRA and is_finding(name) and (flags or not held[place].first):
            became[place] = LABEL
        elif became[place] == EXTRA and is_finding(name):
            others[name] = next(value for value in values or held[place].first if flag_of(value) is None)
        elif became[place] == EXTRA and flags and not is_of_patients(name):
            flagged.append(name)
    warnings += _unclaimed(flagged, others)
    _check_patterns(file, options)
    return warnings


def _unclaimed(flagged: Sequence[str], others: Mapping[str, str]) -> Iterator[str]:
    """What to do about columns that may be labels and aren't taken.

    Args:
        flagged: Those that hold 0 and 1 only.
        others: Those that are named like findings, and a value that is no flag.
    """
    if flagged:
        named = ",".join(flagged[:NAMED])
        more = f" and {len(flagged) - NAMED} more" if len(flagged) > NAMED else ""
        yield (
            "columns that hold only 0 and 1 but are no known findings are kept under extra: "
            f"{', '.join(flagged[:NAMED])}{more}. If they are labels, give --label-columns '{named}'"
        )
    if others:
        shown = ", ".join(f"{name} ({value})" for name, value in list(others.items())[:NAMED])
        yield (
            "columns that are named like findings hold other values than 0, 1, -1, yes and no, and are no labels: "
            f"{shown}. If they are labels, write such values; if not, give for example --column "
            f"'{next(iter(others))}=extra'"
        )


def _check_patterns(file: TableFile, options: TableOptions) -> None:
    for pattern in options.label_columns:
        alone = TableOptions(label_columns=(pattern,))
        if not any(asked_for(name, alone) for name in file.names):
            there = ", ".join(file.names[:NAMED])
            raise SourceError(f"--label-columns: no column {pattern} in {file.path}; its columns are {there}")


def _values(
    file: TableFile, name: str, role: str, counts: Counter[str], options: TableOptions
) -> dict[str, str | None]:
    said = options.values.get(role, {})
    values: dict[str, str | None] = {}
    for text in counts:
        try:
            meant = modality_code(text, said) if role == "modality" else said.get(text.casefold(), text)
            values[text] = value_of(role, meant, options.date_format)
        except AmbiguousDateError as error:
            raise SourceError(
                f"table {file.path}: {name} holds {text!r}, which is no ISO date such as 2020-01-31, so that day and "
                f"month may be mixed up; say how dates are written, such as --date-format {_format_like(text)}"
            ) from error
        except ValueError:
            values[text] = None
    return values


def _format_like(date: str) -> str:
    """A format that may fit a date: with its separator, and the year where four digits are."""
    sign = next((sign for sign in date if sign in "./-"), ".")
    return f"%Y{sign}%m{sign}%d" if date[:4].isdigit() else f"%d{sign}%m{sign}%Y"


def uncertain(plan: Plan) -> int:
    """Cells of label columns that hold -1."""
    counts = [plan.held[place].counts or Counter() for place in plan.places(LABEL)]
    return sum(count for held in counts for value, count in held.items() if flag_of(value) == UNCERTAIN)
