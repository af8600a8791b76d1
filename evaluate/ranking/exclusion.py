"""Which gallery images a query may not find: itself, and those of its patient, study, series or data set."""

import copy
import functools
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.ranking.trial import NONE, Codes, Images, Places, Trial, text_ids
from cbmir.filters import SCOPED, Condition, Where
from cbmir.search.ranker import Mask, Pairs

DATASET = "dataset"
BLOCK = 1024
"""Queries looked at together; a patient of many images makes many pairs."""


class Exclusion:
    """What the queries of a trial may not find.

    A patient, a study or a series is few images, held as pairs; a data set may be most of the gallery, and is held as
    one code an image.

    It is a `cbmir.search.ranker.Exclusion`.

    Attributes:
        fields: Payload fields; a gallery image that shares a value of one of them with the query is barred.
        kept: (gallery,) the part of the gallery that is searched, None for all of it; see `within`.
    """

    kept: Mask | None = None

    def __init__(self, trial: Trial, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self._trial = trial
        self._own = trial.own_places
        self._sides = [_Side(trial.queries, trial.gallery, name) for name in fields if name != DATASET]
        self._datasets = (trial.queries.codes[DATASET], trial.gallery.codes[DATASET]) if DATASET in fields else None

    @functools.cached_property
    def _affected(self) -> tuple[int, int]:
        barred = np.zeros(len(self._own), np.int64)
        for rows, places in self.blocks():
            other = rows[~self.same_dataset(rows, places)]
            barred += np.bincount(other, minlength=len(barred))
        if self._datasets is not None:
            asked, there = self._datasets
            barred += np.bincount(there, minlength=int(asked.max(initial=0)) + 1)[asked] * (asked > 0)
        return int((barred > 0).sum()), int(barred.sum())

    @property
    def queries(self) -> int:
        """Queries for which a gallery image is barred."""
        return self._affected[0]

    @property
    def images(self) -> int:
        """Barred gallery images, summed over queries."""
        return self._affected[1]

    def pairs(self, block: slice) -> Pairs:
        """Rows within the block, rising, and gallery places of the barred pairs, each once, data sets aside."""
        own = self._own[block]
        alone = np.flatnonzero(own != NONE)
        parts = [(alone, own[alone]), *(side.pairs(block) for side in self._sides)]
        parts = [part for part in parts if len(part[0])]
        if len(parts) < 2:
            return parts[0] if parts else (alone, own[alone])
        together = np.unique(np.concatenate([rows << 32 | places for rows, places in parts]))
        return together >> 32, together & ((1 << 32) - 1)

    def blocks(self) -> Iterator[Pairs]:
        """All these pairs in the part that is kept, a block at a time, with rows counted over all queries."""
        for start in range(0, len(self._own), BLOCK):
            rows, places = self.pairs(slice(start, start + BLOCK))
            if self.kept is not None:
                rows, places = rows[self.kept[places]], places[self.kept[places]]
            yield rows + start, places

    def mask(self, block: slice, positions: Places) -> Mask | None:
        """(queries, positions) images of the data set of a block of queries; None where these may be found."""
        if self._datasets is None:
            return None
        rows = np.arange(len(self._own))[block, np.newaxis]
        return self.same_dataset(rows, positions[np.newaxis])

    def where(self, row: int) -> Where:
        """The conditions of one query; what bars nothing is none, so that the store can share filters among queries."""
        names, shared = self._conditions
        codes = self._trial.queries.codes
        where = tuple(_not(field, names[field][codes[field][row]]) for field in self.fields if shared[field][row])
        if not where and self._own[row] != NONE:
            where = (Condition("id", "!=", tuple(text_ids(self._trial.queries.ids[row : row + 1]))),)
        return where

    @functools.cached_property
    def _conditions(self) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, Mask]]:
        """By field, the values of its codes, and which queries share theirs with a gallery image."""
        queries, gallery = self._trial.queries.codes, self._trial.gallery.codes
        names = {field: list(self._trial.vocabularies[field]) for field in self.fields}
        shared = {field: np.isin(queries[field], gallery[field]) & (queries[field] > 0) for field in self.fields}
        return names, shared

    def within(self, kept: Mask) -> Self:
        """The same in a part of the gallery."""
        part = copy.copy(self)
        part.__dict__.pop("_affected", None)
        part.kept = kept
        return part

    def excludes_as(self, other: object) -> bool:
        """Whether the same is barred for the same queries, in whatever part of the gallery."""
        return isinstance(other, Exclusion) and self._trial is other._trial and self.fields == other.fields

    def same_dataset(self, rows: NDArray[Any], places: Places) -> NDArray[np.bool_]:
        """Whether queries and gallery places, broadcast together, are of one data set and barred for it."""
        if self._datasets is None:
            return np.zeros(np.broadcast_shapes(np.shape(rows), places.shape), np.bool_)
        asked, there = self._datasets
        same: NDArray[np.bool_] = (asked[rows] == there[places]) & (asked[rows] > 0)
        return same

    @property
    def across_datasets(self) -> bool:
        """Whether images of the query's data set are barred."""
        return self._datasets is not None


def _not(field: str, values: tuple[str, ...]) -> Condition:
    """Without the value of a field; of an id that is told apart by data set, the values are the id and the data set."""
    if field in SCOPED and len(values) > 1:
        return Condition(field, "!=", values[:1], dataset=values[1])
    return Condition(field, "!=", values)


def copies(trial: Trial, exclusion: Exclusion) -> int:
    """Queries that may find an image whose file has the same content as theirs; 0 where no hashes are stored."""
    asked, there = (images.codes["sha256"].astype(np.int64) for images in (trial.queries, trial.gallery))
    found = np.bincount(there, minlength=int(asked.max(initial=0)) + 1)[asked]
    if exclusion.across_datasets:  # those of the query's data set are no pairs
        sets = [images.codes[DATASET].astype(np.int64) for images in (trial.queries, trial.gallery)]
        width = 1 + max(int(codes.max(initial=0)) for codes in sets)
        keys, counts = np.unique(there * width + sets[1], return_counts=True)
        wanted = asked * width + sets[0]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found -= np.where((keys[at] == wanted) & (sets[0] > 0), counts[at], 0)
    for rows, places in exclusion.blocks():
        same = (asked[rows] == there[places]) & ~exclusion.same_dataset(rows, places)
        found -= np.bincount(rows[same], minlength=len(found))
    return int(((found > 0) & (asked > 0)).sum())


class _Side:
    """The gallery images of every query's value of one field; a query without a value has none."""

    def __init__(self, queries: Images, gallery: Images, name: str) -> None:
        codes = gallery.codes[name]
        self._order: Places = np.argsort(codes, kind="stable")
        ranked: Codes = codes[self._order]
        asked = np.where(queries.codes[name] > 0, queries.codes[name], NONE)
        self._starts = np.searchsorted(ranked, asked, side="left")
        self._counts: Places = np.searchsorted(ranked, asked, side="right") - self._starts

    def pairs(self, block: slice) -> Pairs:
        starts, counts = self._starts[block], self._counts[block]
        rows = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._order[np.repeat(starts, counts) + nth]
