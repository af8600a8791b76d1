"""The images of several filters, read from the store in one scroll where that reads nothing that isn't needed.

A filter of the store is a list of conditions that must all hold, so that "this or that filter" is none. But filters
mostly differ in a few keyword fields, such as ``split=test`` and ``split=train``: then one wider filter, here
``split=test|train``, finds all of their images, and the payload says which image satisfies which.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.header import NO_LABEL
from cbmir.evaluate.ranking.trial import (
    PATHS,
    SCROLL_IMAGES,
    Codes,
    Held,
    Images,
    Places,
    Values,
    Vocabulary,
    packed,
    scroll,
    stacked,
    text_ids,
)
from cbmir.filters import SCOPED, Condition, Where, scope_of
from cbmir.schema import FIELDS, StoredPoint, Vectors
from cbmir.store import Collection

HELD_BYTES = 2 << 30
"""Vectors of a gallery up to this size are held in memory; of a larger one they are read again, in chunks."""

Column = tuple[str, bool]
"""A field, and whether images without a value of it get `NO_LABEL`; of an id of `SCOPED`, whether it is told apart by
data set: then its values are the id and, unless it means the same everywhere, the data set."""


@dataclass(frozen=True, slots=True)
class Table:
    """n images by rising id, each of one or several filters.

    Attributes:
        ids: (n,) the 16 bytes of each UUID.
        codes: By column, (n,) the code of its values, 0 for none.
        rows: By filter, the rows of its images, rising.
        where: A filter that these images satisfy and no others; None where several scrolls were needed.
        vectors: (m, dim) vectors of those that have them here.
        held: (m,) rows of these, rising; None for all.
    """

    ids: NDArray[np.bytes_]
    codes: Mapping[Column, Codes]
    rows: Mapping[Where, Places]
    where: Where | None
    vectors: Vectors
    held: Places | None

    def images(self, where: Where, columns: Mapping[str, Column]) -> Images:
        """The images of a filter, with their codes in some columns."""
        images = Images(self.ids, {name: self.codes[column] for name, column in columns.items()})
        rows = self.rows[where]
        return images if len(rows) == len(self.ids) else images.take(rows)

    def vectors_of(self, where: Where) -> Held | None:
        """Their vectors; None where these aren't held."""
        rows = self.rows[where]
        if self.held is None:
            return Held(self.vectors, None if len(rows) == len(self.ids) else rows)
        at = np.minimum(np.searchsorted(self.held, rows), len(self.held) - 1)
        return Held(self.vectors, at) if (self.held[at] == rows).all() else None


def read_table(
    collection: Collection,
    asked: Sequence[Where],
    searched: Sequence[Where],
    vocabularies: Mapping[Column, Vocabulary],
) -> Table:
    """Read the images of some filters.

    Args:
        collection: Where they are.
        asked: Checked filters of images whose vectors are needed.
        searched: Checked filters of galleries; together their vectors are held up to `HELD_BYTES`.
        vocabularies: The columns to read. New values are added.

    Raises:
        ProtocolError: the collection lost images meanwhile.
    """
    wheres = tuple(dict.fromkeys((*asked, *searched)))
    counts = {where: collection.count(where) for where in wheres}
    galleries = sum(counts[where] for where in wheres if where not in asked)
    vectors = galleries * collection.card.dim * 4 <= HELD_BYTES
    joint = joined(wheres, counts, collection)
    table = None
    if joint is not None:
        table = _merged([_scrolled(collection, joint, _rests(wheres, joint), vocabularies, vectors)], wheres, joint)
        if any(len(table.rows[where]) != count for where, count in counts.items()):
            table = None  # the store reads a value otherwise than we do, or is written to: it shall decide itself
    if table is None:
        parts = [_scrolled(collection, where, {where: ()}, vocabularies, vectors) for where in wheres]
        table = _merged(parts, wheres, None)
    if not len(table.ids):
        raise ProtocolError(f"{collection.name} lost its images while it was measured; start again")
    return table if vectors else _with_vectors(collection, table, asked)


def joined(wheres: Sequence[Where], counts: Mapping[Where, int], collection: Collection) -> Where | None:
    """A filter that all images of some filters satisfy, and not more others than these have in common.

    Returns:
        None where there is none, or where it can't be told from the payload which image satisfies which filter.
    """
    if len(wheres) == 1:
        return wheres[0]
    common = tuple(item for item in wheres[0] if all(item in where for where in wheres))
    rests = [tuple(item for item in where if item not in common) for where in wheres]
    if not all(_tells(item) for rest in rests for item in rest):
        return None
    joint = common
    for field in dict.fromkeys(item.field for item in rests[0]):
        named = [[item for item in rest if item.field == field and item.op == "="] for rest in rests]
        if all(named):
            values = dict.fromkeys(value for items in named for item in items for value in item.values)
            joint += (Condition(field, "=", tuple(values)),)
    return joint if collection.count(joint) <= sum(counts.values()) else None


def _tells(item: Condition) -> bool:
    """Whether an image's payload says whether it satisfies a condition, in the store's own reading."""
    return item.op in ("=", "!=") and item.field in FIELDS and FIELDS[item.field].kind == "keyword"


def _rests(wheres: Sequence[Where], joint: Where) -> dict[Where, Where]:
    """By filter, the conditions that the joint filter doesn't hold already."""
    return {where: tuple(item for item in where if item not in joint) for where in wheres}


