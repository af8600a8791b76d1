"""What is said of images that may have several classes: the name of their accuracy, and each class by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.analyses.classification.roc import curve
from cbmir.evaluate.analyses.classification.verdicts import Verdicts

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
