"""Own columns of a collection: which there are and what they hold, read from its images."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cbmir.filters import Value, engine_key, own_column
from cbmir.schema import StoredPoint

IndexKind = Literal["keyword", "float"]
"""Of a payload index on an own column: of texts, or of numbers."""

BATCH = 4096

Scroll = Callable[..., Iterator[list[StoredPoint]]]


@dataclass(frozen=True, slots=True)
class OwnIndex:
    """A payload index on an own column.

    Attributes:
        kind: Of what it finds.
        whole: Whether it holds every image that has the column: all its values are of its kind.
    """

    kind: IndexKind
    whole: bool


def column_values(scroll: Scroll, field: str) -> dict[Value, int]:
    """How many images have each text and number of an own column; of a list, each of its own.

    All images are read, as no engine counts values without an index.

    Args:
        scroll: Reads the images of a collection.
        field: ``extra.`` and the name of the column.
    """
    name = own_column(field) or ""
    counts: Counter[Value] = Counter()
    for points in scroll(fields=[engine_key(field)], batch=BATCH):
        for point in points:
            counts.update(set(_plain((point.payload.get("extra") or {}).get(name))))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))))


def columns(scroll: Scroll) -> dict[str, int]:
    """How many images have each own column; all images are read."""
    counts: Counter[str] = Counter()
    for points in scroll(fields=["extra"], batch=BATCH):
        for point in points:
            counts.update((point.payload.get("extra") or {}).keys())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def index_kind(values: Iterable[Value]) -> IndexKind:
    """The index that finds these values: of numbers if all are numbers, else of texts."""
    return "float" if all(not isinstance(value, str) for value in values) else "keyword"


def _plain(value: Any) -> Iterator[Value]:
    """The texts and numbers in a value; true and false are neither, because an engine can't find them."""
    if isinstance(value, list):
        for item in value:
            yield from _plain(item)
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield value


def kind_of_index(data_type: object) -> IndexKind | None:
    """The kind of an engine's payload index; None for another one."""
    kinds: Mapping[str, IndexKind] = {"keyword": "keyword", "float": "float"}
    return kinds.get(str(getattr(data_type, "value", data_type)).rpartition(".")[2].lower())
