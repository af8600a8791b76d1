"""Which gallery images are right answers to which query."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluate.metrics import Gains
from evaluate.trial import NONE, Places, Trial

BLOCK = 2048
"""Queries judged at once."""


@dataclass(frozen=True, slots=True)
class Relevance:
    """The right answers to every query of a trial.

    Attributes:
        table: (sets, sets) gain of a gallery image with the column's label values for a query with the row's.
        relevant: (queries,) relevant gallery images, those that may not be found left out.
        barred: (queries,) gallery images that may not be found: the query itself, and its patient's.
    """

    table: NDArray[np.bool_]
    relevant: NDArray[np.int64]
    barred: NDArray[np.int64]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(queries,) whether the gallery holds any right answer."""
        return self.relevant > 0


def find_relevance(trial: Trial) -> Relevance:
    """Count the right answers to every query: a gallery image is one if it shares a label value with the query."""
    queries, gallery = trial.queries, trial.gallery
    table = overlaps(list(trial.vocabularies.sets))
    images = np.bincount(gallery.sets, minlength=len(table))
    relevant = np.array([images[row].sum() for row in table])[queries.sets]
    barred = np.zeros(len(queries), np.int64)
    for rows, places in _barred_pairs(trial):
        barred += np.bincount(rows, minlength=len(queries))
        matching = table[queries.sets[rows], gallery.sets[places]]
        relevant -= np.bincount(rows[matching], minlength=len(queries))
    return Relevance(table, relevant, barred)


def judge(trial: Trial, relevance: Relevance, found: Places) -> Gains:
    """The gains of the gallery images that a search found.

    Args:
        trial: Queries and gallery.
        relevance: The right answers.
        found: (queries, depth) places in the gallery in rank order, `NONE` where a hit is missing.
    """
    gains = np.zeros(found.shape, np.float32)
    for start in range(0, len(found), BLOCK):
        block = slice(start, start + BLOCK)
        sets = np.where(found[block] == NONE, 0, trial.gallery.sets[found[block]])
        gains[block] = relevance.table[trial.queries.sets[block, np.newaxis], sets]
    return Gains(gains, relevance.relevant)


def overlaps(sets: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """(n, n) whether two sets share a value; an empty set shares none, not even with itself."""
    holders: dict[str, list[int]] = {}
    for code, values in enumerate(sets):
        for value in values:
            holders.setdefault(value, []).append(code)
    table = np.zeros((len(sets), len(sets)), np.bool_)
    for codes in holders.values():
        table[np.ix_(codes, codes)] = True
    return table


def _barred_pairs(trial: Trial) -> Iterator[tuple[NDArray[np.int64], Places]]:
    """Query numbers and places of the gallery images that these queries may not find, block by block."""
    order = np.argsort(trial.gallery.patients, kind="stable")
    patients = trial.gallery.patients[order]
    starts = np.searchsorted(patients, trial.barred_patients, side="left")
    counts = np.searchsorted(patients, trial.barred_patients, side="right") - starts
    alone = np.flatnonzero((counts == 0) & (trial.own_places != NONE))  # the image of a barred patient is among theirs
    yield alone, trial.own_places[alone]
    for begin in range(0, len(counts), BLOCK):
        block = slice(begin, begin + BLOCK)
        rows = np.repeat(np.arange(len(counts))[block], counts[block])
        firsts = np.cumsum(counts[block]) - counts[block]
        nth = np.arange(len(rows)) - np.repeat(firsts, counts[block])
        yield rows, order[np.repeat(starts[block], counts[block]) + nth]
