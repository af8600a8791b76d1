"""The fourteen observations of the CheXpert labeler (Irvin et al., AAAI 2019), which MIMIC-CXR uses too.

A cell is 1 (positive), 0 (negative), -1 (uncertain) or blank (not mentioned).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbmir.errors import SourceError
from cbmir.ingest.datasets.base import Mode
from cbmir.ingest.tables.findings import CHEXPERT

SUPPORT_DEVICES = "Support Devices"
OBSERVATIONS = CHEXPERT
_STATES = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}


def labels_of(mode: Mode) -> list[str]:
    """The observations that are labels: Support Devices are no pathology, and no label by the published rule."""
    return [name for name in OBSERVATIONS if mode == "multi" or name != SUPPORT_DEVICES]


def states(table: pd.DataFrame, names: list[str], path: str) -> NDArray[np.int8]:
    """(n, names) 1, 0 or -1.

    Raises:
        SourceError: a cell holds something else.
    """
    values = np.empty((len(table), len(names)), np.int8)
    for place, name in enumerate(names):
        codes, texts = pd.factorize(table[name])
        known = [_STATES.get(text) for text in texts]
        if None in known:
            row = int(np.argmax(codes == known.index(None)))
            raise SourceError(f"{path}: {name} is {table[name][row]!r} in row {row + 1}, not 1, 0, -1 or blank")
        values[:, place] = np.array(known, np.int8)[codes]
    return values


def one_hot(positive: NDArray[np.bool_], names: list[str]) -> pd.DataFrame:
    """The labels with their columns named as in the published tables."""
    return pd.DataFrame(positive, columns=[f"XR/chest/{name}" for name in names])
