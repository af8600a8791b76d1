"""Conditions checked against a collection: which of its values they mean."""

import difflib
import operator
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from cbmir.aliases import field_of, plain
from cbmir.errors import FilterError, RecordError
from cbmir.filters.conditions import EXTRA, ORDER, Condition, Value, Where, own_column
from cbmir.modalities import modality_code
from cbmir.schema import FIELDS, INDEXED_FIELDS, canonical, slug

NAMED = 20
"""How many existing values a message names."""

_SPELT = ("modality", "labels", "primary_label", "split", "sex")
"""Fields of which older collections may hold other spellings, such as ``MRI`` for ``MR``."""

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


class Countable(Protocol):
    """What `resolve` asks of a collection."""

    @property
    def name(self) -> str:
        """Named in messages."""

    def holds(self, field: str, value: Value) -> bool:
        """Whether any point has the value."""

    def stored_values(self, field: str) -> Mapping[str, int]:
        """How many points have each value of a field."""

    def facet(self, field: str, *, limit: int | None = ...) -> dict[str, int]:
        """The same of the most frequent values, `limit` at most."""

    def recount(self) -> None:
        """Forget what was counted earlier."""

    def own_index(self, field: str) -> Literal["keyword", "float"] | None:
        """The index that holds all values of an own column, if it has one."""

    def own_values(self, field: str) -> Mapping[Value, int]:
        """How many points have each text and number of an own column."""

    def own_columns(self) -> Collection[str]:
        """The names of the own columns."""

    def read_columns(self) -> Mapping[str, str]:
        """What columns of its tables became, a payload field or ``label``, by the plain name of the column."""

    def spellings(self) -> Mapping[str, str]:
        """Other spellings of modalities that its tables were read with, and their codes."""


def resolve(where: Where, collection: Countable) -> Where:
    """Check values against a collection and expand globs to the values that exist.

    Raises:
        FilterError: a value or glob meets nothing that is stored; the message names values that exist. Or there is no
            such own column; the message names those that are near.
    """
    try:
        return tuple(_resolve(condition, collection) for condition in where)
    except FilterError:  # another process may have stored by now what wasn't there when it was counted
        collection.recount()
        return tuple(_resolve(condition, collection) for condition in where)


def check_column(name: str, collection: Countable) -> None:
    """Refuse a name that is neither a payload field nor an own column of a collection.

    Raises:
        FilterError: it isn't; the message names those that are near, or those there are.
    """
    own = collection.own_columns()
    if name in FIELDS or name.removeprefix(EXTRA) in own:
        return
    known = {item.casefold(): item for item in (*own, *(item.name for item in INDEXED_FIELDS))}
    near = [known[item] for item in difflib.get_close_matches(name.removeprefix(EXTRA).casefold(), known, 3, 0.6)]
    fields = {plain(item.name): item.name for item in INDEXED_FIELDS}
    field = collection.read_columns().get(plain(name)) or fields.get(plain(name)) or field_of(name)
    if field == "label":
        raise FilterError(f"{name} is no column of {collection.name} but a label: write pathology={_last(name)}")
    near = [field] if field in FIELDS and FIELDS[field].indexed else near
    there = f"did you mean {' or '.join(near)}?" if near else f"own columns are {_listed(own) or 'none'}"
    if not near:
        there += f"; payload fields are {', '.join(item.name for item in INDEXED_FIELDS)}"
    raise FilterError(f"no field or column {name!r} in {collection.name}; {there}")


def check_countable(name: str, collection: Countable) -> None:
    """Refuse a name whose values can't be counted.

    Raises:
        FilterError: it is no field or column, or neither a keyword field nor a column with an index.
    """
    check_column(name, collection)
    keywords = [item.name for item in INDEXED_FIELDS if item.kind == "keyword"]
    if name in FIELDS and name not in keywords:
        raise FilterError(f"the values of {name} can't be counted; those of {', '.join(keywords)} can")


def _resolve(condition: Condition, collection: Countable) -> Condition:
    if own_column(condition.field) is not None:
        return _resolve_own(condition, collection)
    if condition.field == "id" or FIELDS[condition.field].kind != "keyword":
        return condition
    if condition.op == "~":
        globs = [str(value) for value in condition.values]
        existing = collection.stored_values(condition.field)
        matched = tuple(value for value in existing if _fits(value, globs))
        if not matched:
            raise FilterError(_unknown(condition.field, "|".join(globs), collection.name, existing))
        return Condition(condition.field, "=", matched)
    if condition.whole is not None and collection.holds(condition.field, condition.whole):
        return _as_whole(condition, condition.whole, collection)
    met = tuple(spelling for value in condition.values for spelling in _stored(condition.field, value, collection))
    return Condition(condition.field, condition.op, met)


