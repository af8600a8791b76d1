"""Filters in the words of the engines' clients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cbmir.errors import FilterError
from cbmir.filters.conditions import ORDER, Condition, Value, Where, engine_key, own_column
from cbmir.schema import FIELDS

if TYPE_CHECKING:
    import qdrant_client.models
    import qdrant_edge


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
    if item.dataset is not None:
        parts = (replace(item, dataset=None), Condition("dataset", "=", (item.dataset,)))
        return dialect.filter(must=[_condition(part, dialect) for part in parts])
    if item.field == "id":
        return dialect.has_id(item.values)
    if item.op == "~":
        raise FilterError(f"the pattern {item.values[0]!r} was not resolved against a collection")
    if own_column(item.field) is not None:
        return _own(item, dialect)
    kind = FIELDS[item.field].kind
    if kind in ("keyword", "integer") and item.op in ("=", "!="):
        return dialect.field(key=item.field, match=dialect.match_any(any=list(item.values)))
    make = dialect.date_range if kind == "datetime" else dialect.range
    if item.op in ORDER:
        return dialect.field(key=item.field, range=make(**{ORDER[item.op]: item.values[0]}))
    return _any_of([dialect.field(key=item.field, range=make(gte=value, lte=value)) for value in item.values], dialect)


def _own(item: Condition, dialect: _Dialect) -> Any:
    """A condition on an own column, which may hold texts, numbers and lists of them."""
    key = engine_key(item.field)
    order = ORDER.get(item.op)
    texts = item.also if order else tuple(value for value in item.values if isinstance(value, str))
    either = [dialect.field(key=key, match=dialect.match_any(any=list(texts)))] if texts else []
    if order:
        either.append(dialect.field(key=key, range=dialect.range(**{order: item.values[0]})))
    else:
        numbers = (value for value in item.values if not isinstance(value, str))
        either += [dialect.field(key=key, range=dialect.range(gte=value, lte=value)) for value in numbers]
    return _any_of(either, dialect)


def _any_of(either: list[Any], dialect: _Dialect) -> Any:
    return either[0] if len(either) == 1 else dialect.filter(should=either)
