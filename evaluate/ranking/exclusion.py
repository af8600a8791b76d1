"""Which gallery images a query may not find: itself, and those of its patient, study, series or data set."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.ranking.scan import Pairs
from cbmir.evaluate.ranking.trial import NONE, Codes, Images, Places, Trial

DATASET = "dataset"
BLOCK = 1024
"""Queries looked at together; a patient of many images makes many pairs."""


class Exclusion:
    """What the queries of a trial may not find.

    A patient, a study or a series is few images, held as pairs; a data set may be most of the gallery, and is held as
    one code an image.

    Attributes:
        fields: Payload fields; a gallery image that shares a value of one of them with the query is barred.
    """

    def __init__(self, trial: Trial, fields: tuple[str, ...]) -> None:
        self.fields = fields
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
        """All these pairs, a block of queries at a time, with rows counted over all queries."""
        for start in range(0, len(self._own), BLOCK):
            rows, places = self.pairs(slice(start, start + BLOCK))
            yield rows + start, places

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
