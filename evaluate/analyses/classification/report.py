"""What a classifier was asked and how it did: tidy rows, the confusion of its classes, and what was left out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import EVERYONE
from cbmir.evaluate.analyses.classification.labels import ACCURACY, EXACT_MATCH, FIGURES, LabelFigures
from cbmir.evaluate.analyses.classification.method import Learning, LeftOut, Voting
from cbmir.evaluate.analyses.retrieval.report import RetrievalReport, Row, setting_columns
from cbmir.evaluate.analyses.retrieval.setting import Setting, unknown_patients
from cbmir.evaluate.header import Header, Omission
from cbmir.evaluate.results import Asked, TabularResult, row_json, write_asked, write_table
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted

MEASURES = (ACCURACY, "f1", "precision", "recall", "roc_auc")


@dataclass(frozen=True, slots=True, repr=False)
class ClassificationReport(TabularResult):
    """The result of a classification.

    Attributes:
        setting: What was measured, and on which terms.
        encoder: What made the vectors.
        method: How classes were told.
        rows: The figures.
        classes: Names of all classes.
        confusion: (classes, classes) sparse counts, rows the true class, columns what was said; None where images have
            several classes.
        left_out: What the figures don't speak of.
        together: The figures of all queries when nothing but the query itself is excluded; empty where that changes
            nothing.
        labels: Each class by itself, where images have several; else empty.
        asked: What it is the answer to.
    """

    setting: Setting
    encoder: EncoderCard
    method: Voting | Learning
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    confusion: Any
    left_out: LeftOut
    together: tuple[Row, ...] = ()
    labels: tuple[LabelFigures, ...] = ()
    asked: Asked | None = None

    @property
    def header(self) -> Header:
        """What the result says first."""
        base = self.setting.header
        uncovered = Omission(
            "queries_without_relevant",
            self.setting.queries_without_relevant,
            "query",
            "without a gallery image of one of their classes: counted, and mostly wrong",
        )
        val = {"val": self.method.val.side.unlabelled} if self.method.val else {}
        return replace(
            base, without_label={**base.without_label, **val}, left_out=(uncovered, *self.left_out.omissions())
        )

    @property
    def _figures_of_labels(self) -> list[str]:
        """Those that were asked for; all, where accuracy alone was."""
        return [name for name in FIGURES if name in self.setting.measures] or list(FIGURES)

    @property
    def label_rows(self) -> tuple[Row, ...]:
        """The figures of each class by itself as rows."""
        k, search = self.setting.k[0], self.setting.search[0]
        unseen = set(self.left_out.unseen)
        return tuple(
            Row(
                name,
                k,
                "label",
                f"label={item.label}",
                getattr(item, name),
                item.queries,
                float(item.label not in unseen),
                search,
            )
            for item in self.labels
            for name in self._figures_of_labels
        )

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it; a figure without a value is null, counts are [true, said, queries]."""
        base = RetrievalReport(self.setting, self.encoder, self.rows, self.together).content()
        counts = None
        if self.confusion is not None:
            table = self.confusion.tocoo()
            counts = sorted(zip(*(item.tolist() for item in (table.row, table.col, table.data)), strict=True))
        method = asdict(self.method)
        if self.method.several and "val_accuracy" in method:
            method[f"val_{EXACT_MATCH}"] = method.pop("val_accuracy")
        return {
            **base,
            "protocol": {**base["protocol"], **method, **self.header.as_json()},
            **({"labels": [row_json(item) for item in self.labels]} if self.labels else {}),
            "confusion": {"classes": list(self.classes), "counts": counts},
            "left_out": asdict(self.left_out),
        }

    def csv_rows(self) -> tuple[Row, ...]:
        """The rows, and those of each class where images have several."""
        return (*self.rows, *self.label_rows)

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header."""
        return setting_columns(self.setting, self.encoder, self.header)

    def write_confusion(self, path: Path) -> None:
        """Write how often (columns) each class was said of the queries of a class (rows).

        Raises:
            ProtocolError: images have several classes.
            CbmirError: the file can't be written.
        """
        if self.confusion is None:
            raise ProtocolError(
                f"images have several values of {self.setting.label}, which have no confusion matrix; choose a label "
                "with one value, such as primary_label"
            )
        rows = zip(self.classes, self.confusion.toarray().tolist(), strict=True)
        write_table(path, ["true", *self.classes], ([name, *counts] for name, counts in rows))
        write_asked(path, self.asked)

    def table(self) -> str:
        """The report for people: the terms, the figures, how sure they are."""
        parts = [self._terms(), _figures(self.rows), self._labels(), self._sureness()]
        if self.together:
            head = "and when nothing but the query itself is excluded:"
            parts.append(line for lines in ([head], _figures(self.together)) for line in lines)
        return "\n\n".join(text for text in ("\n".join(part) for part in parts) if text)

    def _terms(self) -> Iterator[str]:
        setting, encoder, barred = self.setting, self.encoder, self.setting.exclusion
        images = counted(setting.vectors, "image")
        yield f"collection  {setting.collection}: {images}, {setting.store}, cbmir {setting.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        for role, side in (("queries", setting.queries), ("gallery", setting.gallery)):
            yield f"{role}     {side.filter}: {counted(side.images, 'image')}"
        yield from self.header.lines()
        values = counted(len(self.classes), "value")
        yield f"classes     {values} of {setting.label}, {setting.classes:,} among the queries"
        yield from self.method.lines()
        if isinstance(self.method, Voting):
            excluded = " and ".join(["the query itself", *(f"its {name}" for name in barred.by)])
            images = counted(barred.images_excluded, "image")
            yield f"excluded    {excluded}: {images} for {counted(barred.queries_affected, 'query')}"
            if warning := setting.warning:
                yield f"WARNING     {warning}"
            yield f"search      {setting.search[0]}"
        elif warning := self._untold():
            yield f"WARNING     {warning}"
        yield from self.left_out.counts(setting.intervals.draws)
        if self.method.several:
            yield f"several     images may have several classes: {EXACT_MATCH} is the share of queries of which all"
            yield "            classes were predicted and no other; the figures of each class stand below"

    def _untold(self) -> str:
        """Of which queries a probe can't tell whether their patient has training images; empty where it can."""
        setting, effect = self.setting, "whether a query's patient has training images can't be told"
        queries, gallery = setting.queries.images, setting.gallery.images
        without = (setting.exclusion.queries_without_patient, setting.exclusion.gallery_without_patient)
        return unknown_patients(without, (queries, gallery), (effect, effect, effect))

    def _labels(self) -> Iterator[str]:
        """A line a class, where images have several."""
        if not self.labels:
            return
        shown = self._figures_of_labels
        wide = max(len("label"), *(len(item.label) for item in self.labels))
        yield f"each value of {self.setting.label} by itself; - where no query has it:"
        yield f"{'label':{wide}}{'queries':>9}{'predicted':>11}{''.join(f'{name:>11}' for name in shown)}"
        for item in self.labels:
            values = "".join(f"{figure(getattr(item, name)):>11}" for name in shown)
            yield f"{item.label:{wide}}{item.queries:>9,}{item.said:>11,}{values}"

    def _sureness(self) -> Iterator[str]:
        shown = [row for row in self.rows if row.group == EVERYONE and not math.isnan(row.low)]
        if shown:
            drawn = self.setting.intervals
            yield f"95% intervals, {counted(drawn.draws, 'draw')} of {drawn.units}:"
        wide = max([12, *(len(row.measure) for row in shown)])
        for row in shown:
            interval = f"{figure(row.low)} to {figure(row.high)}"
            yield f"{row.average:7} {row.measure:{wide}} {figure(row.value)}  {interval}"


def figure(value: float) -> str:
    """A figure in a table; - for none."""
    return f"{'-':>6}" if math.isnan(value) else f"{value:.4f}"


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    cells = {(row.group, row.average, row.measure): row for row in rows}
    measures = list(dict.fromkeys(row.measure for row in rows))
    lines = list(dict.fromkeys((row.group, row.average, row.n, row.coverage) for row in rows))
    wide = max(len(group) for group, *_ in lines)
    widths = {name: max(11, len(name) + 2) for name in measures}
    yield f"{'group':{wide}}  average{''.join(f'{name:>{width}}' for name, width in widths.items())}{'n':>9}  coverage"
    for group, average, n, coverage in lines:
        values = ((width, cells.get((group, average, name))) for name, width in widths.items())
        text = "".join(f"{figure(row.value) if row else '':>{width}}" for width, row in values)
        yield f"{group:{wide}}  {average:7}{text}{n:>9,}  {coverage:>8.4f}"
