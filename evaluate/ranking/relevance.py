"""Which gallery images are right answers to which query, and how right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.metrics import Gains
from cbmir.evaluate.ranking.exclusion import DATASET, Exclusion
from cbmir.evaluate.ranking.rules import RULES, LabelSets, Relations, Rule, hierarchy
from cbmir.evaluate.ranking.trial import NONE, PATHS, Images, Places, Trial, Values, Vocabulary

BLOCK = 2048
"""Queries judged at once."""

MAX_SETS = 20_000
"""Distinct values of a label field; what is relevant to what is a table of their square."""

PAIRS = 1 << 22
"""Pairs of label sets graded at once."""

HALF = 0.5
"""Jaccard index from which two sets of labels count as relevant to each other in measures that know yes and no only."""

Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Relevance:
    """How right each gallery image is for each query.

    Attributes:
        field: Column of codes that it is judged by.
        levels: (levels,) rising grades, the first is 0.
        table: (values, values) place among the levels of a gallery image's value, for a query with the row's.
        counts: (queries, levels) gallery images of each grade that the query may find.
        threshold: Grade from which an image counts as relevant.
    """

    field: str
    levels: Table
    table: NDArray[np.uint16]
    counts: NDArray[np.int64]
    threshold: float

    @property
    def relevant(self) -> NDArray[np.int64]:
        """(queries,) relevant gallery images that the query may find."""
        relevant: NDArray[np.int64] = self.counts[:, self.levels >= self.threshold].sum(axis=1)
        return relevant

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(queries,) whether there is any."""
        return self.relevant > 0

    def grades(self, trial: Trial, found: Places) -> Table:
        """(queries, depth) grades of the images found, 0 where a hit is missing."""
        grades = np.zeros(found.shape, np.float32)
        asked, there = trial.queries.codes[self.field], trial.gallery.codes[self.field]
        for start in range(0, len(found), BLOCK):
            block = slice(start, start + BLOCK)
            values = np.where(found[block] == NONE, 0, there[found[block]])
            grades[block] = self.levels[self.table[asked[block, np.newaxis], values]]
        return grades

    def ideal(self, depth: int) -> Table:
        """(queries, depth) the highest grades that the gallery has for each query, falling."""
        ends = np.cumsum(self.counts[:, ::-1], axis=1)
        ranks = np.arange(depth)
        places = np.zeros((len(ends), depth), np.int64)
        for end in ends.T[:-1]:
            places += ranks >= end[:, np.newaxis]
        return self.levels[::-1][places]


@dataclass(frozen=True, slots=True)
class _Made:
    """A table, with what it was made of, so that nothing else can get the identity of these."""

    vocabulary: Vocabulary
    rule: Rule
    asked: NDArray[np.int32]
    levels: Table
    table: NDArray[np.uint16]


