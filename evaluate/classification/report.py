"""What a classifier was asked and how it did: tidy rows, the confusion of its classes, and what was left out."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbmir.errors import CbmirError, ProtocolError
from cbmir.fingerprint import EncoderCard
from evaluate.classification.assessment import EVERYONE, Assessment
from evaluate.classification.splits import Validation
from evaluate.protocol import NAMED
from evaluate.retrieval.report import RetrievalReport, Row, Setting

MEASURES = ("accuracy", "f1", "precision", "recall", "roc_auc")


@dataclass(frozen=True, slots=True)
class Voting:
    """How neighbours voted.

    Attributes:
        vote: ``mean`` or ``softmax``.
        temperature: Of the softmax, None of the mean.
        chosen_k: Neighbours that voted.
        how: ``given``, or ``val``: the k with the best micro-averaged F1 on the validation images.
        max_k: The largest k that was tried; None where it was given.
        rules: ``default``, or ``paper``: see `evaluate.classification.classify.VoteRules`.
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
    several: bool
    val: Validation | None
    val_scores: tuple[float, ...]

    def lines(self) -> Iterator[str]:
        """The same for people."""
        softmax = f" at temperature {self.temperature}" if self.temperature else ""
        rules = ", the paper's rules, which know the true class: too high" if self.rules == "paper" else ""
        yield f"vote        {self.vote}{softmax} of {self.chosen_k} neighbours{rules}"
        if self.val:
            yield f"k           the best of 1 to {self.max_k} on {validation(self.val)}"


