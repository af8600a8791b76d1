"""Accuracy, F1, kappa, ROC-AUC and other figures of a classifier over all classes, each with its interval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.roc import Area, Values, roc_auc
from cbmir.evaluate.analyses.classification.votes import NONE, Flags, Verdicts
from cbmir.evaluate.intervals import Interval, Spread, over_classes, resampled, shares, stacked
from cbmir.evaluate.results import Average, Row
from cbmir.evaluate.significance import Resampler

ACCURACY, EXACT_MATCH = "accuracy", "exact_match_accuracy"
"""The share of queries whose classes were all said, and no other: its name where an image has one class, or several."""


def named(measures: Sequence[str], several: bool) -> tuple[str, ...]:
    """The names that measures have in results, where images have one class, or several."""
    return tuple(EXACT_MATCH if several and name == ACCURACY else name for name in measures)


EVERYONE = "all"

Names = tuple[tuple[str, Average], ...]

ONE_CLASS: Names = (("balanced_accuracy", "macro"), ("kappa", "micro"), ("mcc", "micro"))
"""Figures that are defined where an image has one class only."""

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


def names_of(several: bool) -> Names:
    """The figures in their order, where an image has one class, or may have several."""
    return COUNTED + AREAS if several else COUNTED + ONE_CLASS + AREAS


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        measure: ``accuracy`` (``exact_match_accuracy`` where images have several classes), ``f1``, ``precision``,
            ``recall``, ``roc_auc``; ``balanced_accuracy``, ``kappa`` (Cohen's) and ``mcc`` (Matthews' correlation, of
            Gorodkin for several classes) where images have one class.
        average: ``micro``, over all decisions, or ``macro``, the mean over classes.
        group: ``all`` queries, or those of a ``modality=...``.
        value: The figure; NaN where nothing defines it.
        n: Queries of the group.
        coverage: Share of them with an image of their class in the gallery.
        low: Lower end of the 95% interval, NaN without one.
        high: Upper end.
        patients: Patients of these queries; queries without a patient id aren't counted.
    """

    measure: str
    average: Average
    group: str
    value: float
    n: int
    coverage: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """All figures of a classifier on one split.

    Attributes:
        figures: By group and measure.
        confusion: (classes, classes) sparse counts, rows the true class, columns what was said; None where images have
            several classes. Queries without an answer are in no column.
        absent: Classes that no query has: in no macro recall, and in no ROC-AUC.
        universal: Classes that every query has: in no ROC-AUC.
        stray: Absent classes that were said nevertheless: 0 in the macro means of precision and F1.
        lone: Classes whose queries are of one patient.
        unanswered: Queries of which no class was said.
    """

    figures: tuple[Figure, ...]
    confusion: Any
    absent: tuple[int, ...]
    universal: tuple[int, ...]
    stray: tuple[int, ...]
    lone: tuple[int, ...]
    unanswered: int

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
                item.patients,
            )
            for item in self.figures
        )


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is known of n queries besides their classes.

    Attributes:
        groups: (n,) flags of the queries of each group; `EVERYONE` is added where it is missing.
        covered: (n,) whether the gallery has an image of the query's class.
        resampler: Draws of the queries' patients; without any draw there are no intervals.
    """

    groups: Mapping[str, Flags]
    covered: Flags
    resampler: Resampler

    @classmethod
    def plain(cls, n: int) -> "Cohort":
        """One group of n queries, all covered, without intervals."""
        return cls({}, np.ones(n, np.bool_), Resampler(np.full(n, -1), draws=0))


def assess(verdicts: Verdicts, cohort: Cohort) -> Assessment:
    """Compute all figures of a classifier.

    Micro averages count decisions. Macro averages are means over the classes that the queries of a group have; those of
    precision and F1 also over the classes that were said of them only, which count 0, as scikit-learn has it.

    Intervals are those of many draws of patients: a class that a draw has no query of keeps its figure of the whole
    sample, so that every draw is a mean over the same classes. Those of ROC-AUC are in closed form, see
    `cbmir.evaluate.analyses.classification.roc`.

    Memory beyond the scores is a few times theirs. Time grows with draws x queries.

    Args:
        verdicts: Truth and answers of n queries.
        cohort: Their groups and patients.

    Raises:
        ProtocolError: the cohort has other queries, or a group has none.
    """
    masks = {EVERYONE: np.ones(len(verdicts.truth), np.bool_), **cohort.groups}
    _check(masks, cohort)
    classes = verdicts.truth.classes
    rows, having = verdicts.truth.pairs()
    true = np.bincount(having, minlength=classes)
    owners = np.unique(having.astype(np.int64) * cohort.resampler.count + cohort.resampler.codes[rows])
    people = np.bincount(owners // cohort.resampler.count, minlength=classes)
    queries, said = verdicts.answers()
    spoken = np.bincount(said, minlength=classes)[:classes] > 0
    answered = len(np.unique(queries[said < classes]))
    return Assessment(
        figures=tuple(item for name, mask in masks.items() for item in _figures(verdicts, name, mask, cohort)),
        confusion=_confusion(verdicts),
        absent=_codes(true == 0),
        universal=_codes(true == len(verdicts.truth)),
        stray=_codes((true == 0) & spoken),
        lone=_codes(people == 1),
        unanswered=len(verdicts.truth) - answered,
    )


class _Group:
    """Some queries, summed by cluster, so that every draw costs one sparse product a count."""

    def __init__(self, verdicts: Verdicts, clusters: NDArray[np.int64], count: int) -> None:
        shape = (verdicts.truth.classes + 1, count)
        pairs = (verdicts.hits(), verdicts.answers(), verdicts.truth.pairs())
        self.several = verdicts.truth.members is not None
        self._counts = [counts(classes, clusters[rows], shape) for rows, classes in pairs]
        self._right = np.bincount(clusters, weights=verdicts.right(), minlength=count).astype(np.float32)
        self._sizes = np.bincount(clusters, minlength=count).astype(np.float32)
        self.clusters = int(np.count_nonzero(self._sizes))
        hits, said, true = self._sums(np.ones((count, 1), np.float32))
        self._had, self._named = true > 0, (true > 0) | (said > 0)
        self._named[-1] = False  # no answer is no class
        self._each = self._of_classes(hits, said, true)

    def counted(self, draws: NDArray[np.float32]) -> Values:
        """(b, figures) the figures without the areas, for (clusters, b) weights; NaN where a draw has no query."""
        hits, said, true = self._sums(draws)
        sizes = (self._sizes @ draws).astype(np.float64)
        accuracy = _ratio((self._right @ draws).astype(np.float64), sizes)
        columns = [accuracy]
        means = []
        totals = ((2 * hits, said + true), (hits, said), (hits, true))
        for (above, below), each, whole in zip(totals, self._of_classes(hits, said, true), self._each, strict=True):
            over = (self._had if below is true else self._named)[:, 0]
            kept = np.where(true > 0, each, whole)[over]
            means.append(kept.mean(axis=0) if over.any() else np.full(len(sizes), np.nan))
            columns += [_ratio(above.sum(axis=0), below.sum(axis=0)), means[-1]]
        if not self.several:
            columns += [means[-1], *_agreement(accuracy, said, true, sizes)]
        return np.where(sizes > 0, columns, np.nan).T

    def accuracy(self) -> Interval:
        """Wilson's interval of the accuracy, the only figure that is a share of queries."""
        return shares(self._right[:, np.newaxis].astype(float), self._sizes[:, np.newaxis].astype(float))

    def spread(self, columns: int) -> Spread:
        """How much the macro means vary: F1, precision, recall, and where they are four, balanced accuracy."""
        classes, count = self._counts[0].shape
        parts = []
        for code in range(classes - 1):  # one at a time: all of them may not fit into memory
            hits, said, true = (np.asarray(table[[code]].toarray()[0], np.float64) for table in self._counts)
            above = np.stack([2 * hits, hits, hits, hits], axis=1)[:, :columns]
            below = np.stack([said + true, said, true, true], axis=1)[:, :columns]
            clusters = np.flatnonzero(below.any(axis=1))
            parts.append((clusters, above[clusters], below[clusters]))
        return Spread.of(parts, count, columns)

    def _sums(self, draws: NDArray[np.float32]) -> tuple[Values, Values, Values]:
        """(classes + 1, b) right answers, answers, and queries of each class; the last is that of no answer."""
        hits, said, true = ((item @ draws).astype(np.float64) for item in self._counts)
        return hits, said, true

    def _of_classes(self, hits: Values, said: Values, true: Values) -> tuple[Values, Values, Values]:
        """F1, precision and recall of each class; 0 where nothing is divided by."""
        return _ratio(2 * hits, said + true), _ratio(hits, said), _ratio(hits, true)


