"""Linear probes on a collection: trained on its gallery, stopped on its validation images, measured on its queries."""

import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import assess
from cbmir.evaluate.analyses.classification.knn import cohort_of
from cbmir.evaluate.analyses.classification.labels import EXACT_MATCH, label_figures, named
from cbmir.evaluate.analyses.classification.method import Learning, LeftOut
from cbmir.evaluate.analyses.classification.report import MEASURES, ClassificationReport, figure
from cbmir.evaluate.analyses.classification.splits import VALIDATION, MissingValidationError, Splits, read_splits
from cbmir.evaluate.analyses.classification.votes import NONE
from cbmir.evaluate.analyses.probe.descent import Epoch, Examples, ProbeSettings
from cbmir.evaluate.analyses.probe.fewshot import FewShot, few_shot
from cbmir.evaluate.analyses.probe.fewshot import Splits as Folds
from cbmir.evaluate.analyses.probe.layer import Task
from cbmir.evaluate.analyses.probe.training import Training, train_probe
from cbmir.evaluate.analyses.retrieval.measurement import describe
from cbmir.evaluate.analyses.retrieval.report import Row
from cbmir.evaluate.protocol import EXCLUDED, RetrievalProtocol
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import find_relevance
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES
from cbmir.evaluate.ranking.trial import Trial, stream_gallery
from cbmir.evaluate.results import Asked, TabularResult, write_asked, write_table
from cbmir.filters import Where
from cbmir.schema import Vectors
from cbmir.store import Collection
from cbmir.units import counted