@dataclass(frozen=True, slots=True)
class Learning:
    """How a probe was trained.

    Attributes:
        settings: Of the training, see `evaluate.probe.descent.ProbeSettings`.
        epoch: The one whose weights are measured.
        epochs: That were done.
        resumed: Of these, by an earlier run.
        several: Whether images have several classes.
        train_images: With a label.
        queries_seen: Test images of which another image of the patient, or the image itself, was learnt from.
        val: The validation images.
        val_accuracy: On them, after that epoch.
    """

    settings: Mapping[str, Any]
    epoch: int
    epochs: int
    resumed: int
    several: bool
    train_images: int
    queries_seen: int
    val: Validation
    val_accuracy: float

    def lines(self) -> Iterator[str]:
        """The same for people."""
        yield (
            f"probe       one linear layer, seed {self.settings['seed']}, the best of {self.epochs} epochs is "
            f"{self.epoch}; {self.train_images:,} training images"
        )
        yield f"stopped by  {validation(self.val)}, accuracy {self.val_accuracy:.4f}"
        yield f"leakage     {self.queries_seen:,} queries whose patient has training images"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What no figure, or not every figure, speaks of.

    Attributes:
        absent: Classes that no query has: in no macro mean and no ROC-AUC.
        universal: Classes that every query has: in no ROC-AUC.
        stray: Absent classes that were said nevertheless.
        unseen: Classes without a gallery image.
        unanswered: Queries of which no class was said.
        voteless: Queries of which no neighbour has a label.
        roc_auc_draws: Draws behind the intervals of ROC-AUC, where they are fewer than the others.
    """

    absent: tuple[str, ...]
    universal: tuple[str, ...]
    stray: tuple[str, ...]
    unseen: tuple[str, ...]
    unanswered: int
    voteless: int
    roc_auc_draws: int

    @classmethod
    def of(cls, assessment: Assessment, classes: Sequence[str], unseen: Sequence[int], voteless: int) -> "LeftOut":
        """Names for the codes of an assessment."""

        def names(codes: Sequence[int]) -> tuple[str, ...]:
            return tuple(classes[code] for code in codes)

        return cls(
            absent=names(assessment.absent),
            universal=names(assessment.universal),
            stray=names(assessment.stray),
            unseen=names(unseen),
            unanswered=assessment.unanswered,
            voteless=voteless,
            roc_auc_draws=assessment.area_draws,
        )

    def lines(self, draws: int) -> Iterator[str]:
        """What there is of it, for people."""
        texts = (
            (self.absent, "classes that no query has"),
            (self.universal, "classes that every query has, in no roc_auc"),
            (self.stray, "of the classes that no query has were said"),
            (self.unseen, "classes without a gallery image"),
        )
        for names, text in texts:
            if names:
                yield f"left out    {len(names):,} {text}: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}"
        for count, text in ((self.unanswered, "were told no class"), (self.voteless, "met no labelled neighbour")):
            if count:
                yield f"wrong       {count:,} queries {text}"
        if self.roc_auc_draws < draws:
            yield f"intervals   of roc_auc are of {self.roc_auc_draws:,} draws only"


@dataclass(frozen=True, slots=True)
class ClassificationReport:
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
    """

    setting: Setting
    encoder: EncoderCard
    method: Voting | Learning
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    confusion: Any
    left_out: LeftOut
    together: tuple[Row, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The report as JSON takes it; a figure without a value is null, counts are [true, said, queries]."""
        base = RetrievalReport(self.setting, self.encoder, self.rows, self.together).as_json()
        counts = None
        if self.confusion is not None:
            table = self.confusion.tocoo()
            counts = sorted(zip(*(item.tolist() for item in (table.row, table.col, table.data)), strict=True))
        return {
            **base,
            "protocol": {**base["protocol"], **asdict(self.method)},
            "confusion": {"classes": list(self.classes), "counts": counts},
            "left_out": asdict(self.left_out),
        }

    def write_csv(self, path: Path) -> None:
        """Write the rows, each with what it is a result of.

        Raises:
            CbmirError: the file can't be written.
        """
        RetrievalReport(self.setting, self.encoder, self.rows).write_csv(path)

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

    def table(self) -> str:
        """The report for people: the terms, the figures, how sure they are."""
        parts = [self._terms(), _figures(self.rows), self._sureness()]
        if self.together:
            head = "and when nothing but the query itself is excluded:"
            parts.append(line for lines in ([head], _figures(self.together)) for line in lines)
        return "\n\n".join(text for text in ("\n".join(part) for part in parts) if text)

    def _terms(self) -> Iterator[str]:
        setting, encoder, barred = self.setting, self.encoder, self.setting.exclusion
        yield f"collection  {setting.collection}: {setting.vectors:,} images, {setting.store}, cbmir {setting.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        for role, side in (("queries", setting.queries), ("gallery", setting.gallery)):
            yield f"{role}     {side.filter}: {side.images:,} images; {side.unlabelled:,} without {setting.label}"
        yield f"classes     {len(self.classes):,} values of {setting.label}, {setting.classes:,} among the queries"
        yield from self.method.lines()
        if isinstance(self.method, Voting):
            excluded = " and ".join(["the query itself", *(f"its {name}" for name in barred.by)])
            yield f"excluded    {excluded}: {barred.images_excluded:,} images for {barred.queries_affected:,} queries"
            if warning := barred.warning(setting.queries.images):
                yield f"WARNING     {warning}"
            yield f"search      {setting.search[0]}"
        elif barred.queries_without_patient:
            yield (
                f"WARNING     {barred.queries_without_patient:,} of {setting.queries.images:,} queries have no "
                "patient_id: whether their patient has training images can't be told"
            )
        yield from self.left_out.lines(setting.intervals.draws)

    def _sureness(self) -> Iterator[str]:
        shown = [row for row in self.rows if row.group == EVERYONE and not math.isnan(row.low)]
        if shown:
            drawn = self.setting.intervals
            yield f"95% intervals, {drawn.draws:,} draws of {drawn.units}:"
        for row in shown:
            yield f"{row.average:7} {row.measure:12} {figure(row.value)}  {figure(row.low)} to {figure(row.high)}"


def validation(val: Validation) -> str:
    """The validation images in words."""
    side = val.side
    text = f"{side.images:,} images of {side.filter}"
    text += f" ({side.unlabelled:,} more have no label)" if side.unlabelled else ""
    return text + (f", {val.in_test:,} of them test images: too high" if val.in_test else "")


def figure(value: float) -> str:
    """A figure in a table; - for none."""
    return f"{'-':>6}" if math.isnan(value) else f"{value:.4f}"


def write_table(path: Path, header: Sequence[str], rows: Any) -> None:
    """Write a CSV file.

    Raises:
        CbmirError: the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error.strerror}") from error


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    cells = {(row.group, row.average, row.measure): row for row in rows}
    measures = list(dict.fromkeys(row.measure for row in rows))
    lines = list(dict.fromkeys((row.group, row.average, row.n, row.coverage) for row in rows))
    wide = max(len(group) for group, *_ in lines)
    yield f"{'group':{wide}}  average{''.join(f'{name:>11}' for name in measures)}{'n':>9}  coverage"
    for group, average, n, coverage in lines:
        values = (cells.get((group, average, name)) for name in measures)
        text = "".join(f"{figure(row.value) if row else '':>11}" for row in values)
        yield f"{group:{wide}}  {average:7}{text}{n:>9,}  {coverage:>8.4f}"
