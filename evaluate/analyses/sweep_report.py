"""What a sweep over gallery sizes found: a row a gallery and figure, and the terms without which they are no result."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cbmir.evaluate.header import Header, Omission
from cbmir.evaluate.results import Asked, Average, TabularResult, row_json
from cbmir.evaluate.setting import Setting, setting_columns
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One figure of one gallery, beside what the galleries of its size have in common.

    ``frame[frame.gallery == 1]`` has one row a size: `mean`, `lowest` and `highest` against `size` are a curve and its
    band. `low` to `high` is how far other patients would move the figure of this gallery, `lowest` to `highest` how far
    other galleries moved it.

    Attributes:
        asked: Images that were asked for; galleries of one size have it in common.
        size: Images in the gallery; with whole patients the nearest number to `asked`.
        share: The same as a part of the whole gallery, 0 to 1.
        gallery: Number of the draw, from 1; the whole gallery is the same in all draws and stands once, as 1.
        measure: Name of a measure.
        k: Its cutoff.
        average: ``micro``, the mean over queries, or ``macro``, the mean over classes of the class means.
        group: ``all`` queries, or those of a ``modality=...``.
        value: The mean; NaN where no query has a value.
        low: Lower end of the 95% interval, drawn over patients of the queries; NaN where there is none.
        high: Upper end.
        n: Queries in the mean.
        coverage: Share of the group's queries with a relevant image in this gallery.
        uncovered_classes: Classes of the group of which no query has one.
        mean: Of `value` over the galleries of this size; those without a value are left out, NaN where none has one.
        lowest: The least of them.
        highest: The largest.
    """

    asked: int
    size: int
    share: float
    gallery: int
    measure: str
    k: int
    average: Average
    group: str
    value: float
    low: float
    high: float
    n: int
    coverage: float
    uncovered_classes: int
    mean: float = math.nan
    lowest: float = math.nan
    highest: float = math.nan


@dataclass(frozen=True, slots=True, repr=False)
class SweepReport(TabularResult):
    """The result of a sweep over gallery sizes.

    Attributes:
        setting: What was measured, and on which terms; its gallery is the whole one.
        encoder: What made the vectors.
        unit: What was drawn, ``image`` or ``patient``.
        without_patient: Images of the whole gallery without a patient id, where patients are drawn: each is drawn on
            its own; 0 where images are drawn.
        galleries: Draws a size; their seed is that of the intervals.
        sizes_left_out: Sizes that were asked for and have less than one image, or more than there are.
        rows: By rising size, then by draw.
        asked: What it is the answer to.
    """

    setting: Setting
    encoder: EncoderCard
    unit: str
    without_patient: int
    galleries: int
    sizes_left_out: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    asked: Asked | None = None

    @property
    def header(self) -> Header:
        """What the result says first."""
        sizes = Omission("sizes_without_gallery", len(self.sizes_left_out), "size", self._sizes_left_out())
        header = self.setting.header
        return replace(header, left_out=(*header.left_out, sizes))

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it; a figure that doesn't exist is null."""
        return {
            "protocol": {**asdict(self.setting), **self.header.as_json()},
            "encoder": {**self.encoder.as_json(), "fingerprint": self.encoder.fingerprint},
            "unit": self.unit,
            "gallery_images_without_patient": self.without_patient,
            "galleries": self.galleries,
            "sizes_left_out": self.sizes_left_out,
            "rows": [row_json(row) for row in self.rows],
        }

    def csv_rows(self) -> tuple[SweepRow, ...]:
        """A row a gallery and value."""
        return self.rows

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header; ``gallery_filter`` is which images the whole gallery has."""
        columns = setting_columns(self.setting, self.encoder, self.header)
        return {"gallery_filter" if name == "gallery" else name: value for name, value in columns.items()} | {
            "unit": self.unit
        }

    def table(self) -> str:
        """The report for people: the terms, then a line a size, over queries and over classes."""
        parts = [[*self._terms()], [*self._lines("micro")], [*self._lines("macro")], [*self._groups()]]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def _terms(self) -> Iterator[str]:
        setting, encoder = self.setting, self.encoder
        images = counted(setting.vectors, "image")
        yield f"collection  {setting.collection}: {images}, {setting.store}, cbmir {setting.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        yield f"queries     {setting.queries.filter}: {counted(setting.queries.images, 'image')}"
        yield f"gallery     {setting.gallery.filter}: {counted(setting.gallery.images, 'image')}"
        yield from self.header.lines()
        yield f"drawn       {counted(self.galleries, 'time')}, {self._drawn()}; seed {setting.intervals.seed}"
        classes = counted(setting.classes, "class")
        yield f"relevant    by {setting.label}, {setting.relevance}; the queries have {classes}"
        excluded = " and ".join(["the query itself", *(f"its {name}" for name in setting.exclusion.by)])
        yield f"excluded    {excluded}; search exact, a scan of all vectors"
        if warning := setting.warning:
            yield f"WARNING     {warning}"
        yield from setting.intervals.lines()

    def _drawn(self) -> str:
        if self.unit == "image":
            return "images"
        drawn = self.setting.patients["gallery"]
        return f"whole patients: {drawn.words}" if drawn.patients else f"images: {drawn.words}"

    def _sizes_left_out(self) -> str:
        return f"({', '.join(self.sizes_left_out)}): not 1 to {counted(self.setting.gallery.images, 'image')}"

    def _lines(self, average: Average) -> Iterator[str]:
        """A line a size: all queries, by this average."""
        rows = [row for row in self.rows if row.group == "all" and row.average == average]
        columns = list(dict.fromkeys((row.measure, row.k) for row in rows))
        cells = {(row.asked, row.measure, row.k): row for row in rows}
        over = {"micro": "queries", "macro": "classes"}[average]
        yield f"{average}, the mean over {over}; mean of the draws, lowest to highest:"
        head = "".join(f"  {f'{measure}@{k}':20}" for measure, k in columns)
        yield f"{'asked':>10}  {'images':>10}  {'share':>7}  coverage  {'uncovered':>9}{head}".rstrip()
        for asked in dict.fromkeys(row.asked for row in rows):
            same = [row for row in rows if row.asked == asked and (row.measure, row.k) == columns[0]]
            figures = "".join(f"  {_spread(cells[asked, measure, k]):20}" for measure, k in columns)
            yield (
                f"{asked:>10,}  {_mean([row.size for row in same]):>10,.0f}  {_mean([row.share for row in same]):>7.2%}"
                f"  {_mean([row.coverage for row in same]):>8.4f}  {_range([row.uncovered_classes for row in same]):>9}"
                f"{figures.rstrip()}"
            )

    def _groups(self) -> Iterator[str]:
        yield "coverage: share of queries with a relevant image in the gallery; uncovered: classes without any."
        if not all(row.group == "all" for row in self.rows):
            groups = len({row.group for row in self.rows}) - 1
            yield f"Figures of {counted(groups, 'group')}, and 95% intervals of each gallery's: with --out and --json."


def _spread(row: SweepRow) -> str:
    if math.isnan(row.mean):
        return "-"
    return f"{row.mean:.4f}" + (f" {row.lowest:.4f}-{row.highest:.4f}" if row.lowest < row.highest else "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,}-{most:,}"
