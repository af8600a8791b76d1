"""MIMIC-CXR-JPG (Johnson et al., arXiv:1901.07042): the official split, and the CheXpert labels of the studies."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbmir.ingest.datasets.base import Listing, Mode, dataset, rule
from cbmir.ingest.datasets.observations import OBSERVATIONS, labels_of, one_hot, states
from cbmir.ingest.datasets.tree import Tree

NAME = "mimic"
_STUDY = ["subject_id", "study_id"]
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_LATERAL = ("LATERAL", "LL", "RL")
_VERSIONS = ("2.0.0", "2.1.0")


@dataset("mimic")
def mimic(tree: Tree, mode: Mode) -> Listing:
    """The labels of a study are those of each of its images; uncertain ones count as negative, also in ``single``.

    Raises:
        SourceError: a list is missing or damaged.
    """
    splits = tree.find(*_lists("split"))
    sources = [splits, tree.find(*_lists("chexpert"), beside=splits)]
    metadata = tree.search(*_lists("metadata"), beside=splits)
    table = tree.read(splits, ("dicom_id", *_STUDY, "split"))
    studies = tree.read(sources[1], (*_STUDY, *OBSERVATIONS)).drop_duplicates(_STUDY, ignore_index=True)
    names = labels_of(mode)
    positive, labelled = _of_images(table, studies, states(studies, names, sources[1]) == 1)
    split = table["split"].map(_SPLITS)
    rows = pd.DataFrame(
        {
            "listed": _paths(table),
            "left_out": np.where(labelled, rule(positive, mode), f"no labels of its study in {sources[1]}"),
            "split": split.fillna(""),
            "modality": "XR",
            "anatomic_region": "chest",
            "patient_id": f"{NAME}-" + table["subject_id"],
            "study_id": f"{NAME}-" + table["study_id"],
        }
    )
    rows["left_out"] = rows["left_out"].mask(split.isna(), "in none of the official splits")
    rows["filepath"] = pd.Series(tree.locate(rows["listed"], splits), dtype=object)
    if metadata is None:
        note = (f"no {_lists('metadata')[0]} beside {splits}: view left blank",)
        return Listing(NAME, tuple(sources), rows, one_hot(positive, names), notes=note)
    rows["view"] = _views(table, tree.read(metadata, ("dicom_id", "ViewPosition")))
    return Listing(NAME, (*sources, metadata), rows, one_hot(positive, names))


def _lists(kind: str) -> list[str]:
    return [f"mimic-cxr-{version}-{kind}.csv" for version in _VERSIONS]


def _paths(table: pd.DataFrame) -> "pd.Series[str]":
    patient = "p" + table["subject_id"]
    return "files/" + patient.str[:3] + "/" + patient + "/s" + table["study_id"] + "/" + table["dicom_id"] + ".jpg"


def _of_images(
    table: pd.DataFrame, studies: pd.DataFrame, positive: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(images, labels) the labels of each image's study, and (images,) whether the study has any row."""
    places = pd.MultiIndex.from_frame(studies[_STUDY]).get_indexer(pd.MultiIndex.from_frame(table[_STUDY]))
    there = places >= 0
    return positive[places] & there[:, np.newaxis], there


def _views(table: pd.DataFrame, metadata: pd.DataFrame) -> "pd.Series[str]":
    views = metadata.drop_duplicates("dicom_id").set_index("dicom_id")["ViewPosition"]
    view = table["dicom_id"].map(views).fillna("")
    return view.mask(view.isin(_LATERAL), "lateral")
