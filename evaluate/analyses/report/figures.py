"""What the charts of a report show, with captions, and the table of encoders."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbmir.evaluate.analyses.classification.assessment import ACCURACY, EXACT_MATCH
from cbmir.evaluate.analyses.comparison_report import ComparisonReport
from cbmir.evaluate.analyses.report.charts import Drawing, Series, bars, condensed, curves, heatmap, scatter
from cbmir.evaluate.analyses.report.embedding_map import EmbeddingMap
from cbmir.evaluate.analyses.report.findings import Finding, Measured
from cbmir.evaluate.analyses.report.terms import AVERAGE_PRECISION, ReportTerms
from cbmir.evaluate.header import Header
from cbmir.evaluate.results import Average, Row, row_json
from cbmir.units import counted

MOST_GROUPS = 20
"""Groups a chart shows, the most frequent; the CSV holds all."""

SYMBOLS = {
    "precision": "P",
    "precision_capped": "capped P",
    "map": "mAP",
    ACCURACY: "kNN accuracy",
    EXACT_MATCH: "kNN exact-match accuracy",
}

_PLANES = {"pca": "principal component", "tsne": "t-SNE axis", "umap": "UMAP axis"}


@dataclass(frozen=True, slots=True)
class Panel:
    """The charts of one collection; each is None where a text says why.

    Attributes:
        confusion: What the vote took for what.
        no_confusion: Why there is none.
        plane: The map of its vectors.
        no_plane: Why there is none.
    """

    confusion: Drawing | None
    no_confusion: str
    plane: Drawing | None
    no_plane: str


def draw_curves(findings: Sequence[Finding], terms: ReportTerms) -> Drawing:
    """Precision over the number of places, a line a collection; of those that could be measured."""
    measured = [(item.collection, item.measured) for item in findings if item.measured]
    series = [_series(name, item.curve) for name, item in measured]
    symbol = SYMBOLS[terms.measure]
    drawn = over(item for _, item in measured)
    caption = (
        f"Micro-averaged {terms.measure} of the first k places, with 95% intervals over {drawn}. "
        f"{_subject([item for _, item in measured])}"
    )
    return Drawing.of(curves(series, f"{symbol}@k"), "curves", f"{symbol}@k for k = 1 to {_longest(series)}", caption)


def draw_groups(findings: Sequence[Finding], terms: ReportTerms) -> Iterator[Drawing]:
    """A chart of bars for each field that was asked for, and one for the classes."""
    measured = {item.collection: item.measured for item in findings if item.measured}
    subject = _subject(list(measured.values()))
    empty = Row("", 0, "micro", "", math.nan, 0, math.nan, "")
    symbol = f"{SYMBOLS[terms.measure]}@{terms.cutoffs[0]}"
    for field in terms.deep.by:
        rows = {name: _rows(item, field, terms) for name, item in measured.items()}
        sizes = _sizes(rows.values())
        shown = list(sizes)[:MOST_GROUPS]
        if not shown:
            continue
        series = [_series(name, [mine.get(group, empty) for group in shown]) for name, mine in rows.items()]
        caption = (
            f"Micro-averaged, with 95% intervals over {over(measured.values())}, none where there is only one. "
            "In brackets the queries that have a value."
        )
        if hidden := len(sizes) - len(shown):
            caption += f" Rarer values that are not shown: {hidden:,}; the CSV files have all."
        title = f"{symbol} by class ({terms.protocol.label})" if field == "class" else f"{symbol} by {field}"
        chart = bars([f"{group} ({sizes[group]:,})" for group in shown], series, symbol)
        yield Drawing.of(chart, chart_name(field), title, f"{caption} {subject}")


def chart_name(field: str) -> str:
    """The file name of the chart of a field's groups; an own column may have any name."""
    return f"by_{re.sub(r'[^A-Za-z0-9_-]+', '-', field)}"


