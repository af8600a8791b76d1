"""Accuracy, F1, precision, recall and ROC-AUC of a classifier, each with its interval, and each class by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.roc import Curve, Draws, Values, counts, curve
from cbmir.evaluate.analyses.classification.votes import NONE, Flags, Verdicts
from cbmir.evaluate.results import Average, Row
from cbmir.evaluate.significance import Interval, Resampler

ACCURACY, EXACT_MATCH = "accuracy", "exact_match_accuracy"
"""The share of queries whose classes were all said, and no other: its name where an image has one class, or several."""

FIGURES = ("precision", "recall", "f1", "roc_auc")


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """The figures of one class by itself; NaN where no query has it, which leaves it out of the macro means too.

    Attributes:
        label: Name of the class.
        queries: That have it.
        said: Queries of which it was said.
        precision: Share of `said` that have it; 0 where it was said of none.
        recall: Share of `queries` of which it was said.
        f1: Harmonic mean of both.
        roc_auc: Area under its ROC curve; NaN where every query has it, too.
    """

    label: str
    queries: int
    said: int
    precision: float
    recall: float
    f1: float
    roc_auc: float


def named(measures: Sequence[str], several: bool) -> tuple[str, ...]:
    """The names that measures have in results, where images have one class, or several."""
    return tuple(EXACT_MATCH if several and name == ACCURACY else name for name in measures)


def label_figures(verdicts: Verdicts, names: Sequence[str]) -> tuple[LabelFigures, ...]:
    """Every class by itself; the means over the classes that queries have are the macro figures.

    Args:
        verdicts: Truth and answers of n queries.
        names: (classes,) of the classes.
    """
    pairs = (verdicts.hits(), verdicts.answers(), verdicts.truth.pairs())
    hits, said, true = (np.bincount(codes, minlength=len(names))[: len(names)].astype(float) for _, codes in pairs)
    figures = [
        np.where(true > 0, np.divide(above, below, out=np.zeros(len(names)), where=below > 0), np.nan).tolist()
        for above, below in ((hits, said), (hits, true), (2 * hits, said + true))
    ]
    columns = zip(names, true.tolist(), said.tolist(), *figures, _areas(verdicts, true).tolist(), strict=True)
    return tuple(LabelFigures(name, int(queries), int(answers), *rest) for name, queries, answers, *rest in columns)


def _areas(verdicts: Verdicts, true: NDArray[Any]) -> NDArray[np.float64]:
    """(classes,) areas under ROC curves; NaN where all queries have the class, or none."""
    n = len(verdicts.truth)
    flags, everyone, once = verdicts.truth.flags(), np.arange(n), np.ones((n, 1), np.float32)
    areas = np.full(len(true), np.nan)
    for code in np.flatnonzero((true > 0) & (true < n)):
        column = slice(code, code + 1)
        one = curve(verdicts.scores[:, column], flags[:, column], everyone, n)
        areas[code] = one.areas(once, np.array([float(n)]))[0]
    return areas


EFFORT = 10_000_000_000
"""Multiplications that the intervals of ROC-AUC may cost, some 10 s; draws beyond them are left out."""

EVERYONE = "all"

Names = tuple[tuple[str, Average], ...]

COUNTED: Names = (
    (ACCURACY, "micro"),
    ("f1", "micro"),
    ("f1", "macro"),
    ("precision", "micro"),
    ("precision", "macro"),
    ("recall", "micro"),
    ("recall", "macro"),
)
AREAS: Names = (("roc_auc", "micro"), ("roc_auc", "macro"))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        measure: ``accuracy`` (``exact_match_accuracy`` where images have several classes), ``f1``, ``precision``,
            ``recall`` or ``roc_auc``.
        average: ``micro``, over all decisions, or ``macro``, the mean over classes.
        group: ``all`` queries, or those of a ``modality=...``.
        value: The figure; NaN where nothing defines it.
        n: Queries of the group.
        coverage: Share of them with an image of their class in the gallery.
        low: Lower end of the 95% interval, NaN without one.
        high: Upper end.
    """

    measure: str
    average: Average
    group: str
    value: float
    n: int
    coverage: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """All figures of a classifier on one split.

    Attributes:
        figures: By group and measure.
        confusion: (classes, classes) sparse counts, rows the true class, columns what was said; None where images have
            several classes. Queries without an answer are in no column.
        absent: Classes that no query has: in no macro mean, and in no ROC-AUC.
        universal: Classes that every query has: in no ROC-AUC.
        stray: Absent classes that were said nevertheless; scikit-learn counts them in its macro means, as 0.
        unanswered: Queries of which no class was said.
        draws: Draws behind the intervals, 0 without intervals.
        area_draws: Draws behind those of ROC-AUC: fewer where `EFFORT` allows no more.
    """

    figures: tuple[Figure, ...]
    confusion: Any
    absent: tuple[int, ...]
    universal: tuple[int, ...]
    stray: tuple[int, ...]
    unanswered: int
    draws: int
    area_draws: int

    def rows(self, k: int, search: str) -> tuple[Row, ...]:
        """The figures as rows of a report.

        Args:
            k: Neighbours that voted; 0 for a probe, which has none.
            search: How they were found; ``probe``.
        """
        return tuple(
            Row(
                item.measure,
                k,
                item.average,
                item.group,
                item.value,
                item.n,
                item.coverage,
                search,
                item.low,
                item.high,
            )
            for item in self.figures
        )


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is known of n queries besides their classes.

    Attributes:
        groups: (n,) flags of the queries of each group; `EVERYONE` is added where it is missing.
        covered: (n,) whether the gallery has an image of the query's class.
        resampler: Draws of the queries' patients; None for no intervals.
    """

    groups: Mapping[str, Flags]
    covered: Flags
    resampler: Resampler | None = None

    @classmethod
    def plain(cls, n: int) -> "Cohort":
        """One group of n queries, all covered, without intervals."""
        return cls({}, np.ones(n, np.bool_))


def assess(verdicts: Verdicts, cohort: Cohort) -> Assessment:
    """Compute all figures of a classifier.

    Micro averages count decisions, macro averages are means over the classes that the queries have. An interval comes
    from the same figure of many draws of patients, each with the classes that the draw has.

    Memory beyond the scores is a few times theirs. Time grows with draws x queries, and for ROC-AUC with draws x scores
    that aren't the lowest of their class.

    Args:
        verdicts: Truth and answers of n queries.
        cohort: Their groups and patients.

    Raises:
        ProtocolError: the cohort has other queries, or a group has none.
    """
    masks = {EVERYONE: np.ones(len(verdicts.truth), np.bool_), **cohort.groups}
    _check(masks, cohort)
    classes = verdicts.truth.classes
    true = np.bincount(verdicts.truth.pairs()[1], minlength=classes)
    queries, said = verdicts.answers()
    spoken = np.bincount(said, minlength=classes)[:classes] > 0
    answered = len(np.unique(queries[said < classes]))
    figures, area_draws = _figures(verdicts, masks, cohort)
    return Assessment(
        figures=figures,
        confusion=_confusion(verdicts),
        absent=_codes(true == 0),
        universal=_codes(true == len(verdicts.truth)),
        stray=_codes((true == 0) & spoken),
        unanswered=len(verdicts.truth) - answered,
        draws=cohort.resampler.draws if cohort.resampler else 0,
        area_draws=area_draws,
    )


class _Group:
    """Some queries, summed by cluster, so that every draw costs one sparse product a count and curve."""

    def __init__(self, verdicts: Verdicts, clusters: NDArray[np.int64], count: int) -> None:
        shape = (verdicts.truth.classes + 1, count)
        pairs = (verdicts.hits(), verdicts.answers(), verdicts.truth.pairs())
        self._counts = [counts(classes, clusters[rows], shape) for rows, classes in pairs]
        self._right = np.bincount(clusters, weights=verdicts.right(), minlength=count).astype(np.float32)
        self._sizes = np.bincount(clusters, minlength=count).astype(np.float32)
        self.curves = _curves(verdicts, clusters, count)
        self.clusters = int(np.count_nonzero(self._sizes))

    def counted(self, draws: Draws) -> Values:
        """(b, figures) those of `COUNTED`, for (clusters, b) weights."""
        hits, said, true = ((item @ draws).astype(np.float64) for item in self._counts)
        sizes = self._weight(draws)
        accuracy = _ratio((self._right @ draws).astype(np.float64), sizes)
        parts = ((2 * hits, said + true), (hits, said), (hits, true))
        columns = [accuracy]
        for above, below in parts:
            columns += [_ratio(above.sum(axis=0), below.sum(axis=0)), _mean(_ratio(above, below), true > 0)]
        return np.where(sizes > 0, columns, np.nan).T

    def areas(self, draws: Draws) -> Values:
        """(b, figures) those of `AREAS`, for (clusters, b) weights; NaN where no class has a curve."""
        if not self.curves:
            return np.full((draws.shape[1], len(AREAS)), np.nan)
        sizes = self._weight(draws)
        micro, *each = (item.areas(draws, sizes) for item in self.curves)
        areas = np.array(each)
        return np.stack([micro, _mean(areas, ~np.isnan(areas))], axis=1)

    def _weight(self, draws: Draws) -> Values:
        return (self._sizes @ draws).astype(np.float64)


def _figures(verdicts: Verdicts, masks: Mapping[str, Flags], cohort: Cohort) -> tuple[tuple[Figure, ...], int]:
    """The figures of all groups, and the draws behind the intervals of ROC-AUC."""
    codes = cohort.resampler.codes if cohort.resampler else np.arange(len(cohort.covered))
    count = cohort.resampler.count if cohort.resampler else len(cohort.covered)
    groups = {name: _Group(verdicts.take(mask), codes[mask], count) for name, mask in masks.items()}
    once = np.ones((count, 1), np.float32)
    values = [np.hstack([group.counted(once), group.areas(once)])[0] for group in groups.values()]
    ends, area_draws = _intervals(list(groups.values()), cohort.resampler)
    figures = []
    averages = [average for _, average in COUNTED + AREAS]
    measures = named([measure for measure, _ in COUNTED + AREAS], several=verdicts.truth.members is not None)
    for (name, mask), row, end in zip(masks.items(), values, ends, strict=True):
        coverage, n = float(cohort.covered[mask].mean()), int(mask.sum())
        for measure, average, value, low, high in zip(measures, averages, row, end.low, end.high, strict=True):
            figures.append(Figure(measure, average, name, float(value), n, coverage, float(low), float(high)))
    return tuple(figures), area_draws


def _intervals(groups: Sequence[_Group], resampler: Resampler | None) -> tuple[list[Interval], int]:
    """The intervals of each group, and how many draws those of ROC-AUC have; all groups see the same draws."""
    width = len(COUNTED + AREAS)
    nothing = Interval(*np.full((2, width), np.nan))
    if resampler is None:
        return [nothing] * len(groups), 0
    entries = sum(item.entries for group in groups for item in group.curves)
    area_draws = min(resampler.draws, EFFORT // max(entries, 1))
    values = np.full((len(groups), resampler.draws, width), np.nan)
    done = 0
    for block in resampler.blocks():
        draws = np.ascontiguousarray(block.T)
        rows = slice(done, done + len(block))
        some = max(0, min(len(block), area_draws - done))
        for group, table in zip(groups, values, strict=True):
            table[rows, : len(COUNTED)] = group.counted(draws)
            if some:
                table[done : done + some, len(COUNTED) :] = group.areas(draws[:, :some])
        done += len(block)
    ends = [resampler.interval(table) for table in values]
    return [end if group.clusters > 1 else nothing for group, end in zip(groups, ends, strict=True)], area_draws


def _curves(verdicts: Verdicts, clusters: NDArray[np.int64], count: int) -> list[Curve]:
    """The curve of all classes together, then one a class, of the classes that some queries have and others don't."""
    rows, classes = verdicts.truth.pairs()
    having = np.bincount(classes, minlength=verdicts.truth.classes)
    kept = np.flatnonzero((having > 0) & (having < len(verdicts.truth)))
    if not kept.size:
        return []
    positive = np.zeros(verdicts.scores.shape, np.bool_)
    positive[rows, classes] = True
    columns = [kept, *np.split(kept, len(kept))]
    return [curve(verdicts.scores[:, some], positive[:, some], clusters, count) for some in columns]


def _confusion(verdicts: Verdicts) -> Any:
    if verdicts.truth.members is not None:
        return None
    answered = verdicts.said != NONE
    table = counts(verdicts.truth.codes[answered], verdicts.said[answered], verdicts.scores.shape[1:] * 2)
    return table.astype(np.int64)


def _ratio(above: Values, below: Values) -> Values:
    """Quotients; 0 where nothing is divided by."""
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


def _mean(values: Values, there: Flags) -> Values:
    """(b,) means over some of the rows of a (classes, b) table; NaN where there are none."""
    n = there.sum(axis=0)
    return np.where(n > 0, np.where(there, values, 0).sum(axis=0) / np.maximum(n, 1), np.nan)


def _codes(flags: Flags) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist())


def _check(masks: Mapping[str, Flags], cohort: Cohort) -> None:
    queries = len(masks[EVERYONE])
    lengths = [len(cohort.covered), *map(len, masks.values())]
    if cohort.resampler:
        lengths.append(len(cohort.resampler.codes))
    if set(lengths) != {queries}:
        raise ProtocolError(f"{queries} queries met groups, coverage or patients of {lengths} queries")
    for name, mask in masks.items():
        if not mask.any():
            raise ProtocolError(f"no query is in the group {name!r}")
