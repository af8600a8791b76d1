"""``python -m benchmarks.coverage``: how often 95% intervals hold the truth, and how often tests raise a false alarm.

Samples of patients are made whose true figures are known, and each method's intervals are counted that hold them. A
patient has one class and one to six images; the chance of a right answer differs between patients (beta distribution,
intraclass correlation .3) and between classes. Of ROC-AUC the scores have a normal effect of the patient.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cbmir.evaluate.analyses.classification.roc import Area, roc_auc
from cbmir.evaluate.intervals import METHODS, Interval, shares
from cbmir.evaluate.metrics import Scores, group_sums
from cbmir.evaluate.significance import Resampler, intervals, paired_test

PATIENTS = (5, 10, 20, 50, 200)
CLASSES = (2, 5, 20)
_ICC = 0.3
_IMAGES = 6
_COLUMNS = 100
"""Samples with the same patients and classes, so that one set of resamples serves all of them."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often an interval held the truth.

    Attributes:
        figure: What it is an interval of.
        method: How it was made.
        patients: In each sample.
        classes: Of them.
        coverage: Share of the samples whose interval holds the truth; samples without an interval are left out.
        width: Mean width of the interval.
        without: Share of samples without an interval.
    """

    figure: str
    method: str
    patients: int
    classes: int
    coverage: float
    width: float
    without: float


def measure(samples: int, draws: int, seed: int = 0) -> Iterator[Coverage]:
    """Count for each number of patients and classes.

    Args:
        samples: Of each kind; rounded up to a multiple of a hundred.
        draws: Of each bootstrap.
        seed: Of everything random.
    """
    for patients, classes in product(PATIENTS, CLASSES):
        if patients < classes:
            continue
        found: dict[tuple[str, str], list[tuple[Interval, Scores]]] = {}
        for number in range(-(-samples // _COLUMNS)):
            rng = np.random.default_rng([seed, patients, classes, number])
            for key, interval, truth in sample(rng, patients, classes, draws):
                found.setdefault(key, []).append((interval, truth))
        yield from _counted(found, patients, classes)


def _counted(
    found: Mapping[tuple[str, str], list[tuple[Interval, Scores]]], patients: int, classes: int
) -> Iterator[Coverage]:
    for (name, method), parts in found.items():
        low, high = (np.concatenate([getattr(interval, end) for interval, _ in parts]) for end in ("low", "high"))
        truth = np.concatenate([value for _, value in parts])
        known = ~np.isnan(low)
        held = (low <= truth) & (truth <= high)
        share = float(held[known].mean()) if known.any() else np.nan
        width = float((high - low)[known].mean()) if known.any() else np.nan
        yield Coverage(name, method, patients, classes, share, width, float(1 - known.mean()))


def sample(
    rng: np.random.Generator, patients: int, classes: int, draws: int
) -> Iterator[tuple[tuple[str, str], Interval, Scores]]:
    """A hundred samples with the same patients, each with the intervals of all methods."""
    own = np.concatenate([np.arange(classes), rng.integers(classes, size=patients - classes)])
    owners = np.repeat(np.arange(patients), rng.integers(1, _IMAGES + 1, size=patients))
    codes = own[owners]
    means = np.linspace(0.5, 0.9, classes)
    size = (1 - _ICC) / _ICC
    chances = rng.beta(size * means[own][:, None], size * (1 - means[own])[:, None], (patients, _COLUMNS))
    scores = (rng.random((len(owners), _COLUMNS)) < chances[owners]).astype(float)
    micro, macro = np.full(_COLUMNS, means[codes].mean()), np.full(_COLUMNS, means.mean())
    for method in METHODS:
        both = intervals(scores, codes, Resampler(owners, draws, 1, method))
        yield ("mean over queries", method), both[0], micro
        if method != "wilson":  # there it is expanded
            yield ("mean over classes", method), both[1], macro
    tables = group_sums(scores, owners), np.repeat(np.bincount(owners)[:, None].astype(float), _COLUMNS, axis=1)
    ours = [table[own == classes - 1] for table in tables]
    yield ("share of one class", "wilson"), shares(ours[0], ours[1]), np.full(_COLUMNS, means[-1])
    yield ("ROC-AUC over classes", "closed form"), *_areas(rng, owners, codes, patients, classes)


def _areas(
    rng: np.random.Generator, owners: NDArray[np.int64], codes: NDArray[np.int64], patients: int, classes: int
) -> tuple[Interval, Scores]:
    """Macro areas of ten of the samples, as each takes its own ranks; scores of its own class are higher by one."""
    ends = []
    for _ in range(_COLUMNS // 10):
        effect = rng.normal(size=(patients, classes)) * np.sqrt(_ICC)
        scores = effect[owners] + rng.normal(size=(len(owners), classes)) * np.sqrt(1 - _ICC) + np.eye(classes)[codes]
        each = [roc_auc(scores[:, [code]], (codes == code)[:, None], owners, patients) for code in range(classes)]
        ends.append(Area.mean(each, patients).interval)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    interval = Interval(*(np.concatenate([getattr(item, side) for item in ends]) for side in ("low", "high")))
    return interval, np.full(len(ends), truth)


@dataclass(frozen=True, slots=True)
class Alarms:
    """How often the paired test of two systems finds a difference at a level of .05.

    Attributes:
        patients: In each sample.
        average: ``micro`` or ``macro``.
        effect: True difference, in standard deviations of a patient's difference.
        found: Share of the samples in which p is at most .05.
    """

    patients: int
    average: str
    effect: float
    found: float


def alarms(samples: int, draws: int, seed: int = 0) -> Iterator[Alarms]:
    """Test pairs of systems that are alike, and pairs that differ.

    Args:
        samples: Of each kind.
        draws: Swaps of each test.
        seed: Of everything random.
    """
    for patients, effect in product(PATIENTS, (0.0, 0.5)):
        rng = np.random.default_rng([seed, patients, 2])
        classes = rng.integers(4, size=patients)
        owners = np.repeat(np.arange(patients), rng.integers(1, _IMAGES + 1, size=patients))
        first, second = (
            rng.normal(size=(patients, samples))[owners] / np.sqrt(2) + rng.normal(size=(len(owners), samples)) / 2
            for _ in range(2)
        )
        resampler = Resampler(owners, draws, 1)
        for average, codes in (("micro", None), ("macro", classes[owners])):
            test = paired_test(first + effect, second, resampler, codes)
            yield Alarms(patients, average, effect, float(np.mean(test.p <= 0.05)))


@click.command()
@click.option("--samples", default=2000, show_default=True, help="Samples of each kind.")
@click.option("--draws", default=2000, show_default=True, help="Resamples of each bootstrap.")
def main(samples: int, draws: int) -> None:
    """Print a table of coverage for the documentation."""
    print("| figure | method | classes | " + " | ".join(f"{n} patients" for n in PATIENTS) + " |")
    print("|---|---|---|" + "---|" * len(PATIENTS))
    cells: dict[tuple[str, str, int], dict[int, str]] = {}
    for item in measure(samples, draws):
        text = "none" if np.isnan(item.coverage) else f"{item.coverage:.3f} ({item.width:.2f})"
        cells.setdefault((item.figure, item.method, item.classes), {})[item.patients] = text
    for (figure, method, classes), row in sorted(cells.items()):
        print(f"| {figure} | {method} | {classes} | " + " | ".join(row.get(n, "") for n in PATIENTS) + " |")
    print("\n| paired test | " + " | ".join(f"{n} patients" for n in PATIENTS) + " |")
    print("|---|" + "---|" * len(PATIENTS))
    tests: dict[tuple[float, str], list[str]] = {}
    for alarm in alarms(2 * samples, draws):
        tests.setdefault((alarm.effect, alarm.average), []).append(f"{alarm.found:.3f}")
    for (effect, average), shares_found in sorted(tests.items()):
        what = "no difference" if not effect else f"a difference of {effect} standard deviations"
        print(f"| {average}, {what} | " + " | ".join(shares_found) + " |")


if __name__ == "__main__":
    main()