class Tables:
    """Grades of pairs of label sets, which depend on labels and rule alone; those made before serve again."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], _Made] = {}
        self._read: dict[Path, Relations] = {}

    def relations(self, path: Path) -> Relations:
        """A file of relations.

        Raises:
            ProtocolError: it can't be read.
        """
        if path not in self._read:
            self._read[path] = Relations.read(path)
        return self._read[path]

    def of(self, vocabulary: Vocabulary, asked: NDArray[np.int32], rule: Rule) -> tuple[Table, NDArray[np.uint16]]:
        """The grades of the pairs of a query's values and any, see `Relevance`.

        Args:
            vocabulary: The values, by code.
            asked: Codes that queries have, rising.
            rule: The rule of relevance.
        """
        key = id(vocabulary), id(rule)
        before = self._made.get(key)
        if before is not None and len(before.table) == len(vocabulary):
            if np.isin(asked, before.asked).all():
                return before.levels, before.table
            asked = np.union1d(asked, before.asked)
        levels, table = _table(list(vocabulary), asked, rule)
        self._made[key] = _Made(vocabulary, rule, asked, levels, table)
        return levels, table


def find_relevance(trial: Trial, exclusion: Exclusion, tables: Tables | None = None) -> Relevance:
    """Who is relevant to whom by the protocol's label field and rule.

    An image without a label is relevant to nobody. Where the protocol includes such images, their set holds one value,
    `NO_LABEL`, so that all rules agree: two of them share a value, are the same, and have a Jaccard index of 1 (the
    usual convention for two empty sets), while one of them has nothing in common with an image that has a label.

    Args:
        trial: Queries and gallery.
        exclusion: What the queries may not find. What isn't in the part of the gallery that it keeps doesn't count.
        tables: What was made before, of the same session.

    Raises:
        ProtocolError: the label field has too many distinct values.
    """
    protocol = trial.protocol
    threshold = HALF if protocol.relevance == "jaccard" else 1.0
    return _relevance(trial, exclusion, protocol.label, RULES[protocol.relevance], threshold, tables)


def find_grades(trial: Trial, exclusion: Exclusion, tables: Tables | None = None) -> Relevance:
    """How right each image is for a graded measure, by `hierarchy` or the protocol's file of relations.

    Arguments are those of `find_relevance`.

    Raises:
        ProtocolError: the file can't be read, or knows none of the labels.
    """
    path = trial.protocol.relations
    if path is None:
        return _relevance(trial, exclusion, PATHS, hierarchy, 1.0, tables)
    relations = (tables or Tables()).relations(path)
    known = {label for values in trial.vocabularies[PATHS] for label in values}
    strange = sorted({label for pair in relations.grades for label in pair} - known)
    if strange:
        there = ", ".join(sorted(known)[:10])
        raise ProtocolError(f"{path} names {strange[0]!r}, which no image of queries or gallery has; they have {there}")
    return _relevance(trial, exclusion, PATHS, relations, 1.0, tables)


def judge(trial: Trial, relevance: Relevance, grades: Relevance | None, found: Places) -> Gains:
    """The gains of the gallery images that a search found.

    Args:
        trial: Queries and gallery.
        relevance: Which answers are right.
        grades: How right, for graded measures; without it those take the grades of `relevance`.
        found: (queries, depth) places in the gallery in rank order, `NONE` where a hit is missing.
    """
    own = relevance.grades(trial, found)
    hits = own >= relevance.threshold
    if grades is None:
        return Gains(hits, relevance.relevant, own, relevance.ideal(found.shape[1]))
    return Gains(hits, relevance.relevant, grades.grades(trial, found), grades.ideal(found.shape[1]))


def _relevance(
    trial: Trial,
    exclusion: Exclusion,
    field: str,
    rule: Rule,
    threshold: float,
    tables: Tables | None,
) -> Relevance:
    vocabulary = trial.vocabularies[field]
    if len(vocabulary) > MAX_SETS:
        raise ProtocolError(f"{field} has more than {MAX_SETS:,} distinct values; choose another --label")
    levels, table = (tables or Tables()).of(vocabulary, np.unique(trial.queries.codes[field]), rule)
    counts = _counts(trial, exclusion, field, table, len(levels))
    return Relevance(field, levels, table, counts, threshold)


def _table(values: Sequence[Values], asked: NDArray[np.int32], rule: Rule) -> tuple[Table, NDArray[np.uint16]]:
    """Grades and, for each pair of values, the place of theirs; rows that no query has, and no value, have grade 0."""
    import pandas as pd

    sets = LabelSets(values)
    table = np.zeros((len(values), len(values)), np.uint16)
    step = max(1, PAIRS // len(values))
    blocks = [asked[start : start + step] for start in range(0, len(asked), step)]
    found = []
    for rows in blocks:
        codes, grades = pd.factorize(rule(sets, rows).ravel())
        table[rows] = codes.reshape(len(rows), -1)
        found.append(grades)
    levels = np.unique(np.concatenate([[0.0], *found]))
    for rows, grades in zip(blocks, found, strict=True):
        table[rows] = np.searchsorted(levels, grades).astype(np.uint16)[table[rows]]
    return levels.astype(np.float32), table


def _counts(
    trial: Trial, exclusion: Exclusion, field: str, table: NDArray[np.uint16], levels: int
) -> NDArray[np.int64]:
    queries, gallery = trial.queries, trial.gallery
    asked, there = queries.codes[field], gallery.codes[field]
    part = gallery if exclusion.kept is None else gallery.take(exclusion.kept)
    counts = _by_level(asked, table, np.bincount(part.codes[field], minlength=len(table)), levels)
    if exclusion.across_datasets:
        counts -= _of_own_dataset(queries, part, asked, part.codes[field], table, levels)
    for rows, places in exclusion.blocks():
        other = ~exclusion.same_dataset(rows, places)
        rows, places = rows[other], places[other]
        np.subtract.at(counts, (rows, table[asked[rows], there[places]]), 1)
    return counts


def _of_own_dataset(
    queries: Images,
    gallery: Images,
    asked: NDArray[np.int32],
    there: NDArray[np.int32],
    table: NDArray[np.uint16],
    levels: int,
) -> NDArray[np.int64]:
    counts = np.zeros((len(queries), levels), np.int64)
    for dataset in np.unique(queries.codes[DATASET]):
        if dataset:
            rows = queries.codes[DATASET] == dataset
            images = np.bincount(there[gallery.codes[DATASET] == dataset], minlength=len(table))
            counts[rows] = _by_level(asked[rows], table, images, levels)
    return counts


def _by_level(
    asked: NDArray[np.int32], table: NDArray[np.uint16], images: NDArray[np.int64], levels: int
) -> NDArray[np.int64]:
    """(queries, levels) images of each grade, from the number of images of each value."""
    values, which = np.unique(asked, return_inverse=True)
    rows = [np.bincount(table[value], weights=images, minlength=levels) for value in values]
    return np.array(rows).round().astype(np.int64)[which]