def _agreement(accuracy: Values, said: Values, true: Values, sizes: Values) -> tuple[Values, Values]:
    """(b,) Cohen's kappa, and the correlation coefficient of several classes.

    Cohen, "A coefficient of agreement for nominal scales", 1960, doi:10.1177/001316446002000104; Gorodkin, "Comparing
    two K-category assignments by a K-category correlation coefficient", 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    Kappa is NaN where all is one class, the coefficient 0 where either side is, as scikit-learn has them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares, kinds = said / sizes, true / sizes
        chance = (shares * kinds).sum(axis=0)
        kappa = (accuracy - chance) / (1 - chance)
        spread = (1 - (shares**2).sum(axis=0)) * (1 - (kinds**2).sum(axis=0))
        mcc = np.where(spread > 1e-15, (accuracy - chance) / np.sqrt(np.maximum(spread, 1e-300)), 0.0)
    return np.where(np.isclose(chance, 1, rtol=0, atol=1e-12), np.nan, kappa), mcc


def _figures(verdicts: Verdicts, name: str, mask: Flags, cohort: Cohort) -> Iterator[Figure]:
    """The figures of a group; all groups see the same draws."""
    resampler, mine = cohort.resampler, verdicts.take(mask)
    codes = resampler.codes[mask]
    group, areas = _Group(mine, codes, resampler.count), _areas(mine, codes, resampler.count)
    values = np.concatenate([group.counted(np.ones((resampler.count, 1), np.float32))[0], [a.value for a in areas]])
    ends = Interval.none(len(values))
    if resampler.draws and group.clusters > 1:
        ends = stacked([_resampled(group, resampler, values[: -len(AREAS)]), *(area.interval for area in areas)])
    coverage, n = float(cohort.covered[mask].mean()), int(mask.sum())
    people = resampler.clusters[mask]
    patients = len(np.unique(people[people >= 0]))
    several = verdicts.truth.members is not None
    averages = [average for _, average in names_of(several)]
    measures = named([measure for measure, _ in names_of(several)], several)
    for measure, average, value, low, high in zip(measures, averages, values, ends.low, ends.high, strict=True):
        yield Figure(measure, average, name, float(value), n, coverage, float(low), float(high), patients)


def _resampled(group: _Group, resampler: Resampler, figures: Values) -> Interval:
    draws = np.concatenate([group.counted(np.ascontiguousarray(block.T)) for block in resampler.blocks()])
    without = np.empty((0, len(figures)))
    if resampler.method == "bca":
        without = np.concatenate([group.counted(np.ascontiguousarray(block.T)) for block in resampler.lacking()])
    lowest = np.zeros(len(figures))
    lowest[len(COUNTED) + 1 :] = -1  # kappa and mcc
    found = resampled(draws, np.full(len(figures), group.clusters), resampler.method, figures, without)
    over = [place for place, (_, average) in enumerate(names_of(group.several)[: len(figures)]) if average == "macro"]
    classes = over_classes(draws[:, over], group.spread(len(over)), resampler.method, figures[over], without[:, over])
    found.low[over], found.high[over] = classes.low, classes.high
    if resampler.method == "wilson":
        accuracy = group.accuracy()
        found.low[0], found.high[0] = accuracy.low[0], accuracy.high[0]
    return found.within(lowest, 1).holding(figures)


def _areas(verdicts: Verdicts, clusters: NDArray[np.int64], count: int) -> list[Area]:
    """Micro and macro area under the ROC curve, over the classes that some queries have and others don't."""
    rows, classes = verdicts.truth.pairs()
    having = np.bincount(classes, minlength=verdicts.truth.classes)
    kept = np.flatnonzero((having > 0) & (having < len(verdicts.truth)))
    if not kept.size:
        return [Area.none(count)] * len(AREAS)
    positive = np.zeros(verdicts.scores.shape, np.bool_)
    positive[rows, classes] = True
    each = [roc_auc(verdicts.scores[:, [code]], positive[:, [code]], clusters, count) for code in kept]
    micro = roc_auc(verdicts.scores[:, kept], positive[:, kept], clusters, count)
    return [micro, Area.mean(each, count)]


def counts(rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> Any:
    """A sparse table of how often each pair of row and column occurs."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _confusion(verdicts: Verdicts) -> Any:
    if verdicts.truth.members is not None:
        return None
    answered = verdicts.said != NONE
    table = counts(verdicts.truth.codes[answered], verdicts.said[answered], verdicts.scores.shape[1:] * 2)
    return table.astype(np.int64)


def _ratio(above: Values, below: Values) -> Values:
    """Quotients; 0 where nothing is divided by."""
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


def _codes(flags: Flags) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist())


def _check(masks: Mapping[str, Flags], cohort: Cohort) -> None:
    queries = len(masks[EVERYONE])
    lengths = [len(cohort.covered), len(cohort.resampler.codes), *map(len, masks.values())]
    if set(lengths) != {queries}:
        raise ProtocolError(f"{queries} queries met groups, coverage or patients of {lengths} queries")
    for name, mask in masks.items():
        if not mask.any():
            raise ProtocolError(f"no query is in the group {name!r}")
