"""NIH ChestX-ray14 (Wang et al., CVPR 2017): `Data_Entry_2017.csv`, the two official lists, and PNGs in any folders."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pandas as pd

from cbmir.ingest.datasets.base import Listing, Mode, dataset, draw, rule
from cbmir.ingest.datasets.tree import Tree
from cbmir.ingest.tables.values import OLDEST, years_of

NAME = "nih14"
LABELS = {
    "No Finding": "No Finding",
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Infiltration": "Infiltration",
    "Mass": "Mass",
    "Nodule": "Nodule",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Emphysema": "Emphysema",
    "Fibrosis": "Fibrosis",
    "Pleural_Thickening": "Pleural Thickening",
    "Hernia": "Hernia",
}
"""Findings as the list writes them, and as the chest X-ray sets share them."""

_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
_SEXES = ("Patient Gender", "Patient Sex")  # the second edition renamed it
_OPTIONAL = ("Patient Age", "View Position", *_SEXES)


@dataset(NAME)
def nih14(tree: Tree, mode: Mode) -> Listing:
    """Test is the official list; of the other, 90% of the patients are train and 10% val.

    Raises:
        SourceError: a list is missing or damaged, or two images have the same name.
    """
    entries = tree.find("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
    lists = {
        "train": tree.find("train_val_list.txt", "train_val_list_NIH.txt", beside=entries),
        "test": tree.find("test_list.txt", "test_list_NIH.txt", beside=entries),
    }
    table = tree.read(entries, _COLUMNS, _OPTIONAL)
    names = table["Image Index"]
    listed = {split: tree.lines(path) for split, path in lists.items()}
    official = {name: split for split, names_there in listed.items() for name in names_there}
    split = names.map(official).fillna("")
    drawn = draw(table["Patient ID"][split == "train"])
    split = split.where(split != "train", table["Patient ID"].map(drawn))
    files = tree.by_name(entries, ".png")
    labels = _one_hot(table["Finding Labels"])
    reasons = rule(labels.to_numpy(), mode)
    rows = pd.DataFrame(
        {
            "listed": names,
            "filepath": pd.Series([files.get(name) for name in names], dtype=object),
            "left_out": np.where(split == "", "in none of the official lists", reasons),
            "split": split,
            "modality": "XR",
            "anatomic_region": "chest",
            "patient_id": f"{NAME}-" + table["Patient ID"],
            **_known(table),
        }
    )
    return Listing(
        dataset=NAME,
        sources=(entries, *lists.values()),
        rows=rows,
        labels=labels,
        no_row={f"in an official list without a row in {entries}": len(official.keys() - set(names))},
        notes=(*_overlap(listed), *_notes(table, rows)),
    )


def _one_hot(findings: "pd.Series[str]") -> pd.DataFrame:
    """A column a label; findings that are none of the fifteen stand for themselves, so that nothing is lost."""
    found = findings.str.get_dummies("|").astype(bool)
    others = [name for name in found.columns if name not in LABELS]
    found = found.reindex(columns=[*LABELS, *others], fill_value=False)
    return found.rename(columns=lambda name: f"XR/chest/{LABELS.get(name, name)}")


def _known(table: pd.DataFrame) -> Mapping[str, "pd.Series[str] | pd.Series[float]"]:
    """View, sex and age, where the edition has them."""
    known: dict[str, pd.Series[str] | pd.Series[float]] = {}
    if "View Position" in table:
        known["view"] = table["View Position"]
    for name in _SEXES:
        if name in table:
            known["sex"] = table[name].where(table[name].isin(["M", "F"]), "")
    if "Patient Age" in table:
        known["age_years"] = _years(table["Patient Age"])
    return known


def _years(ages: "pd.Series[str]") -> "pd.Series[float]":
    """Ages in years from ``58``, ``058Y`` or ``013M``, as in any table; NaN where they are none, or above `OLDEST`."""
    known: dict[str, float] = {}
    for text in ages.unique():
        with suppress(ValueError):
            known[text] = years_of(text)
    return ages.map(known).astype(float)


def _overlap(listed: Mapping[str, list[str]]) -> tuple[str, ...]:
    both = set(listed["train"]) & set(listed["test"])
    return (f"images in both official lists, taken as test: {len(both):,}",) if both else ()


def _notes(table: pd.DataFrame, rows: pd.DataFrame) -> tuple[str, ...]:
    if "age_years" not in rows:
        return ()
    blank = Counter(table["Patient Age"][rows["age_years"].isna() & (table["Patient Age"] != "")])
    if not blank:
        return ()
    shown = ", ".join(list(blank)[:5])
    return (f"age left blank where it is no age below {OLDEST} years: {blank.total():,} ({shown})",)
