"""Linear probes on a collection: trained on its gallery or a few images a class, measured on its queries."""

import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import (
    EXACT_MATCH,
    Assessment,
    Cohort,
    assess,
    named,
)
from cbmir.evaluate.analyses.classification.classes import class_figures
from cbmir.evaluate.analyses.classification.knn import cohort_of, groups_of_class
from cbmir.evaluate.analyses.classification.linear import Epoch, Examples, ProbeSettings, Task
from cbmir.evaluate.analyses.classification.report import MEASURES, ClassificationReport, Learning, LeftOut
from cbmir.evaluate.analyses.classification.splits import VALIDATION, MissingValidationError, Splits, read_splits
from cbmir.evaluate.analyses.classification.training import Training, train_probe
from cbmir.evaluate.analyses.classification.votes import NONE, Labels
from cbmir.evaluate.protocol import EXCLUDED, RetrievalProtocol
from cbmir.evaluate.ranking.description import describe
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import find_relevance
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES
from cbmir.evaluate.ranking.trial import Trial, stream_gallery
from cbmir.evaluate.results import Asked, Average, Row, TabularResult, figure, write_asked, write_table
from cbmir.filters import Where
from cbmir.schema import Vectors
from cbmir.store import Collection
from cbmir.units import counted


@dataclass(frozen=True, slots=True)
class Folds:
    """The images of a probe.

    Attributes:
        train: What is learnt from.
        val: What tells when to stop; all of it, also where few images are learnt from.
        test: What is measured.
    """

    train: Examples
    val: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw and the probe that was trained on it.

    Attributes:
        seed: Of the draw and of the training.
        images: Training images that were drawn.
        training: The probe.
        assessment: Its figures on the test images, without intervals.
    """

    seed: int
    images: int
    training: Training
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the draws.

    Attributes:
        measure: See `Figure`.
        average: See `Figure`.
        mean: Mean over the draws that have a value; NaN without any.
        std: Standard deviation of the draws, with n - 1; NaN of fewer than two.
        values: The figure of every draw.
    """

    measure: str
    average: Average
    mean: float
    std: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FewShot:
    """Probes from few images.

    Attributes:
        shots: Images a class that were asked for.
        draws: One probe each.
        spreads: The figures over the draws.
        short: Codes of classes that have fewer training images; all of these are in every draw.
    """

    shots: int
    draws: tuple[Draw, ...]
    spreads: tuple[Spread, ...]
    short: tuple[int, ...]


def few_shot(splits: Folds, task: Task, shots: int, draws: int = 5, settings: ProbeSettings | None = None) -> FewShot:
    """Train and measure probes on a few training images a class.

    Images are drawn without regard to patients. Where an image has several classes it is drawn for one of them and
    counts for the others too, so that these may get more than `shots`.

    Args:
        splits: The images.
        task: What is told apart.
        shots: Images a class.
        draws: How many times; draw i has the seed of the settings plus i.
        settings: How a probe is trained.

    Raises:
        ProtocolError: shots or draws are below 1, or images and task don't fit.
    """
    if shots < 1 or draws < 1:
        raise ProtocolError(f"draws {draws}, images a class {shots}; ask for 1 or more of both")
    settings = settings or ProbeSettings()
    done = tuple(_draws(splits, task, shots, [settings.seed + number for number in range(draws)], settings))
    having = np.bincount(splits.train.labels.pairs()[1], minlength=len(task.classes))
    return FewShot(shots, done, _spreads(done), tuple(np.flatnonzero(having < shots).tolist()))


def drawn(labels: Labels, shots: int, seed: int) -> NDArray[np.int64]:
    """The numbers, rising, of images drawn at random: of each class `shots`, or all where it has fewer."""
    numbers = np.random.default_rng(seed)
    rows, classes = labels.pairs()
    shuffled = numbers.permutation(len(rows))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    sizes = np.bincount(classes, minlength=labels.classes)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.unique(rows[order[nth < shots]])


def _draws(splits: Folds, task: Task, shots: int, seeds: list[int], settings: ProbeSettings) -> Iterator[Draw]:
    cohort = Cohort.plain(len(splits.test.labels))
    for seed in seeds:
        rows = drawn(splits.train.labels, shots, seed)
        training = train_probe(splits.train.take(rows), splits.val, task, replace(settings, seed=seed))
        verdicts = training.probe.verdicts(splits.test.vectors, splits.test.labels)
        yield Draw(seed, len(rows), training, assess(verdicts, cohort))


def _spreads(draws: tuple[Draw, ...]) -> tuple[Spread, ...]:
    spreads = []
    for figures in zip(*(draw.assessment.figures for draw in draws), strict=True):
        values = np.array([figure.value for figure in figures])
        valued = values[~np.isnan(values)]
        mean = float(valued.mean()) if valued.size else float("nan")
        std = float(valued.std(ddof=1)) if valued.size > 1 else float("nan")
        spreads.append(Spread(figures[0].measure, figures[0].average, mean, std, tuple(values.tolist())))
    return tuple(spreads)


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
    cohort = cohort_of(splits.test, relevance.covered)
    assessment = assess(verdicts, cohort)
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
        left_out=LeftOut.of(assessment, splits.coding.classes, training.unseen, 0, groups_of_class(protocol)),
        labels=class_figures(verdicts, splits.coding.classes, cohort.resampler),
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
        return trial.gallery_vectors[:]
    vectors = np.empty((len(trial.gallery), collection.card.dim), np.float32)
    for places, chunk in stream_gallery(collection, trial, CHUNK_IMAGES):
        vectors[places] = chunk
    return vectors


def _learning(splits: Splits, folds: Folds, training: Training, terms: ProbeTerms, seen: int) -> Learning:
    assert splits.validation is not None
    return Learning(
        settings=asdict(terms.settings),
        c=training.c,
        gradient=training.gradient,
        converged=training.converged,
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
