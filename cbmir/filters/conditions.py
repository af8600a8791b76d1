"""Conditions on payload fields and own columns, and how people write them."""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal, cast, get_args

from cbmir.errors import FilterError, RecordError
from cbmir.schema import FIELDS, INDEXED_FIELDS, PayloadField, canonical
from cbmir.spellings import is_split, split_of

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~"]
Value = str | int | float

EXTRA = "extra."
"""What stands before the name of an own column in a condition's field."""

ORDER = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
"""The operators that compare, and what the engines call them."""

_INT64 = range(-(2**63), 2**63)
_TAKEN = {
    "keyword": "a text",
    "integer": "a whole number of at most 64 bits",
    "float": "a finite number such as 58 or 2.5",
    "datetime": "an ISO date such as 2020-01-31",
}
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_BAR = re.compile(r"(?<!\\)\|")
_CONDITION = re.compile(
    r'\s*(?:(?P<quoted>(?:extra\.)?"[^"]+")|(?P<field>[^\s=<>!~"][^=<>~]*?))'
    r"\s*(?P<op>!=|<=|>=|=|<|>|~)\s*(?P<value>.*\S)\s*"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one payload field, on an own column, or on the point's ``id``.

    Attributes:
        field: An indexed payload field, ``extra.`` and the name of an own column, or ``id`` with ``=`` or ``!=``.
        op: ``=`` any of the values, ``!=`` none of them, an order, or ``~`` a glob.
        values: One value, or several for ``=``, ``!=`` and ``~``.
        whole: What was written as several values, as one value that holds bars; `resolve` finds out which is meant.
        also: Texts in an own column that are numbers and satisfy the order too; `resolve` finds them.
        dataset: Data set whose values are meant, with ``=`` and ``!=`` of an id; None for those of all.

    Raises:
        FilterError: the field doesn't exist or doesn't take the operator.
    """

    field: str
    op: Op
    values: tuple[Value, ...]
    whole: Value | None = dataclasses.field(default=None, compare=False)
    also: tuple[str, ...] = ()
    dataset: str | None = None

    def __post_init__(self) -> None:
        if self.field == "id":
            if self.op not in ("=", "!="):
                raise FilterError(f"id takes = and !=, not {self.op}")
            return
        if own_column(self.field) is None:
            field = _indexed(self.field)
            if self.op not in _ops(field):
                raise FilterError(
                    f"{field.name} is a {field.kind} field; it takes {' '.join(_ops(field))}, not {self.op}"
                )
        if not self.values or (self.op in ORDER and len(self.values) != 1):
            raise FilterError(f"{self.field} {self.op} needs one value")


Where = tuple[Condition, ...]

SCOPED = ("patient_id", "study_id", "series_id")
"""Ids that may say something else in another data set, see `scope_of`."""

_KEYED = re.compile(r"[0-9a-f]{32}")


def scope_of(value: str, dataset: str | None) -> str | None:
    """The data set in which a patient, study or series id means the same; None where it does everywhere.

    Ids made by a keyed hash, of 32 hexadecimal digits, are the same person in all data sets. Others, such as ``17``,
    are numbers that each data set gives by itself.
    """
    return None if _KEYED.fullmatch(value) else dataset


def not_of(field: str, values: Iterable[tuple[str, str | None]]) -> Where:
    """Conditions that leave out some ids, each in its scope.

    Args:
        field: One of `SCOPED`.
        values: Ids, and data sets of images that have them.
    """
    by_scope: dict[str | None, set[str]] = {}
    for value, dataset in values:
        by_scope.setdefault(scope_of(value, dataset), set()).add(value)
    return tuple(
        Condition(field, "!=", tuple(sorted(ids)), dataset=dataset)
        for dataset, ids in sorted(by_scope.items(), key=lambda item: item[0] or "")
    )


def own_column(field: str) -> str | None:
    """The name of an own column; None for a payload field and for ``id``."""
    return field.removeprefix(EXTRA) if field.startswith(EXTRA) else None


def own_field(name: str) -> str:
    """The field of a condition on an own column: ``scanner`` and ``extra.scanner`` are ``extra.scanner``."""
    return EXTRA + name.removeprefix(EXTRA)


def engine_key(field: str) -> str:
    """A field as the engines name it: a name that is no plain word is put in quotes.

    Raises:
        FilterError: the name of an own column holds a sign that the engines can't take.
    """
    name = own_column(field)
    if name is None or re.fullmatch(r"[\w-]+", name):
        return field
    if '"' in name or "\\" in name:
        raise FilterError(
            f"the column {name!r} can't be filtered by: the engine takes no quotation mark and no backslash in a name"
        )
    return f'{EXTRA}"{name}"'


def parse(text: str) -> Condition:
    r"""Read one condition as people write it.

    Args:
        text: Field or own column, operator, value; ``|`` stands between several values of ``=``, ``!=`` and ``~``, and
            ``\|`` for a bar in a value.

    Raises:
        FilterError: the text isn't a condition, or names a field that can't be filtered by, an operator that the field
            doesn't take or an unfit value. Whether there is such an own column is found by `resolve`.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        meant = f"; for that split write split={split_of(text.strip())}" if is_split(text.strip()) else ""
        example = "write e.g. sex=F, age_years<60 or labels~XR/chest/*"
        raise FilterError(f"can't read the condition {text!r}; {example}{meant}")
    if match["op"] == "=" and match["value"][:1] == "=" != match["value"]:
        raise FilterError(f"can't read the condition {text!r}: write one = between field and value, as in sex=F")
    op = cast("Op", match["op"])
    parts = [match["value"]] if op in ORDER else _BAR.split(match["value"])
    parts = [part.replace("\\|", "|") for part in parts]
    if match["quoted"] or (match["field"] not in FIELDS and match["field"] != "id"):
        return _own_condition((match["quoted"] or match["field"]).replace('"', ""), op, parts)
    field = _indexed(match["field"])
    read = str.strip if op == "~" else partial(_typed, field)  # half a label isn't a label: globs stay as they are
    whole = _typed(field, "|".join(parts)) if len(parts) > 1 and op != "~" and field.kind == "keyword" else None
    return Condition(field.name, op, tuple(read(part) for part in parts), whole)


def parse_all(*texts: str) -> Where:
    """Read conditions that must all hold, in several texts or joined by ``and``, as `wording` writes them.

    An ``and`` parts two conditions only where a condition follows: ``note=fluid and air`` is one.

    Raises:
        FilterError: see `parse`.
    """
    parts: list[str] = []
    for text in texts:
        first, *others = _AND.split(text)
        parts.append(first)
        for other in others:
            if _CONDITION.fullmatch(other) and parts[-1].count('"') % 2 == 0:
                parts.append(other)
            else:
                parts[-1] += f" and {other}"
    return tuple(parse(part) for part in parts)


def wording(where: Where) -> str:
    """A filter as people write it; empty without conditions."""
    return " and ".join(
        f"{item.field}{item.op}{'|'.join(map(_escaped, item.values))}"
        + (f" of dataset {item.dataset}" if item.dataset else "")
        for item in where
    )


def _escaped(value: Value) -> str:
    return str(value).replace("|", r"\|")


SHORT = {
    "modality": "modality",
    "region": "anatomic_region",
    "pathology": "pathology",
    "dataset": "dataset",
    "split": "split",
}
"""Options that each give the values of one field, such as ``--region chest``, and that field."""


def any_of(field: str, values: Iterable[str]) -> Where:
    """The condition behind a repeatable option such as ``--modality CT --modality MR``; none for no value."""
    typed = tuple(_typed(_indexed(field), value) for value in values)
    return (Condition(field, "=", typed),) if typed else ()


def _own_condition(name: str, op: Op, parts: list[str]) -> Condition:
    field = own_field(name)
    if not own_column(field):
        raise FilterError("extra. is no column; write its name behind the dot, such as extra.scanner")
    if op in ORDER:
        try:
            return Condition(field, op, (_finite(parts[0]),))
        except ValueError as error:
            raise FilterError(f"{parts[0]!r} is no number to compare {own_column(field)} with: {error}") from error
    texts = tuple(canonical(field, part) for part in parts)
    return Condition(field, op, texts, "|".join(texts) if len(texts) > 1 and op != "~" else None)


def _indexed(name: str) -> PayloadField:
    field = FIELDS.get(name)
    if field is None or not field.indexed:
        known = ", ".join(item.name for item in INDEXED_FIELDS)
        raise FilterError(f"no field {name!r} to filter by; there are {known}, and own columns by their names")
    return field


def _ops(field: PayloadField) -> tuple[str, ...]:
    if field.kind == "keyword":
        return ("=", "!=", "~")
    return tuple(op for op in get_args(Op) if op != "~")


def _typed(field: PayloadField, text: str) -> Value:
    try:
        if field.kind == "integer":
            return _int64(text)
        if field.kind == "float":
            return _finite(text)
        if field.kind == "datetime":
            return datetime.fromisoformat(text.strip()).isoformat()  # the engines read fewer spellings than Python
        return canonical(field.name, text)
    except (ValueError, RecordError) as error:
        reason = f": {error}" if isinstance(error, RecordError) else ""
        raise FilterError(f"{field.name} takes {_TAKEN[field.kind]}, not {text!r}{reason}") from error


def _int64(text: str) -> int:
    value = int(text)
    if value not in _INT64:
        raise ValueError("it takes more than 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # the embedded engine panics at NaN
        raise ValueError("it is not finite")
    return value