def draw_panel(finding: Finding) -> Panel:
    """The charts of one collection."""
    measured, no_confusion, confusion = finding.measured, "Not measured.", None
    if measured:
        confusion = _confusion(finding, measured)
        no_confusion = (
            f"Images have several values of {measured.retrieval.setting.label}: an answer doesn't stand against one "
            "true class, so there is no confusion matrix."
        )
    plane = _plane(finding, finding.drawn) if finding.drawn else None
    return Panel(confusion, "" if confusion else no_confusion, plane, "" if plane else f"No map: {finding.no_map}.")


def wording_of_exclusion(by: Sequence[str]) -> str:
    """What a query may not find, in words."""
    return " and ".join(["the query itself", *(f"images of its {name}" for name in by)])


def _confusion(finding: Finding, measured: Measured) -> Drawing | None:
    votes = measured.votes
    if votes.confusion is None:
        return None
    table, names = condensed(votes.confusion.toarray(), votes.classes, MOST_GROUPS)
    if not table.size:
        return None
    k = votes.setting.k[0]
    caption = (
        f"Rows: true {votes.setting.label}; columns: what the vote of k = {k} neighbours said; colour: share of row; "
        f"classes that no query has and no vote said are left out. {_subject([measured])}"
    )
    title = f"kNN vote of {finding.collection}: what was taken for what"
    return Drawing.of(heatmap(table, names), f"confusion_{finding.collection}", title, caption)


def _plane(finding: Finding, drawn: EmbeddingMap) -> Drawing:
    axes = [f"{_PLANES[drawn.method]} {number}" for number in (1, 2)]
    for number, share in enumerate(drawn.shares):
        axes[number] += f", {share:.1%} of the variance"
    caption = (
        f"A point an image, by modality: {len(drawn.ids):,} of {drawn.images:,}, seed {drawn.seed}. "
        f"Encoder {finding.card.name}, {finding.card.dim} dimensions, fingerprint {finding.card.fingerprint}."
    )
    if drawn.method != "pca":
        caption += " Distances between clusters mean little."
    title = f"{finding.collection} in two dimensions ({drawn.method})"
    figure = scatter(drawn.points, drawn.modalities, (axes[0], axes[1]))
    return Drawing.of(figure, f"map_{finding.collection}", title, caption)


def _rows(measured: Measured, field: str, terms: ReportTerms) -> dict[str, Row]:
    """The figures of a field's groups by value."""
    start = f"{field}="
    return {
        row.group.removeprefix(start): row
        for row in measured.retrieval.rows
        if row.group.startswith(start)
        and (row.measure, row.k, row.average) == (terms.measure, terms.cutoffs[0], "micro")
    }


def _sizes(rows: Iterable[Mapping[str, Row]]) -> dict[str, int]:
    """Queries of each group, in the collection that has most; the largest group first, equal ones by name."""
    sizes: dict[str, int] = {}
    for mine in rows:
        for group, row in mine.items():
            sizes[group] = max(sizes.get(group, 0), row.n)
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def _series(name: str, rows: Sequence[Row]) -> Series:
    columns = np.array([(row.value, row.low, row.high) for row in rows], np.float64)
    return Series(name, *columns.T)


def _longest(series: Sequence[Series]) -> int:
    return max(len(item.values) for item in series)


def over(measured: Iterable[Measured]) -> str:
    """What the intervals of some collections are drawn over: patients, images where these aren't known, or both."""
    drawn = [item.retrieval.setting.intervals.drawn for item in measured]
    return sum(drawn[1:], drawn[0]).over if drawn else "patients"


def _subject(measured: Sequence[Measured]) -> str:
    """Whom a chart speaks of: encoders, queries, gallery, exclusion."""
    settings = [item.retrieval.setting for item in measured]
    first = settings[0]
    encoders = ", ".join(
        dict.fromkeys(f"{item.retrieval.encoder.name} ({item.retrieval.encoder.fingerprint})" for item in measured)
    )
    queries, gallery = (_span([getattr(one, side).images for one in settings]) for side in ("queries", "gallery"))
    return (
        f"Encoders: {encoders}. Queries: {first.queries.filter}, n = {queries}; gallery: {first.gallery.filter}, "
        f"{gallery} images; never found: {wording_of_exclusion(first.exclusion.by)}."
    )


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


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
