"""RadImageNet (Mei et al., Radiology: AI 2022): `RadiologyAI_{train,val,test}.csv`; the folders are labels."""

import numpy as np
import pandas as pd

from cbmir.ingest.datasets.base import Listing, Mode, dataset
from cbmir.ingest.datasets.tree import Tree

NAME = "radiology_ai"
ORGANS = (
    "aorta",
    "bladder",
    "cbd",
    "fibroid",
    "gb",
    "ivc",
    "kidney",
    "liver",
    "ovary",
    "pancreas",
    "portal_vein",
    "spleen",
    "thyroid",
    "uterus",
)
"""Ultrasound folders without a finding: images of the organ as it should be."""

_RENAMED = {f"US/{organ}": f"US/{organ}/normal" for organ in ORGANS} | {"US/thyroid_nodule": "US/thyroid/nodule"}


@dataset("radimagenet")
def radimagenet(tree: Tree, mode: Mode) -> Listing:
    """The label is the path between the first folder and the file, ``CT/abd/adrenal_pathology``; the split is official.

    Each image lies in one folder and so has one label, whatever the mode. A file in two lists stays in the first.

    Raises:
        SourceError: a list is missing or damaged.
    """
    sources = [tree.find("RadiologyAI_train.csv")]
    sources += [tree.find(f"RadiologyAI_{split}.csv", beside=sources[0]) for split in ("val", "test")]
    tables = [tree.read(path, ("filename",)) for path in sources]
    listed = pd.concat(tables, ignore_index=True)["filename"]
    folder = pd.Series([path.rpartition("/")[0] for path in listed], dtype="category")
    label = folder.map({name: _label(name) for name in folder.cat.categories}).astype(object)
    parts = {name: name.split("/") for name in label.unique()}
    rows = pd.DataFrame(
        {
            "listed": listed,
            "filepath": pd.Series(tree.locate(listed, sources[0]), dtype=object),
            "left_out": np.where(label == "", "its path names no label", ""),
            "split": np.repeat(["train", "val", "test"], [len(table) for table in tables]),
            "modality": label.map({name: part[0] for name, part in parts.items()}),
            "anatomic_region": label.map({name: part[1] for name, part in parts.items() if name}),
        }
    )
    note = "the lists name no patient: pictures of one patient can't be told from those of others"
    return Listing(NAME, tuple(sources), rows, pd.get_dummies(label[label != ""], dtype=bool), notes=(note,))


def _label(folder: str) -> str:
    """The label a folder stands for; empty where it has no modality and region below the first part."""
    name = folder.partition("/")[2]
    return _RENAMED.get(name, name) if "/" in name else ""
