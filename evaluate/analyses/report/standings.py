"""The table of encoders: a row a collection, the best of a column only where a test says so."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cbmir.evaluate.analyses.comparison.report import ComparisonReport
from cbmir.evaluate.analyses.report.findings import Finding, Measured
from cbmir.evaluate.analyses.report.terms import AVERAGE_PRECISION, ReportTerms
from cbmir.evaluate.analyses.retrieval.report import Average, Row
from cbmir.evaluate.header import Header
from cbmir.evaluate.results import row_json
from cbmir.units import counted

LEVEL = 0.05
"""Corrected p-value below which a difference counts."""

Column = tuple[str, int, Average]
_AVERAGES: tuple[Average, ...] = ("micro", "macro")


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a collection.

    Attributes:
        measure: Name of a measure, or ``accuracy`` of the vote (``exact_match_accuracy`` of several labels).
        k: Its cutoff, or the neighbours that voted.
        average: ``micro`` or ``macro``.
        value: NaN where no query has one.
        low: Lower end of the 95% interval, NaN without one.
        high: Upper end.
        best: Whether it is better than that of every other collection, each by the paired test with a corrected p below
            `LEVEL`. Accuracies aren't tested.
    """

    measure: str
    k: int
    average: Average
    value: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of the table.

    Attributes:
        collection: Its name.
        encoder: Name of its encoder.
        fingerprint: Of that encoder.
        weights: Hash of its weights, ``none`` or ``external``.
        dim: Length of its vectors.
        images: Stored images.
        indexed: Vectors in an HNSW graph.
        queries: Images that asked; 0 where it can't be measured.
        gallery: Images that were searched.
        header: What its figures are figures of; None where it can't be measured.
        cells: The figures; empty where it can't be measured.
        reason: Why not; empty otherwise.
    """

    collection: str
    encoder: str
    fingerprint: str
    weights: str
    dim: int
    images: int
    indexed: int
    queries: int
    gallery: int
    header: Header | None
    cells: tuple[Cell, ...]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The row as JSON takes it: null for a figure that doesn't exist."""
        protocol = self.header.as_json() if self.header else None
        data = row_json(self) | {"protocol": protocol, "cells": [row_json(cell) for cell in self.cells]}
        del data["header"]
        return data


def standings(
    findings: Sequence[Finding], comparison: ComparisonReport | None, terms: ReportTerms
) -> tuple[Standing, ...]:
    """The table of some collections, in their order.

    Args:
        findings: The collections.
        comparison: Of those that could be measured; None where there is none, then no figure is marked as best.
        terms: Of the report.
    """
    best = set() if comparison is None else winners(comparison)
    return tuple(_standing(finding, best, terms) for finding in findings)


def table(rows: Sequence[Standing]) -> str:
    """The table for people, a line a figure; * marks the best of a figure, see `Cell`."""
    lines = []
    for row in rows:
        what = row.reason or f"{counted(row.queries, 'query')}, gallery of {row.gallery:,}"
        encoder = f"{row.encoder}, {row.dim} dimensions, fingerprint {row.fingerprint}"
        lines.append(f"{row.collection}: {encoder}; {counted(row.images, 'image')}, {what}")
        lines += [f"  {line}" for line in row.header.lines()] if row.header else []
        for cell in row.cells:
            interval = "" if math.isnan(cell.low) else f"  {cell.low:.4f} to {cell.high:.4f}"
            name = f"{cell.measure}@{cell.k}"
            lines.append(f"  {name:22} {cell.average:6} {cell.value:.4f}{'*' if cell.best else ' '}{interval}")
    return "\n".join(lines)


def shown(rows: Sequence[Row], terms: ReportTerms) -> list[Row]:
    """The figures of all queries that tables show: precision at each cutoff, mean average precision at the deepest."""
    cells = {(row.measure, row.k, row.average): row for row in rows if row.group == "all"}
    columns = [*((terms.measure, k) for k in terms.cutoffs), (AVERAGE_PRECISION, terms.cutoffs[-1])]
    return [cells[measure, k, average] for measure, k in columns for average in _AVERAGES]


def winners(comparison: ComparisonReport) -> set[tuple[str, Column]]:
    """Collections that beat every other in a figure, each with a corrected p below `LEVEL`.

    Where galleries differ nobody does: the figures don't compare one to one.
    """
    if not comparison.same_gallery:
        return set()
    beaten: dict[tuple[str, Column], int] = {}
    for row in comparison.rows:
        if not math.isnan(row.p_holm) and row.p_holm < LEVEL:
            winner = row.first if row.difference > 0 else row.second
            key = (winner, (row.measure, row.k, row.average))
            beaten[key] = beaten.get(key, 0) + 1
    return {key for key, others in beaten.items() if others == len(comparison.entries) - 1}


def _standing(finding: Finding, best: set[tuple[str, Column]], terms: ReportTerms) -> Standing:
    measured = finding.measured
    setting = measured.retrieval.setting if measured else None
    return Standing(
        collection=finding.collection,
        encoder=finding.card.name,
        fingerprint=finding.card.fingerprint,
        weights=finding.card.weights,
        dim=finding.card.dim,
        images=finding.info.points,
        indexed=finding.info.indexed,
        queries=setting.queries.images if setting else 0,
        gallery=setting.gallery.images if setting else 0,
        header=setting.header if setting else None,
        cells=tuple(
            Cell(
                row.measure,
                row.k,
                row.average,
                row.value,
                row.low,
                row.high,
                (finding.collection, (row.measure, row.k, row.average)) in best,
            )
            for row in _figures(measured, terms)
        ),
        reason=finding.reason,
    )


def _figures(measured: Measured | None, terms: ReportTerms) -> Iterator[Row]:
    """The figures of all queries, in the order of the columns."""
    if measured:
        yield from shown(measured.retrieval.rows, terms)
        yield next(row for row in measured.votes.rows if row.group == "all" and row.average == "micro")
