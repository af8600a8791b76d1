"""The charts of a report, drawn from its findings, each with a caption that says what it is a result of."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cbmir.evaluate.analyses.classification.labels import ACCURACY, EXACT_MATCH
from cbmir.evaluate.analyses.report.charts import Series, bars, condensed, curves, heatmap, scatter
from cbmir.evaluate.analyses.report.drawing import Drawing
from cbmir.evaluate.analyses.report.embedding_map import EmbeddingMap
from cbmir.evaluate.analyses.report.findings import Finding, Measured
from cbmir.evaluate.analyses.report.terms import ReportTerms
from cbmir.evaluate.analyses.retrieval.report import Row

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
