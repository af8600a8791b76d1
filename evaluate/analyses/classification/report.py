"""How well a classifier did: rows, the confusion of its classes, and what was left out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import (
    ACCURACY,
    EVERYONE,
    EXACT_MATCH,
    Assessment,
)
from cbmir.evaluate.analyses.classification.classes import (
    CLASS_MEASURES,
    ClassFigures,
    class_lines,
    confusion_lines,
    confusion_table,
)
from cbmir.evaluate.analyses.classification.splits import Validation
from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
from cbmir.evaluate.header import Header, Omission
from cbmir.evaluate.protocol import NAMED
from cbmir.evaluate.results import Asked, Row, TabularResult, figure, write_asked, write_table
from cbmir.evaluate.setting import Setting, setting_columns, unknown_patients
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted


@dataclass(frozen=True, slots=True)
class Voting:
    """How neighbours voted.

    Attributes:
        vote: ``mean`` or ``softmax``.
        temperature: Of the softmax, None of the mean.
        chosen_k: Neighbours that voted.
        how: ``given``, or ``val``: the k with the best micro-averaged F1 on the validation images.
        max_k: The largest k that was tried; None where it was given.
        rules: ``default``, or ``paper``: see `cbmir.evaluate.analyses.classification.knn.VoteRules`.
        ties: What decides between classes with as many votes.
        several: Whether images have several classes.
        val: The validation images; None where k was given.
        val_scores: Micro-averaged F1 on them for k = 1, 2, ...; the accuracy where an image has one class.
    """

    vote: str
    temperature: float | None
    chosen_k: int
    how: str
    max_k: int | None
    rules: str
    ties: str
    several: bool
    val: Validation | None
    val_scores: tuple[float, ...]

    def lines(self) -> Iterator[str]:
        """The same for people."""
        softmax = f" at temperature {self.temperature}" if self.temperature else ""
        rules = ", the paper's rules, which know the true class: too high" if self.rules == "paper" else ""
        yield f"vote        {self.vote}{softmax} of {counted(self.chosen_k, 'neighbour')}{rules}"
        yield f"ties        equal votes go {'by' if self.rules == 'paper' else 'to'} {self.ties}"
        if self.val:
            yield f"k           the best of 1 to {self.max_k} on {validation(self.val)}"


@dataclass(frozen=True, slots=True)
class Learning:
    """How a probe was trained.

    Attributes:
        settings: Of the training, see `cbmir.evaluate.analyses.classification.training.ProbeSettings`.
        c: Inverse strength of the penalty that was chosen; None where training is by epochs.
        gradient: Of the loss at the weights that are measured, as a part of that at the start.
        converged: Whether it is small enough for the loss to have settled.
        epoch: The one whose weights are measured; the number of the penalty tried, where `c` is given.
        epochs: That were done.
        several: Whether images have several classes.
        train_images: With a label.
        queries_seen: Test images of which another image of the patient, or the image itself, was learnt from.
        val: The validation images.
        val_accuracy: On them, after that epoch; of exact matches, where images have several classes.
    """

    settings: Mapping[str, Any]
    c: float | None
    gradient: float
    converged: bool
    epoch: int
    epochs: int
    several: bool
    train_images: int
    queries_seen: int
    val: Validation
    val_accuracy: float

    def lines(self) -> Iterator[str]:
        """The same for people."""
        accuracy = "exact-match accuracy" if self.several else "accuracy"
        if self.c is not None:
            images = counted(self.train_images, "training image")
            yield f"probe       logistic regression by L-BFGS, C = {self.c:g}; {images}"
            yield (
                f"C           the best of {self.epochs} by the loss on {validation(self.val)}; {accuracy} there "
                f"{self.val_accuracy:.4f}"
            )
        else:
            yield (
                f"probe       one linear layer by AdamW, seed {self.settings['seed']}, the best of "
                f"{counted(self.epochs, 'epoch')} is {self.epoch}; {counted(self.train_images, 'training image')}"
            )
            yield f"stopped by  {validation(self.val)}, {accuracy} {self.val_accuracy:.4f}"
        if not self.converged:
            yield (
                f"WARNING     the training has not converged: the gradient of the loss is still {self.gradient:.1%} of "
                "that at the start, so other settings would give other results"
            )
        yield f"leakage     {counted(self.queries_seen, 'query')} whose patient has training images"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What no figure, or not every figure, speaks of.

    Attributes:
        absent: Classes that no query has: in no macro recall and no ROC-AUC.
        universal: Classes that every query has: in no ROC-AUC.
        stray: Absent classes that were said nevertheless: 0 in macro precision and F1.
        lone: Classes whose queries are of one patient.
        unseen: Classes without a gallery image.
        unanswered: Queries of which no class was said.
        voteless: Queries of which no neighbour has a label.
        groups: Groups asked for that the class decides.
    """

    absent: tuple[str, ...]
    universal: tuple[str, ...]
    stray: tuple[str, ...]
    lone: tuple[str, ...]
    unseen: tuple[str, ...]
    unanswered: int
    voteless: int
    groups: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        assessment: Assessment,
        classes: Sequence[str],
        unseen: Sequence[int],
        voteless: int,
        groups: tuple[str, ...] = (),
    ) -> "LeftOut":
        """Names for the codes of an assessment."""

        def names(codes: Sequence[int]) -> tuple[str, ...]:
            return tuple(classes[code] for code in codes)

        return cls(
            absent=names(assessment.absent),
            universal=names(assessment.universal),
            stray=names(assessment.stray),
            lone=names(assessment.lone),
            unseen=names(unseen),
            unanswered=assessment.unanswered,
            voteless=voteless,
            groups=groups,
        )

    def omissions(self) -> tuple[Omission, ...]:
        """The classes, for the header of a result."""
        texts = (
            (self.absent, "classes_without_query", "that no query has, in no macro recall and no roc_auc"),
            (self.universal, "classes_of_every_query", "that every query has, in no roc_auc"),
            (self.stray, "classes_said_without_query", "predicted that no query has, 0 in macro precision and F1"),
            (
                self.lone,
                "classes_of_one_patient",
                "of one patient: macro intervals use the spread between classes for them",
            ),
            (self.unseen, "classes_without_gallery_image", "without a gallery image"),
        )
        return tuple(
            Omission(key, len(names), "class", f"{text}: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}")
            for names, key, text in texts
        )

    def lines(self) -> Iterator[str]:
        """What there is of it, for people."""
        yield from (f"left out    {item.text}" for item in self.omissions() if item.count)
        yield from self.counts()

    def counts(self) -> Iterator[str]:
        """The same without the classes."""
        for count, text in ((self.unanswered, "were told no class"), (self.voteless, "met no labelled neighbour")):
            if count:
                yield f"wrong       {counted(count, 'query')} {text}"
        if self.groups:
            yield f"left out    groups by {', '.join(self.groups)}: each class has a line of its own against the others"


