"""A table of each class: sensitivity, specificity and the like with intervals, and the confusion matrix."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbmir.evaluate.analyses.classification.assessment import counts
from cbmir.evaluate.analyses.classification.roc import Values, average_precision, roc_auc
from cbmir.evaluate.analyses.classification.votes import Verdicts
from cbmir.evaluate.intervals import Interval, effective, stacked, wilson
from cbmir.evaluate.results import figure
from cbmir.evaluate.significance import Resampler

SHARES = ("sensitivity", "specificity", "ppv", "npv", "f1")
CLASS_MEASURES = (*SHARES, "roc_auc", "auprc")
"""The measures of each class. Sensitivity and specificity are shares of the queries that have the class and of those
that don't; PPV and NPV are shares of those for which it was predicted and of those for which it wasn't."""

_MATRIX = 12
"""Classes up to which a confusion matrix is printed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval; NaN where nothing defines it.

    Attributes:
        value: 0 to 1.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.3f}" + ("" if math.isnan(self.low) else f" ({self.low:.3f}-{self.high:.3f})")

    def as_json(self) -> dict[str, float | None]:
        """As JSON takes it: null for NaN."""
        parts = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(part) else part for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The figures of one class against all others.

    Attributes:
        label: Name of the class.
        queries: That have it.
        patients: Of these queries; queries without a patient id aren't counted.
        said: Queries of which it was predicted.
        right: Queries that have it and of which it was predicted.
        all: All queries.
        figures: By name of `CLASS_MEASURES`.
    """

    label: str
    queries: int
    patients: int
    said: int
    right: int
    all: int
    figures: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it, with the four counts of the class against the others."""
        return {
            "label": self.label,
            "queries": self.queries,
            "patients": self.patients,
            "predicted": self.said,
            "true_positive": self.right,
            "false_positive": self.said - self.right,
            "false_negative": self.queries - self.right,
            "true_negative": self.all - self.said - self.queries + self.right,
            **{name: item.as_json() for name, item in self.figures.items()},
        }


def class_figures(verdicts: Verdicts, names: Sequence[str], resampler: Resampler) -> tuple[ClassFigures, ...]:
    """Every class by itself.

    Shares have Wilson's interval of as many independent observations as the patients are worth, see
    `cbmir.evaluate.intervals`. F1 rises with the share of right answers among the queries that have the class or of
    which it was predicted, so that its interval is that of this share. Those of the areas are in closed form. There are
    none without draws, and none for a figure that rests on one patient.

    Args:
        verdicts: Truth and answers of n queries.
        names: (classes,) of the classes.
        resampler: Of the same queries.
    """
    count, codes = resampler.count, resampler.codes
    tables = [
        counts(classes, codes[rows], (len(names) + 1, count)).tocsr()
        for rows, classes in (verdicts.hits(), verdicts.answers(), verdicts.truth.pairs())
    ]
    sizes = np.bincount(codes, minlength=count).astype(np.float64)
    flags, rows = verdicts.truth.flags(), []
    for code, name in enumerate(names):
        hits, said, true = (np.asarray(table[[code]].toarray()[0], np.float64) for table in tables)
        positive = flags[:, code]
        areas = [
            roc_auc(verdicts.scores[:, [code]], positive[:, np.newaxis], codes, count),
            average_precision(verdicts.scores[:, code], positive, codes, count),
        ]
        values, ends = _shares(hits, said, true, sizes)
        values = np.concatenate([values, [area.value for area in areas]])
        ends = stacked([ends, *(area.interval for area in areas)]) if resampler.draws else Interval.none(len(values))
        people = resampler.clusters[positive]
        rows.append(
            ClassFigures(
                label=name,
                queries=int(true.sum()),
                patients=len(np.unique(people[people >= 0])),
                said=int(said.sum()),
                right=int(hits.sum()),
                all=len(flags),
                figures={
                    measure: Estimate(*map(float, parts))
                    for measure, *parts in zip(CLASS_MEASURES, values, ends.low, ends.high, strict=True)
                },
            )
        )
    return tuple(rows)


def _shares(hits: Values, said: Values, true: Values, sizes: Values) -> tuple[Values, Interval]:
    """Values and intervals of `SHARES`, from what each cluster has."""
    neither = sizes - said - true + hits
    above = np.stack([hits, neither, hits, neither, hits], axis=1)
    below = np.stack([true, sizes - true, said, sizes - said, said + true - hits], axis=1)
    with np.errstate(invalid="ignore"):
        values = above.sum(axis=0) / below.sum(axis=0)
    ends = wilson(values, *effective(above, below))
    return _f1_last(values), Interval(_f1_last(ends.low), _f1_last(ends.high)).within(0, 1)


def _f1_last(values: Values) -> Values:
    """The last of some values, a share of right answers among those that have or got a class, as F1."""
    result = values.copy()
    result[-1] = 2 * values[-1] / (1 + values[-1])
    return result


def class_lines(classes: Sequence[ClassFigures], label: str) -> Iterator[str]:
    """The table of the classes for people."""
    wide = max(len("class"), *(len(item.label) for item in classes))
    cells = {name: [str(item.figures[name]) for item in classes] for name in CLASS_MEASURES}
    widths = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
    yield f"each value of {label} by itself, with 95% intervals; - where no query defines it:"
    head = "".join(f"  {name:>{width}}" for name, width in widths.items())
    yield f"{'class':{wide}}{'n':>9}{'patients':>10}{'predicted':>11}{head}"
    for row, item in enumerate(classes):
        figures = "".join(f"  {cells[name][row]:>{width}}" for name, width in widths.items())
        yield f"{item.label:{wide}}{item.queries:>9,}{item.patients:>10,}{item.said:>11,}{figures}"


def confusion_table(
    classes: Sequence[str], confusion: Any, queries: Sequence[int]
) -> tuple[list[str], list[list[Any]]]:
    """The confusion matrix as header and rows: counts, then the same as shares of the queries of each true class.

    Args:
        classes: Names.
        confusion: (classes, classes) sparse counts, rows the true class, columns what was predicted.
        queries: (classes,) queries of each.
    """
    header = ["true", *classes, "no answer", "queries", *(f"rate {name}" for name in classes)]
    rows = []
    for name, row, n in zip(classes, confusion.toarray().tolist(), queries, strict=True):
        rows.append([name, *row, n - sum(row), n, *(value / n if n else "" for value in row)])
    return header, rows


def confusion_lines(classes: Sequence[str], confusion: Any, queries: Sequence[int]) -> Iterator[str]:
    """The matrix for people: counts, and in brackets their share of the queries of the true class; few classes only."""
    if confusion is None or len(classes) > _MATRIX:
        return
    rows = confusion.toarray()
    cells = [
        [f"{value:,} ({figure(value / n, digits=2)})" if n else f"{value:,}" for value in row]
        for row, n in zip(rows.tolist(), queries, strict=True)
    ]
    wide = max(len("true"), *map(len, classes))
    widths = [max(len(name), *(len(row[column]) for row in cells)) for column, name in enumerate(classes)]
    yield "confusion: queries of each class (rows) by what was predicted, and their share of the row"
    yield f"{'true':{wide}}" + "".join(f"  {name:>{width}}" for name, width in zip(classes, widths, strict=True))
    for name, row in zip(classes, cells, strict=True):
        yield f"{name:{wide}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row, widths, strict=True))
