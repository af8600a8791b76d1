r"""The filter language: ``age_years<60``, ``sex=F``, ``view!=lateral``, ``labels~XR/chest/*``, ``modality=CT|MR``.

A filter is a tuple of conditions that must all hold. A list field satisfies ``=`` and ``~`` when one of its values
does; a glob pays no heed to case. ``!=`` also passes images that lack the field; an order (``<``, ``<=``, ``>``,
``>=``) never does. A bar in a value is written ``\|``; a value that holds one is found without the backslash too.
"""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from cbmir.errors import FilterError, RecordError
from cbmir.modalities import modality_code
from cbmir.schema import FIELDS, INDEXED_FIELDS, PayloadField, label_slug, slug

if TYPE_CHECKING:
    import qdrant_client.models
    import qdrant_edge

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~"]
Value = str | int | float
NAMED = 20
"""How many existing values a message names."""

_INT64 = range(-(2**63), 2**63)
_ORDER = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_BAR = re.compile(r"(?<!\\)\|")
_SPELT = ("modality", "labels", "primary_label")
"""Fields of which older collections may hold other spellings, such as ``MRI`` for ``MR``."""

_CONDITION = re.compile(r"\s*(?P<field>\w+)\s*(?P<op>!=|<=|>=|=|<|>|~)\s*(?P<value>.*\S)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one payload field, or on the point's ``id``.

    Attributes:
        field: An indexed payload field, or ``id`` with ``=`` or ``!=``.
        op: ``=`` any of the values, ``!=`` none of them, an order, or ``~`` a glob.
        values: One value, or several for ``=``, ``!=`` and ``~``.
        whole: What was written as several values, as one value that holds bars; `resolve` finds out which is meant.

    Raises:
        FilterError: the field doesn't exist or doesn't take the operator.
    """

    field: str
    op: Op
    values: tuple[Value, ...]
    whole: Value | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.field == "id":
            if self.op not in ("=", "!="):
                raise FilterError(f"id takes = and !=, not {self.op}")
            return
        field = _indexed(self.field)
        if self.op not in _ops(field):
            raise FilterError(f"{field.name} is a {field.kind} field; it takes {' '.join(_ops(field))}, not {self.op}")
        if not self.values or (self.op in _ORDER and len(self.values) != 1):
            raise FilterError(f"{field.name} {self.op} needs one value")


Where = tuple[Condition, ...]


class Countable(Protocol):
    """What `resolve` asks of a collection."""

    @property
    def name(self) -> str:
        """Named in messages."""

    def count(self, where: Where = ()) -> int:
        """How many points satisfy all conditions."""

    def facet(self, field: str, where: Where = (), *, limit: int | None = ...) -> dict[str, int]:
        """How many points have each value of a field."""


def parse(text: str) -> Condition:
    r"""Read one condition as people write it.

    Args:
        text: Field, operator, value; ``|`` stands between several values of ``=``, ``!=`` and ``~``, and ``\|`` for a
            bar in a value.

    Raises:
        FilterError: the text isn't a condition, or names an unknown field, operator or unfit value.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise FilterError(f"can't read the condition {text!r}; write e.g. sex=F, age_years<60 or labels~XR/chest/*")
    field = _indexed(match["field"])
    op = cast("Op", match["op"])
    parts = [match["value"]] if op in _ORDER else _BAR.split(match["value"])
    parts = [part.replace("\\|", "|") for part in parts]
    read = str.strip if op == "~" else partial(_typed, field)  # half a label isn't a label: globs stay as they are
    whole = _typed(field, "|".join(parts)) if len(parts) > 1 and op != "~" and field.kind == "keyword" else None
    return Condition(field.name, op, tuple(read(part) for part in parts), whole)


def any_of(field: str, values: Iterable[str]) -> Where:
    """The condition behind a repeatable option such as ``--modality CT --modality MR``; none for no value."""
    typed = tuple(_typed(_indexed(field), value) for value in values)
    return (Condition(field, "=", typed),) if typed else ()


def canonical(field: str, text: str) -> str:
    """A value the way it is stored, in NFC: modality by its code, regions, pathologies and labels as slugs.

    Raises:
        RecordError: a label has an empty part.
    """
    if field == "modality":
        return modality_code(text)
    if field in ("anatomic_region", "pathology"):
        return slug(text)
    if field in ("labels", "primary_label"):
        return label_slug(text)
    return unicodedata.normalize("NFC", text.strip())


def resolve(where: Where, collection: Countable) -> Where:
    """Check values against a collection and expand globs to the values that exist.

    Raises:
        FilterError: a value or glob meets nothing that is stored; the message names values that exist.
    """
    return tuple(_resolve(condition, collection) for condition in where)


def to_edge(where: Where) -> "qdrant_edge.Filter | None":
    """The filter of the embedded engine; None for no condition."""
    import qdrant_edge as q

    def has_id(ids: Sequence[Value]) -> Any:
        return q.HasIdCondition({str(id) for id in ids})

    built: q.Filter | None = _build(
        where, _Dialect(q.Filter, q.FieldCondition, q.MatchAny, q.RangeFloat, q.RangeDateTime, has_id)
    )
    return built


def to_qdrant(where: Where) -> "qdrant_client.models.Filter | None":
    """The filter of qdrant-client; None for no condition."""
    from qdrant_client import models as q

    def has_id(ids: Sequence[Value]) -> Any:
        return q.HasIdCondition(has_id=[str(id) for id in ids])

    built: q.Filter | None = _build(
        where, _Dialect(q.Filter, q.FieldCondition, q.MatchAny, q.Range, q.DatetimeRange, has_id)
    )
    return built


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The names one client library gives to the parts of a filter."""

    filter: Any
    field: Any
    match_any: Any
    range: Any
    date_range: Any
    has_id: Any


def _build(where: Where, dialect: _Dialect) -> Any:
    if not where:
        return None
    must = [_condition(item, dialect) for item in where if item.op != "!="]
    must_not = [_condition(item, dialect) for item in where if item.op == "!="]
    return dialect.filter(must=must or None, must_not=must_not or None)


def _condition(item: Condition, dialect: _Dialect) -> Any:
    if item.field == "id":
        return dialect.has_id(item.values)
    if item.op == "~":
        raise FilterError(f"the pattern {item.values[0]!r} was not resolved against a collection")
    kind = FIELDS[item.field].kind
    if kind in ("keyword", "integer") and item.op in ("=", "!="):
        return dialect.field(key=item.field, match=dialect.match_any(any=list(item.values)))
    make = dialect.date_range if kind == "datetime" else dialect.range
    if item.op in _ORDER:
        return dialect.field(key=item.field, range=make(**{_ORDER[item.op]: item.values[0]}))
    either = [dialect.field(key=item.field, range=make(gte=value, lte=value)) for value in item.values]
    return either[0] if len(either) == 1 else dialect.filter(should=either)


def _indexed(name: str) -> PayloadField:
    field = FIELDS.get(name)
    if field is None or not field.indexed:
        known = ", ".join(item.name for item in INDEXED_FIELDS)
        raise FilterError(f"no field {name!r} to filter by; there are {known}")
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
        raise FilterError(f"{text!r} is no {field.kind} for {field.name}: {error}") from error


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


def _resolve(condition: Condition, collection: Countable) -> Condition:
    if condition.field == "id" or FIELDS[condition.field].kind != "keyword":
        return condition
    if condition.op == "~":
        existing = collection.facet(condition.field)
        globs = [str(value) for value in condition.values]
        matched = tuple(value for value in existing if any(fnmatchcase(slug(value), slug(glob)) for glob in globs))
        if not matched:
            raise FilterError(_unknown(condition.field, "|".join(globs), collection.name, existing))
        return Condition(condition.field, "=", matched)
    if condition.whole is not None and _is_stored(condition.field, condition.whole, collection):
        return _as_whole(condition, condition.whole, collection)
    met = tuple(spelling for value in condition.values for spelling in _stored(condition.field, value, collection))
    return Condition(condition.field, condition.op, met)


def _is_stored(name: str, value: Value, collection: Countable) -> bool:
    return collection.count((Condition(name, "=", (value,)),)) > 0


def _as_whole(condition: Condition, whole: Value, collection: Countable) -> Condition:
    """A condition of several values as that of the one stored value with bars, unless the parts are stored too.

    Raises:
        FilterError: they are.
    """
    name, parts = condition.field, condition.values
    if any(_is_stored(name, value, collection) for value in parts):
        escaped = str(whole).replace("|", r"\|")
        raise FilterError(
            f"{name}{condition.op}{whole} may mean the stored value {str(whole)!r} or any of "
            f"{', '.join(map(str, parts))}; write '{name}{condition.op}{escaped}' for the one, '{name}~{whole}' for any"
        )
    return Condition(name, condition.op, (whole,))


def _stored(name: str, value: Value, collection: Countable) -> tuple[Value, ...]:
    """The stored spellings of a value.

    Raises:
        FilterError: there is none.
    """
    found: tuple[Value, ...] = ()
    if name in _SPELT:
        found = tuple(stored for stored in collection.facet(name) if _canonical_or_same(name, stored) == value)
    elif _is_stored(name, value, collection):
        found = (value,)
    if not found:
        raise FilterError(_unknown(name, str(value), collection.name, collection.facet(name, limit=NAMED + 1)))
    return found


def _canonical_or_same(name: str, stored: str) -> Value:
    with suppress(RecordError):  # stored by another program
        return canonical(name, stored)
    return stored


def _unknown(field: str, value: str, collection: str, existing: Mapping[str, int]) -> str:
    if not existing:
        return f"no image of {collection} has the field {field}"
    names = ", ".join(list(existing)[:NAMED]) + (", ..." if len(existing) > NAMED else "")
    return f"no {field} {value!r} in {collection}; there are {names}"