def validation(val: Validation) -> str:
    """The validation images in words."""
    side = val.side
    text = f"{counted(side.images, 'image')} of {side.filter}"
    return text + (f", {val.in_test:,} of them test images: too high" if val.in_test else "")


MEASURES = (ACCURACY, "balanced_accuracy", "kappa", "mcc", "f1", "precision", "recall", "roc_auc")


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
        labels: Each class by itself.
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
    labels: tuple[ClassFigures, ...] = ()
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
                item.figures[name].value,
                item.queries,
                float(item.label not in unseen),
                search,
                item.figures[name].low,
                item.figures[name].high,
                item.patients,
            )
            for item in self.labels
            for name in CLASS_MEASURES
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
            "labels": [item.as_json() for item in self.labels],
            "confusion": {"classes": list(self.classes), "counts": counts, "queries": list(self._queries)},
            "left_out": asdict(self.left_out),
        }

    def csv_rows(self) -> tuple[Row, ...]:
        """The rows, and those of each class."""
        return (*self.rows, *self.label_rows)

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header."""
        return setting_columns(self.setting, self.encoder, self.header)

    def write_confusion(self, path: Path) -> None:
        """Write how often (columns) each class was said of the queries of a class (rows), as counts and as shares.

        Raises:
            ProtocolError: images have several classes.
            CbmirError: the file can't be written.
        """
        if self.confusion is None:
            raise ProtocolError(
                f"images have several values of {self.setting.label}, which have no confusion matrix; choose a label "
                "with one value, such as primary_label"
            )
        write_table(path, *confusion_table(self.classes, self.confusion, self._queries))
        write_asked(path, self.asked)

    def table(self) -> str:
        """The report for people: the terms, the figures, how sure they are."""
        parts = [self._terms(), _figures(self.rows), self._sureness()]
        if self.labels:
            parts.append(class_lines(self.labels, self.setting.label))
            parts.append(confusion_lines(self.classes, self.confusion, self._queries))
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
        yield from self.left_out.counts()
        yield from setting.intervals.lines()
        if self.method.several:
            yield f"several     images may have several classes: {EXACT_MATCH} is the share of queries of which all"
            yield "            classes were predicted and no other; the figures of each class stand below"

    def _untold(self) -> str:
        """Of which queries a probe can't tell whether their patient has training images; empty where it can."""
        setting, effect = self.setting, "whether a query's patient has training images can't be told"
        queries, gallery = setting.queries.images, setting.gallery.images
        without = (setting.exclusion.queries_without_patient, setting.exclusion.gallery_without_patient)
        return unknown_patients(without, (queries, gallery), (effect, effect, effect))

    @property
    def _queries(self) -> tuple[int, ...]:
        """Queries of each class, in the order of `classes`."""
        return tuple(item.queries for item in self.labels)

    def _sureness(self) -> Iterator[str]:
        shown = [row for row in self.rows if row.group == EVERYONE and not math.isnan(row.low)]
        if shown:
            drawn = self.setting.intervals
            yield f"95% intervals, {drawn.words}; of roc_auc in closed form (Obuchowski):"
        wide = max([12, *(len(row.measure) for row in shown)])
        for row in shown:
            interval = f"{figure(row.low)} to {figure(row.high)}"
            yield f"{row.average:7} {row.measure:{wide}} {figure(row.value):>7}  {interval}"


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    cells = {(row.group, row.average, row.measure): row for row in rows}
    measures = list(dict.fromkeys(row.measure for row in rows))
    lines = list(dict.fromkeys((row.group, row.average, row.n, row.patients, row.coverage) for row in rows))
    wide = max(len(group) for group, *_ in lines)
    widths = {name: max(11, len(name) + 2) for name in measures}
    head = "".join(f"{name:>{width}}" for name, width in widths.items())
    yield f"{'group':{wide}}  average{head}{'n':>9}{'patients':>10}  coverage"
    for group, average, n, patients, coverage in lines:
        values = ((width, cells.get((group, average, name))) for name, width in widths.items())
        text = "".join(f"{figure(row.value) if row else '':>{width}}" for width, row in values)
        yield f"{group:{wide}}  {average:7}{text}{n:>9,}{patients:>10,}  {coverage:>8.4f}"
