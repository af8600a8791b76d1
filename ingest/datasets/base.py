"""What the rules of a data set give, and how a data set registers itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from cbmir.errors import SourceError
from cbmir.ingest.datasets.tree import Tree

Mode = Literal["single", "multi"]
"""``single``: the published rule, one label an image. ``multi``: every label, wherever there is one."""

NO_LABEL = "no positive label"
SEVERAL = "several positive labels"
UNCERTAIN = "an uncertain label beside the positive one"
TRAIN_SHARE = 0.9
SEED = 42


@dataclass(frozen=True)
class Listing:
    """What the lists of a data set say of its images.

    Attributes:
        dataset: Name of the data set in the table, the published one.
        sources: The lists that were read, relative to the folder.
        rows: A row an image, index 0 to n - 1: ``listed`` (as the list names it), ``filepath`` (relative to the folder;
            None where there is no such file), ``left_out`` (the rule that leaves it out, else empty), ``split``,
            ``modality``, ``anatomic_region``, and of ``patient_id``, ``study_id``, ``view``, ``sex``, ``age_years``
            what the lists know.
        labels: (n, labels) bool, a column a label ``modality/region/pathology``; rows that are left out may be missing.
        no_row: Images left out that have no row, by reason.
        notes: What a user should know, a line each.

    Raises:
        SourceError: the lists name no image.
    """

    dataset: str
    sources: tuple[str, ...]
    rows: pd.DataFrame
    labels: pd.DataFrame
    no_row: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows.empty:
            raise SourceError(f"the lists of {self.dataset} name no image: {', '.join(self.sources)}")


Rules = Callable[[Tree, Mode], Listing]

DATASETS: dict[str, Rules] = {}
"""The data sets by the name users call them; filled by `dataset`."""


def dataset(name: str) -> Callable[[Rules], Rules]:
    """Register the rules of a data set under a name; the command offers it at once."""

    def register(rules: Rules) -> Rules:
        DATASETS[name] = rules
        return rules

    return register


def rule(positive: NDArray[np.bool_], mode: Mode, uncertain: NDArray[np.bool_] | None = None) -> NDArray[np.str_]:
    """Why an image is left out by its labels; empty for those that stay.

    Args:
        positive: (n, labels) which labels an image has.
        mode: ``multi`` leaves out images without a label only.
        uncertain: (n,) images that the published rule leaves out because a label of theirs is uncertain.

    Returns:
        (n,) reasons.
    """
    count = positive.sum(axis=1)
    doubtful = np.zeros(len(count), dtype=bool) if uncertain is None else uncertain
    several, unsure = (count > 1, doubtful) if mode == "single" else (np.zeros_like(doubtful),) * 2
    reasons: NDArray[np.str_] = np.select([count == 0, several, unsure], [NO_LABEL, SEVERAL, UNCERTAIN], "")
    return reasons


def draw(patients: "pd.Series[str]") -> dict[str, str]:
    """The published 90/10 draw: a patient is in ``train`` or in ``val`` with all images.

    The draw is scikit-learn's, with seed 42, over the patients in the order they first appear: the same lists give the
    published split. A single patient is in ``train``.
    """
    names = list(dict.fromkeys(patients))
    if len(names) < 2:
        return dict.fromkeys(names, "train")
    train, val = train_test_split(names, train_size=TRAIN_SHARE, random_state=SEED)
    return dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