def _satisfies(payload: Mapping[str, Any], where: Where) -> bool:
    for item in where:
        value = payload.get(item.field)
        values = value if isinstance(value, list) else [value]
        if any(one in item.values for one in values) != (item.op == "="):
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Part:
    """What one scroll has read: images by the store's order, and which of them satisfy which filter."""

    ids: NDArray[np.bytes_]
    codes: Mapping[Column, Codes]
    members: Mapping[Where, NDArray[np.bool_]]
    vectors: Vectors | None


def _scrolled(
    collection: Collection,
    where: Where,
    rests: Mapping[Where, Where],
    vocabularies: Mapping[Column, Vocabulary],
    vectors: bool,
) -> _Part:
    """Read the images of a filter that satisfy one of some others, all of whose further conditions are given."""
    heads = [name.partition(".")[0] for name, _ in vocabularies if name != PATHS]
    heads += ["dataset"] * any(name in SCOPED and apart for name, apart in vocabularies)
    paths = ("labels", "modality", "anatomic_region") if any(name == PATHS for name, _ in vocabularies) else ()
    tested = (item.field for rest in rests.values() for item in rest)
    fields = list(dict.fromkeys([*heads, *paths, *tested]))
    ids: list[NDArray[np.bytes_]] = []
    columns: dict[Column, list[int]] = {column: [] for column in vocabularies}
    members: dict[Where, list[bool]] = {given: [] for given in rests}
    rows: list[Vectors] = []
    for page in scroll(collection, where, "images", fields=fields, vectors=vectors):
        flags = {given: [_satisfies(point.payload, rest) for point in page] for given, rest in rests.items()}
        kept = [any(row) for row in zip(*flags.values(), strict=True)]
        points = [point for point, wanted in zip(page, kept, strict=True) if wanted]
        if not points:
            continue
        ids.append(packed(points))
        for column, vocabulary in vocabularies.items():
            columns[column] += map(vocabulary.code, _values(points, *column))
        for given, flag in flags.items():
            members[given] += [one for one, wanted in zip(flag, kept, strict=True) if wanted]
        if vectors:
            rows.append(stacked(points))
    none = np.empty(0, "S16")
    return _Part(
        np.concatenate([none, *ids]),
        {column: np.array(codes, np.int32) for column, codes in columns.items()},
        {given: np.array(flags, np.bool_) for given, flags in members.items()},
        (np.concatenate(rows) if rows else np.empty((0, collection.card.dim), np.float32)) if vectors else None,
    )


def _merged(parts: Sequence[_Part], wheres: Sequence[Where], joint: Where | None) -> Table:
    """All images by rising id, each once."""
    ids = parts[0].ids if len(parts) == 1 else np.concatenate([part.ids for part in parts])
    order = None
    if len(parts) > 1 or (ids[1:] <= ids[:-1]).any():
        ids, order = np.unique(ids, return_index=True)

    def sorted_(arrays: list[Any]) -> Any:
        together = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return together if order is None else together[order]

    rows: dict[Where, Places] = {}
    for where in wheres:
        met = [part.ids[part.members[where]] for part in parts if where in part.members]
        rows[where] = np.searchsorted(ids, np.sort(np.concatenate(met)))
    codes = {column: sorted_([part.codes[column] for part in parts]) for column in parts[0].codes}
    vectors = [part.vectors for part in parts if part.vectors is not None]
    if vectors:
        return Table(ids, codes, rows, joint, sorted_(vectors), None)
    return Table(ids, codes, rows, joint, np.empty((0, 0), np.float32), np.empty(0, np.int64))


def _with_vectors(collection: Collection, table: Table, asked: Sequence[Where]) -> Table:
    """The table with the vectors of those that ask, without those of the gallery."""
    held = np.unique(np.concatenate([table.rows[where] for where in asked]))
    vectors = np.empty((len(held), collection.card.dim), np.float32)
    for start in range(0, len(held), SCROLL_IMAGES):
        rows = held[start : start + SCROLL_IMAGES]
        points = collection.get(text_ids(table.ids[rows]), fields=False, vectors=True)
        if lost := len(rows) - len(points):
            raise ProtocolError(f"{collection.name} lost {lost:,} images while it was measured; start again")
        vectors[start + np.searchsorted(table.ids[rows], packed(points))] = stacked(points)
    return Table(table.ids, table.codes, table.rows, table.where, vectors, held)


def _values(points: Sequence[StoredPoint], name: str, with_no_label: bool) -> Iterator[Values]:
    if name == PATHS:
        return (_paths(point, with_no_label) for point in points)
    if name in SCOPED:
        return (_scoped(point, name, apart=with_no_label) for point in points)
    head, _, key = name.partition(".")
    found = (point.payload.get(head) for point in points)
    values = map(_texts, ((value or {}).get(key) for value in found) if key else found)
    return (value or (NO_LABEL,) for value in values) if with_no_label else values


def _scoped(point: StoredPoint, name: str, *, apart: bool) -> Values:
    value = _texts(point.payload.get(name))
    scope = scope_of(value[0], point.payload.get("dataset")) if value and apart else None
    return (*value[:1], scope) if scope else value[:1]


def _texts(value: Any) -> Values:
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list):
        return tuple(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)),)
    return () if value is None else (str(value),)


def _paths(point: StoredPoint, with_no_label: bool) -> Values:
    payload = point.payload
    if labels := payload.get("labels"):
        return tuple(labels)
    modality, region = payload.get("modality"), payload.get("anatomic_region")
    if not modality or not region:
        return (str(modality),) if modality else ()
    return (f"{modality}/{region}/{NO_LABEL}" if with_no_label else f"{modality}/{region}",)
