"""Patients whose images are in more than one split: what was learnt of them is asked again."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.ranking.trial import NONE, Trial, Values
from cbmir.schema import SPLITS


@dataclass(frozen=True, slots=True)
class SharedPatient:
    """A patient in more than one split.

    Attributes:
        patient_id: As it is stored.
        images: Its images in each split that has any.
        datasets: Data sets that these are of; with several it may be two patients of one id.
    """

    patient_id: str
    images: Mapping[str, int]
    datasets: int


@dataclass(frozen=True, slots=True)
class SharedBySplits:
    """The patients that two splits have in common.

    Attributes:
        first: One split.
        second: The other.
        patients: How many are in both.
        first_images: Their images in the first.
        second_images: Their images in the second.
    """

    first: str
    second: str
    patients: int
    first_images: int
    second_images: int


@dataclass(frozen=True, slots=True)
class Patients:
    """Which patients are in more than one split; images without a split or without a patient take no part.

    Attributes:
        patients: How many there are.
        without_patient: Images in a split whose patient isn't known: nothing can be said of them.
        shared: Those in more than one split, by rising id.
        splits: The same for each pair of splits that has images.
    """

    patients: int
    without_patient: int
    shared: tuple[SharedPatient, ...]
    splits: tuple[SharedBySplits, ...]

    @property
    def images(self) -> int:
        """Images of patients in more than one split."""
        return sum(sum(patient.images.values()) for patient in self.shared)


def splits_of(trial: Trial) -> NDArray[np.int8]:
    """(images,) place of each image's split in `SPLITS`, `NONE` without one."""
    places: dict[Values, int] = {(name,): place for place, name in enumerate(SPLITS)}
    by_code = np.array([places.get(values, NONE) for values in trial.vocabularies["split"]], np.int8)
    return by_code[trial.gallery.codes["split"]]


def split_pairs(splits: NDArray[np.int8]) -> list[tuple[int, int]]:
    """The pairs of splits that both have images, as places in `SPLITS`."""
    return list(combinations([place for place in range(len(SPLITS)) if (splits == place).any()], 2))


def find_shared_patients(trial: Trial) -> Patients:
    """Find the patients of a trial's gallery that are in more than one split; ids are compared as they are stored."""
    splits = splits_of(trial)
    codes = trial.gallery.codes["patient_id"].astype(np.int64)
    known = (codes > 0) & (splits != NONE)
    names = list(trial.vocabularies["patient_id"])
    width = len(SPLITS)
    images = np.bincount(codes[known] * width + splits[known], minlength=len(names) * width).reshape(-1, width)
    there = images > 0
    shared = np.flatnonzero(there.sum(axis=1) > 1)
    datasets = _datasets(trial, codes, known, len(names))
    found = [
        SharedPatient(names[code][0], _by_split(images[code].tolist()), int(datasets[code])) for code in shared.tolist()
    ]
    pairs = []
    for first, second in split_pairs(splits):
        both = images[there[:, first] & there[:, second]]
        pairs.append(
            SharedBySplits(
                SPLITS[first], SPLITS[second], len(both), int(both[:, first].sum()), int(both[:, second].sum())
            )
        )
    return Patients(
        patients=int(there.any(axis=1).sum()),
        without_patient=int(((codes == 0) & (splits != NONE)).sum()),
        shared=tuple(sorted(found, key=lambda patient: patient.patient_id)),
        splits=tuple(pairs),
    )


def _by_split(images: list[int]) -> dict[str, int]:
    return {name: count for name, count in zip(SPLITS, images, strict=True) if count}


def _datasets(trial: Trial, codes: NDArray[np.int64], known: NDArray[np.bool_], patients: int) -> NDArray[np.int64]:
    """(patients,) data sets of each patient's images."""
    width = len(trial.vocabularies["dataset"])
    met = np.unique(codes[known] * width + trial.gallery.codes["dataset"][known])
    return np.bincount(met // width, minlength=patients)
