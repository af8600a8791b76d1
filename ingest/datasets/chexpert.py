"""CheXpert (Irvin et al., AAAI 2019): `train.csv` and `valid.csv`; the full and the small edition."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cbmir.errors import SourceError
from cbmir.ingest.datasets.base import Listing, Mode, dataset, draw, rule
from cbmir.ingest.datasets.observations import OBSERVATIONS, labels_of, one_hot, states
from cbmir.ingest.datasets.tree import Tree

NAME = "CheXpert"
_IN_BATCH = re.compile(r"(?:^|/)[^/]*batch[\W_]*\d+[\W_]*train[\W_]*\d+[^/]*/(?:.+/)?(patient\d+/study\d+/[^/]+)$")
"""A file of the full edition as downloaded: in ``CheXpert-v1.0 batch 2 (train 1)`` and two more such folders."""

_OPTIONAL = ("Sex", "Age", "Frontal/Lateral", "AP/PA")


@dataset("chexpert")
def chexpert(tree: Tree, mode: Mode) -> Listing:
    """Test is the official valid; of the official train, 90% of the patients are train and 10% val.

    The published rule keeps images with one positive and no uncertain label. It draws among the patients who have an
    image of which the labels sum to 1, uncertain ones counted as -1; patients without one are drawn apart, so that a
    patient is in the same split whichever labels are kept.

    Raises:
        SourceError: a list is missing or damaged.
    """
    sources = [tree.find("train.csv")]
    sources.append(tree.find("valid.csv", beside=sources[0]))
    tables = [tree.read(path, ("Path", *OBSERVATIONS), _OPTIONAL) for path in sources]
    values = np.concatenate(
        [states(table, list(OBSERVATIONS), path) for table, path in zip(tables, sources, strict=True)]
    )
    table = pd.concat(tables, ignore_index=True).fillna("")
    names = labels_of(mode)
    state = values[:, [OBSERVATIONS.index(name) for name in names]]
    published = values[:, [OBSERVATIONS.index(name) for name in labels_of("single")]].sum(axis=1) == 1
    ids = _ids(table["Path"])
    official_train = np.arange(len(table)) < len(tables[0])
    drawn = draw(ids[0][official_train & published])
    others = ids[0][official_train & ~ids[0].isin(drawn.keys())]
    drawn |= draw(others)
    rows = pd.DataFrame(
        {
            "listed": table["Path"],
            "filepath": pd.Series(_located(tree, list(table["Path"]), sources[0]), dtype=object),
            "left_out": rule(state == 1, mode, (state == -1).any(axis=1)),
            "split": np.where(official_train, ids[0].map(drawn).fillna(""), "test"),
            "modality": "XR",
            "anatomic_region": "chest",
            "patient_id": f"{NAME}-" + ids[0],
            "study_id": f"{NAME}-" + ids[0] + "-" + ids[1],
            **_known(table),
        }
    )
    return Listing(dataset=NAME, sources=tuple(sources), rows=rows, labels=one_hot(state == 1, names))


def _located(tree: Tree, listed: Sequence[str], beside: str) -> list[str | None]:
    """The files of listed paths, in one folder or in the batches of the download, whose names the lists don't hold.

    Raises:
        SourceError: two batches hold the same image, and the list names it.
    """
    found = tree.locate(listed, beside)
    if None not in found:
        return found
    batches: dict[str, list[str]] = {}
    for path in tree.files:
        if match := _IN_BATCH.search(path):
            batches.setdefault(match[1], []).append(path)
    for at, path in enumerate(listed):
        if found[at] is None and "train" in path.split("/"):
            there = sorted(batches.get("/".join(path.split("/")[-3:]), ()))
            if len(there) > 1:
                raise SourceError(f"{tree.folder} holds {there[0]} and {there[1]}: which is meant? Move one away")
            found[at] = there[0] if there else None
    return found


def _ids(paths: "pd.Series[str]") -> pd.DataFrame:
    """Patient and study, columns 0 and 1, from ``.../patient00001/study1/view1_frontal.jpg``.

    Raises:
        SourceError: a path is of another form.
    """
    ids = paths.str.extract(r"(?:^|/)(patient\d+)/(study\d+)/[^/]+$")
    wrong = paths[ids[0].isna()]
    if len(wrong):
        raise SourceError(
            f"{wrong.iloc[0]!r} is no path of CheXpert; one ends in patient00001/study1/view1_frontal.jpg"
        )
    return ids


def _known(table: pd.DataFrame) -> dict[str, "pd.Series[str]"]:
    """Sex, age and view, where the list has them; age 0 is how it writes an unknown one."""
    known: dict[str, pd.Series[str]] = {}
    if "Frontal/Lateral" in table and "AP/PA" in table:
        known["view"] = table["AP/PA"].mask(table["Frontal/Lateral"] == "Lateral", "lateral")
    if "Sex" in table:
        known["sex"] = table["Sex"].map({"Male": "M", "Female": "F"}).fillna("")
    if "Age" in table:
        known["age_years"] = table["Age"].mask(table["Age"].isin(["0", "0.0"]), "")
    return known