SEARCH = "probe"
"""What rows of a probe say where others say how neighbours were found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTerms:
    """What a linear probe needs beyond a protocol.

    Attributes:
        settings: How it is trained.
        val: The validation images.
        measures: Which of `MEASURES` to report.
        shots: Numbers of training images a class for which probes are trained besides.
        draws: How many, each on images of its own.
    """

    settings: ProbeSettings = field(default_factory=ProbeSettings)
    val: Where = VALIDATION
    measures: tuple[str, ...] = MEASURES
    shots: tuple[int, ...] = ()
    draws: int = 5


@dataclass(frozen=True, slots=True, repr=False)
class ProbeReport(TabularResult):
    """The result of training linear probes.

    Attributes:
        report: The figures of the probe on all training images.
        training: That probe and its learning curve.
        few: Those on few images, by rising number of them.
        asked: What it is the answer to.
    """

    report: ClassificationReport
    training: Training
    few: tuple[FewShot, ...] = ()
    asked: Asked | None = None

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it, with the learning curve and the figures from few images."""
        return {
            **self.report.content(),
            "curve": [dict(zip(self._columns(), astuple(epoch), strict=True)) for epoch in self.training.curve],
            "few_shot": [self._few_as_json(item) for item in self.few],
        }

    def csv_rows(self) -> tuple[Row, ...]:
        """Those of the probe on all training images."""
        return self.report.csv_rows()

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header."""
        return self.report.csv_terms()

    def write_curve(self, path: Path) -> None:
        """Write the learning curve, a row an epoch.

        Raises:
            CbmirError: the file can't be written.
        """
        write_table(path, self._columns(), map(astuple, self.training.curve))
        write_asked(path, self.asked)

    def frame_rows(self) -> list[dict[str, Any]]:
        """Those of the probe on all training images."""
        return self.report.frame_rows()

    def table(self) -> str:
        """The report for people."""
        return "\n\n".join(["\n".join(part) for part in ([self.report.table()], [*self._few_lines()]) if part])

    def _columns(self) -> list[str]:
        """The columns of the learning curve; accuracy has another name where images have several classes."""
        several = self.report.method.several
        names = [item.name for item in fields(Epoch)]
        return [f"val_{EXACT_MATCH}" if several and name == "val_accuracy" else name for name in names]

    def _few_as_json(self, few: FewShot) -> dict[str, Any]:
        return {
            "shots": few.shots,
            "seeds": [draw.seed for draw in few.draws],
            "images": [draw.images for draw in few.draws],
            "short": [self.report.classes[code] for code in few.short],
            "rows": [
                {name: _plain(value) for name, value in asdict(spread).items()}
                for spread in few.spreads
                if spread.measure in self.report.setting.measures
            ],
        }

    def _few_lines(self) -> Iterator[str]:
        wide = max(12, *map(len, self.report.setting.measures))
        for few in self.few:
            short = f"; classes with fewer: {len(few.short):,}" if few.short else ""
            draws = counted(len(few.draws), "draw")
            yield f"{counted(few.shots, 'image')} a class, {draws}, mean and standard deviation{short}:"
            for spread in few.spreads:
                if spread.measure in self.report.setting.measures:
                    yield f"{spread.average:7} {spread.measure:{wide}} {figure(spread.mean)} {figure(spread.std)}"


def evaluate_probe(collection: Collection, protocol: RetrievalProtocol, terms: ProbeTerms | None = None) -> ProbeReport:
    """Measure how well a linear layer on the vectors tells the classes of the queries.

    Nothing is excluded from training: queries whose patient was learnt from are counted.

    Args:
        collection: What is measured.
        protocol: Who is asked, who is learnt from (the gallery), and which label tells the classes; searches, measures,
            cutoffs and exclusion have no part.
        terms: How the probe is trained; by default as the published one, stopped on ``split=val``.

    Raises:
        ProtocolError: images or labels are missing, the terms don't fit, or the collection changed meanwhile.
        CbmirError: see `train_probe`.
    """
    terms = terms or ProbeTerms()
    protocol = replace(protocol, k=(1,), searches=("exact",), exclude=())
    try:
        splits = read_splits(collection, protocol, terms.val)
    except MissingValidationError as error:
        raise ProtocolError(f"a probe is stopped on validation images: {error}") from error
    folds = _folds(collection, splits)
    task = Task(splits.coding.classes, collection.card.fingerprint, splits.coding.several)
    training = train_probe(folds.train, folds.val, task, terms.settings)
    verdicts = training.probe.verdicts(folds.test.vectors, folds.test.labels)
    free, seen = (Exclusion(splits.test, some) for some in ((), (EXCLUDED["patient"],)))
    relevance = find_relevance(splits.test, free)
    assessment = assess(verdicts, cohort_of(splits.test, relevance.covered))
    several = splits.coding.several
    measures = named(terms.measures, several)
    setting = replace(
        describe(collection, splits.test, free, relevance), measures=measures, k=(0,), search=(SEARCH,), ef=None
    )
    report = ClassificationReport(
        setting=setting,
        encoder=collection.card,
        method=_learning(splits, folds, training, terms, seen.queries),
        rows=tuple(row for row in assessment.rows(0, SEARCH) if row.measure in measures),
        classes=splits.coding.classes,
        confusion=assessment.confusion,
        left_out=LeftOut.of(assessment, splits.coding.classes, training.unseen, 0),
        labels=label_figures(verdicts, splits.coding.classes) if several else (),
    )
    few = (few_shot(folds, task, shots, terms.draws, terms.settings) for shots in sorted(set(terms.shots)))
    return ProbeReport(report, training, tuple(few))


def _folds(collection: Collection, splits: Splits) -> Folds:
    """Vectors and classes of training, validation and test images that have a label."""
    assert splits.val is not None
    labels = splits.gallery()
    labelled = labels.codes != NONE
    vectors = _gallery_vectors(collection, splits.test)
    train = Examples(vectors, labels) if labelled.all() else Examples(vectors[labelled], labels.take(labelled))
    val, test = (Examples(trial.query_vectors, splits.truth(trial)) for trial in (splits.val, splits.test))
    return Folds(train, val, test)


def _gallery_vectors(collection: Collection, trial: Trial) -> Vectors:
    """(gallery, dim) all vectors in memory, also where a search would read them in chunks: training needs them all."""
    if trial.gallery_vectors is not None:
        return trial.gallery_vectors
    vectors = np.empty((len(trial.gallery), collection.card.dim), np.float32)
    for places, chunk in stream_gallery(collection, trial, CHUNK_IMAGES):
        vectors[places] = chunk
    return vectors


def _learning(splits: Splits, folds: Folds, training: Training, terms: ProbeTerms, seen: int) -> Learning:
    assert splits.validation is not None
    return Learning(
        settings=asdict(terms.settings),
        epoch=training.probe.epoch,
        epochs=len(training.curve),
        several=splits.coding.several,
        train_images=len(folds.train.labels),
        queries_seen=seen,
        val=splits.validation,
        val_accuracy=training.probe.val_accuracy,
    )


def _plain(value: Any) -> Any:
    """A value, or several, as JSON takes them: null for NaN."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
