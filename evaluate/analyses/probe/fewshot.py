"""Linear probes from a few images a class, drawn several times: how much a figure owes to the draw."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.assessment import Assessment, Cohort, assess
from cbmir.evaluate.analyses.classification.votes import Labels
from cbmir.evaluate.analyses.probe.descent import Examples, ProbeSettings
from cbmir.evaluate.analyses.probe.layer import Task
from cbmir.evaluate.analyses.probe.training import Training, train_probe
from cbmir.evaluate.analyses.retrieval.report import Average


@dataclass(frozen=True, slots=True)
class Splits:
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


def few_shot(splits: Splits, task: Task, shots: int, draws: int = 5, settings: ProbeSettings | None = None) -> FewShot:
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


def _draws(splits: Splits, task: Task, shots: int, seeds: list[int], settings: ProbeSettings) -> Iterator[Draw]:
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