def _resolve_own(condition: Condition, collection: Countable) -> Condition:
    """A condition on an own column, with the values as they are stored."""
    name = own_column(condition.field) or ""
    index = collection.own_index(condition.field)
    if condition.op in ORDER and index == "float":
        return condition
    stored = collection.own_values(condition.field)
    if not stored:
        check_column(name, collection)
        raise FilterError(f"the column {name} of {collection.name} holds neither texts nor numbers")
    if condition.op in ORDER:
        return _in_order(condition, stored, name)
    if condition.op == "~":
        globs = [str(value) for value in condition.values]
        matched = tuple(value for value in stored if _fits(text_of_value(value), globs))
        if not matched:
            raise FilterError(_unknown(name, "|".join(globs), collection.name, map(text_of_value, stored)))
        return Condition(condition.field, "=", matched)
    parts = {value: _same(str(value), stored) for value in condition.values}
    whole = None if condition.whole is None else _same(str(condition.whole), stored)
    if whole and any(parts.values()):
        raise _ambiguous(condition, str(condition.whole))
    for value, same in parts.items():
        if not (same or whole):
            raise FilterError(_unknown(name, str(value), collection.name, map(text_of_value, stored)))
    return Condition(condition.field, condition.op, whole or tuple(item for same in parts.values() for item in same))


def _in_order(condition: Condition, stored: Collection[Value], name: str) -> Condition:
    bound = float(condition.values[0])
    texts = {value: number for value in stored if isinstance(value, str) and (number := _number(value)) is not None}
    numbers = any(not isinstance(value, str) for value in stored)
    if not (texts or numbers):
        shown = _listed(map(text_of_value, stored))
        raise FilterError(f"the column {name} holds no numbers but {shown}; it takes = != ~, not {condition.op}")
    also = tuple(text for text, number in texts.items() if _COMPARE[condition.op](number, bound))
    if also and not numbers:
        return Condition(condition.field, "=", also)
    return Condition(condition.field, condition.op, condition.values, also=also)


def text_of_value(value: Value) -> str:
    """A text or number of an own column as people write it: a whole number without ``.0``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _same(text: str, stored: Collection[Value]) -> tuple[Value, ...]:
    """The stored texts that are this text, and the stored numbers that are this number."""
    number = _number(text)
    return tuple(
        value
        for value in stored
        if (unicodedata.normalize("NFC", value.strip()) == text if isinstance(value, str) else value == number)
    )


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _fits(value: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(slug(value), slug(glob)) for glob in globs)


def _as_whole(condition: Condition, whole: Value, collection: Countable) -> Condition:
    """A condition of several values as that of the one stored value with bars, unless the parts are stored too.

    Raises:
        FilterError: they are.
    """
    if any(collection.holds(condition.field, value) for value in condition.values):
        raise _ambiguous(condition, str(whole))
    return Condition(condition.field, condition.op, (whole,))


def _ambiguous(condition: Condition, whole: str) -> FilterError:
    name, escaped = condition.field, whole.replace("|", r"\|")
    return FilterError(
        f"{name}{condition.op}{whole} may mean the stored value {whole!r} or any of "
        f"{', '.join(map(str, condition.values))}; write '{name}{condition.op}{escaped}' for the one, "
        f"'{name}~{whole}' for any"
    )


def _stored(name: str, value: Value, collection: Countable) -> tuple[Value, ...]:
    """The stored spellings of a value.

    Raises:
        FilterError: there is none.
    """
    found: tuple[Value, ...] = ()
    if name in _SPELT:
        more = collection.spellings()
        wanted = _canonical_or_same(name, str(value), more)
        stored = collection.stored_values(name)
        found = tuple(item for item in stored if _canonical_or_same(name, item, more) == wanted)
    elif collection.holds(name, value):
        found = (value,)
    if not found:
        raise FilterError(_unknown(name, str(value), collection.name, collection.facet(name, limit=NAMED + 1)))
    return found


def _canonical_or_same(name: str, text: str, more: Mapping[str, str]) -> str:
    with suppress(RecordError):  # stored by another program
        text = canonical(name, text)
    first, slash, rest = text.partition("/")
    return modality_code(first, more) + slash + rest if name == "modality" or slash else text


def _unknown(field: str, value: str, collection: str, existing: Iterable[str]) -> str:
    names = _listed(existing)
    if not names:
        return f"no image of {collection} has the field {field}"
    return f"no {field} {value!r} in {collection}; there are {names}"


def _last(label: str) -> str:
    return slug(label.rpartition("/")[2])


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:NAMED]) + (", ..." if len(first) > NAMED else "")
