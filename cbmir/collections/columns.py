"""Own columns of a collection: indexes for them, and what is known of the sources they came from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cbmir.errors import FilterError
from cbmir.filters import check_column, own_field
from cbmir.schema import FIELDS
from cbmir.store import Collection
from cbmir.store.columns import index_kind
from cbmir.units import counted

_KINDS = {"keyword": "text", "float": "number"}


def index_columns(collection: Collection, names: Sequence[str]) -> list[str]:
    """Make payload indexes for own columns, of texts or of numbers as their values are.

    Args:
        collection: Open.
        names: Of own columns, with or without ``extra.``.

    Returns:
        A line each, for people.

    Raises:
        FilterError: there is no such column, or it holds nothing that an index finds; then no index is made.
    """
    values = {}
    for name in names:
        if name in FIELDS:
            raise FilterError(f"{name} is a payload field, which has its index by itself; own columns need one")
        values[name] = collection.own_values(own_field(name))
        if not values[name]:
            check_column(name, collection)
            raise FilterError(f"the column {name} of {collection.name} holds neither texts nor numbers")
    return [_indexed(collection, name, tuple(found)) for name, found in values.items()]


def source_lines(sources: Mapping[str, Any], spellings: Mapping[str, str]) -> Iterator[str]:
    """For people: how each source was read, in a few lines."""
    for name, reading in sources.items():
        tally = reading.get("tally", {})
        yield f"read from {name}: {counted(int(tally.get('images', 0)), 'image')}, {reading.get('form', '')}"
        fields = [f"{item['name']} is {item['became']}" for item in reading.get("columns", ()) if _is_field(item)]
        if fields:
            yield f"  {', '.join(fields)}"
        yield f"  labels: {reading.get('label_rule', '')}"
    if spellings:
        yield f"further modalities: {', '.join(f'{text} is {code}' for text, code in spellings.items())}"


def _indexed(collection: Collection, name: str, values: Sequence[Any]) -> str:
    kind = index_kind(values)
    collection.make_index(own_field(name), kind)
    numbers = sum(not isinstance(value, str) for value in values)
    mixed = kind == "keyword" and numbers
    note = f"; {counted(numbers, 'number')} among them are not in it, so that filters read all images" if mixed else ""
    return f"{name}: an index of {counted(len(values) - (numbers if mixed else 0), _KINDS[kind])}{note}"


def _is_field(column: Mapping[str, Any]) -> bool:
    return column.get("became") not in ("extra", "ignored", "label")
