"""Published data sets to tables: each rule of each set on a tiny tree with the real file names and columns."""

import csv
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_picture
from sklearn.model_selection import train_test_split

from cbmir.errors import SourceError
from cbmir.ingest import open_source
from cbmir.ingest.datasets import DATASETS, PrepareOptions, merge, prepare
from cbmir.ingest.datasets.base import NO_LABEL, SEVERAL, UNCERTAIN, draw, rule
from cbmir.ingest.datasets.chexpert import chexpert
from cbmir.ingest.datasets.nih14 import nih14
from cbmir.ingest.datasets.observations import OBSERVATIONS
from cbmir.ingest.datasets.tree import Tree
from cbmir.ingest.sources import SourceImage, SourceOptions

MULTI = PrepareOptions(labels="multi")

NIH_HEAD = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT_HEAD = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS))
MIMIC_HEAD = ",".join(("subject_id", "study_id", *sorted(OBSERVATIONS)))


def touch(folder, *files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as stream:
        stream.write("\n".join(lines) + "\n")
    return path


def by_file(prepared):
    """File path -> (split, names of its labels)."""
    labels = [name for name in prepared.table.columns if "/" in name]
    return {
        row["filepath"]: (row["split"], [name for name in labels if row[name]])
        for row in prepared.table.to_dict("records")
    }


def observed(names, **cells):
    """Cells of the CheXpert labeler in the order of `names`; blank unless given."""
    given = {name.replace("_", " "): value for name, value in cells.items()}
    assert given.keys() <= set(OBSERVATIONS)
    return ",".join(str(given.get(name, "")) for name in names)


# --- NIH ChestX-ray14

NIH_ROWS = (
    "00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,",
    "00000002_000.png,Effusion,0,2,013M,F,AP,2500,2048,0.171,0.171,",
    "00000003_000.png,Pleural_Thickening,0,3,411Y,F,PA,2500,2048,0.171,0.171,",
    "00000004_000.png,No Finding,0,4,082Y,M,AP,2500,2048,0.171,0.171,",
    "00000005_000.png,Mass,0,5,069Y,M,PA,2500,2048,0.168,0.168,",
)


@pytest.fixture
def nih(tmp_path):
    folder = tmp_path / "nih14"
    write(folder / "Data_Entry_2017.csv", NIH_HEAD, *NIH_ROWS)
    names = [row.split(",")[0] for row in NIH_ROWS]
    write(folder / "train_val_list.txt", *names[:4])
    write(folder / "test_list.txt", names[4])
    touch(folder, *(f"images_{number:03}/images/{name}" for number, name in enumerate(names, start=1)))
    return folder


def test_nih14__follows_the_published_rules(nih):
    prepared = prepare("nih14", nih)
    assert set(by_file(prepared)) == {
        "images_001/images/00000001_000.png",
        "images_003/images/00000002_000.png",
        "images_004/images/00000003_000.png",
        "images_005/images/00000004_000.png",
    }
    found = {path: labels for path, (_, labels) in by_file(prepared).items()}
    assert found["images_001/images/00000001_000.png"] == ["XR/chest/Cardiomegaly"]
    assert found["images_003/images/00000002_000.png"] == ["XR/chest/Pleural Effusion"]
    assert found["images_004/images/00000003_000.png"] == ["XR/chest/Pleural Thickening"]
    assert by_file(prepared)["images_005/images/00000004_000.png"] == ("test", ["XR/chest/No Finding"])
    assert len([name for name in prepared.table.columns if "/" in name]) == 15
    report = prepared.report
    assert report.left_out == {SEVERAL: 1, "in none of the official lists": 1}
    assert (report.read, report.kept, report.failed) == (6, 4, 0)
    assert list(prepared.table.columns[:5]) == ["filepath", "dataset", "split", "modality", "anatomic_region"]


def test_nih14__draws_train_and_val_by_patient_as_published(nih):
    """The published draw: scikit-learn's, over the unique patients of the list in the order of the entries."""
    pairs = [(patient, image) for patient in range(40) for image in (0, 1)]
    rows = [f"{patient + 50:08}_{image:03}.png,Mass,0,{patient},1,M,PA,1,1,1,1," for patient, image in pairs]
    write(nih / "Data_Entry_2017.csv", NIH_HEAD, *rows)
    names = [row.split(",")[0] for row in rows]
    write(nih / "train_val_list.txt", *reversed(names[:60]))
    write(nih / "test_list.txt", *names[60:])
    touch(nih, *(f"images/{name}" for name in names[6:]))
    train, val = train_test_split(np.arange(30), train_size=0.9, random_state=42)
    want = {f"nih14-{patient}": "train" for patient in train} | {f"nih14-{patient}": "val" for patient in val}
    prepared = prepare("nih14", nih)
    drawn = prepared.table[prepared.table["split"] != "test"]
    assert dict(zip(drawn["patient_id"], drawn["split"], strict=True)) == {
        patient: split for patient, split in want.items() if int(patient.removeprefix("nih14-")) >= 3
    }
    assert prepared.report.patients_in_several_splits == 0


def test_nih14__keeps_every_label_where_asked(nih):
    prepared = prepare("nih14", nih, MULTI)
    assert by_file(prepared)["images_002/images/00000001_001.png"][1] == ["XR/chest/Cardiomegaly", "XR/chest/Emphysema"]
    assert prepared.report.left_out == {"in none of the official lists": 1}


def test_nih14__reads_ages_and_says_which_are_none(nih):
    prepared = prepare("nih14", nih)
    ages = dict(zip(prepared.table["patient_id"], prepared.table["age_years"], strict=True))
    assert ages["nih14-1"] == 58
    assert ages["nih14-2"] == pytest.approx(13 / 12, abs=0.01)
    assert np.isnan(ages["nih14-3"])
    assert "1 (411Y)" in prepared.report.notes[0]


def test_nih14__reads_the_second_edition_gzipped(nih):
    rows = [row.replace("Y,", ",").rstrip(",") for row in NIH_ROWS]
    (nih / "Data_Entry_2017.csv").unlink()
    header = NIH_HEAD.replace("Patient Gender", "Patient Sex").rstrip(",")
    write(nih / "Data_Entry_2017_v2020.csv.gz", header, *rows)
    prepared = prepare("nih14", nih)
    assert prepared.report.kept == 4
    assert prepared.table["age_years"].tolist()[0] == 58
    assert prepared.table["sex"].tolist() == ["M", "F", "F", "M"]


def test_nih14__counts_names_of_a_list_without_an_entry(nih):
    write(nih / "test_list.txt", "00000004_000.png", "00000099_000.png")
    report = prepare("nih14", nih).report
    assert report.left_out["in an official list without a row in Data_Entry_2017.csv"] == 1
    assert report.read == report.kept + sum(report.left_out.values()) == 7


def test_nih14__refuses_two_files_of_one_name(nih):
    touch(nih, "images-224/00000001_000.png")
    with pytest.raises(SourceError, match=r"images-224/00000001_000\.png and images_001"):
        prepare("nih14", nih)


def test_nih14__counts_a_patient_in_two_official_lists(nih):
    write(nih / "test_list.txt", "00000001_001.png", "00000004_000.png")
    prepared = prepare("nih14", nih, MULTI)
    assert prepared.report.patients_in_several_splits == 1
    assert any("more than one official split: 1;" in line for line in prepared.report.lines())


def test_nih14__says_where_an_image_stands_in_both_lists(nih):
    write(nih / "test_list.txt", "00000001_000.png", "00000004_000.png")
    prepared = prepare("nih14", nih)
    assert by_file(prepared)["images_001/images/00000001_000.png"][0] == "test"
    assert prepared.report.notes[0] == "images in both official lists, taken as test: 1"


# --- CheXpert


def chexpert_row(patient, study=1, view="view1_frontal", split="train", start="CheXpert-v1.0-small/", **cells):
    path = f"{start}{split}/patient{patient:05}/study{study}/{view}.jpg"
    what = "Frontal,AP" if "frontal" in view else "Lateral,"
    return f"{path},Female,68,{what},{observed(OBSERVATIONS, **cells)}"


CHEXPERT_ROWS = (
    chexpert_row(1, Pneumonia="1.0", Support_Devices="1.0", Edema="0.0"),
    chexpert_row(1, view="view2_lateral", Pneumonia="1.0", Support_Devices="1.0"),
    chexpert_row(2, Pneumonia="1.0", Edema="1.0"),
    chexpert_row(3, Pneumonia="1.0", Edema="1.0", Fracture="-1.0"),
    chexpert_row(4, Pneumonia="1.0", Fracture="-1.0"),
    chexpert_row(5, Support_Devices="1.0"),
    chexpert_row(6, No_Finding="1.0"),
    chexpert_row(7, Pleural_Effusion="1.0"),
)
VALID_ROW = chexpert_row(64541, split="valid", Cardiomegaly="1.0", Support_Devices="1.0")


def file_of(row):
    return row.split(",")[0].partition("/")[2]


@pytest.fixture
def chex(tmp_path):
    folder = tmp_path / "data/CheXpert-v1.0-small"
    write(folder / "train.csv", CHEXPERT_HEAD, *CHEXPERT_ROWS)
    write(folder / "valid.csv", CHEXPERT_HEAD, VALID_ROW)
    touch(folder, *map(file_of, (*CHEXPERT_ROWS, VALID_ROW)))
    return folder


def test_chexpert__follows_the_published_rules(chex):
    prepared = prepare("chexpert", chex)
    assert {path: labels for path, (_, labels) in by_file(prepared).items()} == {
        file_of(CHEXPERT_ROWS[0]): ["XR/chest/Pneumonia"],
        file_of(CHEXPERT_ROWS[1]): ["XR/chest/Pneumonia"],
        file_of(CHEXPERT_ROWS[6]): ["XR/chest/No Finding"],
        file_of(CHEXPERT_ROWS[7]): ["XR/chest/Pleural Effusion"],
        file_of(VALID_ROW): ["XR/chest/Cardiomegaly"],
    }
    assert by_file(prepared)[file_of(VALID_ROW)][0] == "test"
    assert prepared.report.left_out == {SEVERAL: 2, UNCERTAIN: 1, NO_LABEL: 1}
    assert "XR/chest/Support Devices" not in prepared.table
    first, lateral = prepared.table.to_dict("records")[:2]
    assert (first["patient_id"], first["study_id"]) == ("CheXpert-patient00001", "CheXpert-patient00001-study1")
    assert (first["view"], first["sex"], first["age_years"]) == ("AP", "F", "68")
    assert lateral["view"] == "lateral"


def test_chexpert__keeps_every_label_where_asked(chex):
    found = by_file(prepare("chexpert", chex, MULTI))
    assert found[file_of(CHEXPERT_ROWS[0])][1] == ["XR/chest/Pneumonia", "XR/chest/Support Devices"]
    assert found[file_of(CHEXPERT_ROWS[2])][1] == ["XR/chest/Edema", "XR/chest/Pneumonia"]
    assert found[file_of(CHEXPERT_ROWS[4])][1] == ["XR/chest/Pneumonia"]
    assert found[file_of(CHEXPERT_ROWS[5])][1] == ["XR/chest/Support Devices"]


def test_chexpert__draws_among_the_patients_of_the_published_draw(chex):
    """Patients whose labels sum to 1, with uncertain ones as -1, although not all of their images are kept."""
    rows = [chexpert_row(patient, Pneumonia="1.0") for patient in range(0, 60, 3)]
    rows += [chexpert_row(patient, Edema="1.0", Fracture="1.0", Pneumonia="-1.0") for patient in range(1, 60, 3)]
    rows += [chexpert_row(patient, Edema="1.0", Fracture="1.0") for patient in range(2, 60, 3)]
    write(chex / "train.csv", CHEXPERT_HEAD, *rows)
    touch(chex, *map(file_of, rows))
    patients = [file_of(row).split("/")[1] for row in rows]
    _, val = train_test_split(np.array(patients[:40]), train_size=0.9, random_state=42)
    single, multi = prepare("chexpert", chex), prepare("chexpert", chex, MULTI)
    assert {path.split("/")[1] for path, (split, _) in by_file(single).items() if split == "val"} == (
        set(val) & set(patients[:20])
    )
    both = by_file(multi)
    assert all(both[path][0] == split for path, (split, _) in by_file(single).items())
    assert [split for split, _ in both.values()].count("val") == 4 + 2
    assert multi.report.patients_in_several_splits == 0


@pytest.mark.parametrize("start", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", ""])
def test_chexpert__finds_files_whatever_the_paths_begin_with(chex, start):
    for name, rows in (("train", CHEXPERT_ROWS), ("valid", [VALID_ROW])):
        write(chex / f"{name}.csv", CHEXPERT_HEAD, *(start + row.partition("/")[2] for row in rows))
    assert set(by_file(prepare("chexpert", chex))) == {
        file_of(row) for row in (*CHEXPERT_ROWS[:2], *CHEXPERT_ROWS[6:])
    } | {file_of(VALID_ROW)}


def test_chexpert__takes_the_folder_above(chex):
    found = by_file(prepare("chexpert", chex.parent))
    assert f"CheXpert-v1.0-small/{file_of(VALID_ROW)}" in found


@pytest.fixture
def batches(tmp_path):
    """The full edition as it is downloaded; of the third batch the archive made a folder of its own."""
    folder = tmp_path / "chexpertchestxrays"
    first = folder / "CheXpert-v1.0 batch 1 (validate & csv)"
    rows = [chexpert_row(number, start="CheXpert-v1.0/", Edema="1.0") for number in (1, 22000, 44000, 50000)]
    valid = chexpert_row(64541, split="valid", start="CheXpert-v1.0/", Cardiomegaly="1.0")
    write(first / "train.csv", CHEXPERT_HEAD, *rows)
    write(first / "valid.csv", CHEXPERT_HEAD, valid)
    touch(first, file_of(valid))
    third = "CheXpert-v1.0 batch 3 (train 2)"
    parts = ("CheXpert-v1.0 batch 2 (train 1)", f"{third}/{third}", "CheXpert-v1.0 batch 4 (train 3)")
    images = [f"{part}/{file_of(row).partition('/')[2]}" for part, row in zip(parts, rows, strict=False)]
    touch(folder, *images)
    return folder, images, f"{first.name}/{file_of(valid)}"


def test_chexpert__finds_the_batches_of_the_download(batches):
    folder, images, valid = batches
    touch(folder, "CheXpert-v1.0 batch 2 (train 1)/patient64541/study1/view1_frontal.jpg")  # of no list
    prepared = prepare("chexpert", folder)
    found = by_file(prepared)
    assert set(found) == {*images, valid}
    assert {found[image][0] for image in images} <= {"train", "val"}
    assert found[valid][0] == "test"
    assert [failure.filepath for failure in prepared.failures] == [
        "CheXpert-v1.0/train/patient50000/study1/view1_frontal.jpg"
    ]


@pytest.mark.parametrize("name", ["CheXpert-v1.0_batch_2_train_1", "chexpert batch 2 (train 1) copy", "batch2-train1"])
def test_chexpert__finds_batches_under_other_names(batches, name):
    folder, images, _ = batches
    (folder / images[0].partition("/")[0]).rename(folder / name)
    assert f"{name}/{images[0].partition('/')[2]}" in by_file(prepare("chexpert", folder))


def test_chexpert__refuses_an_image_in_two_batches(batches):
    folder, images, _ = batches
    touch(folder, images[0].replace("batch 2 (train 1)", "batch 4 (train 3)"))
    with pytest.raises(SourceError, match=r"batch 2 \(train 1\)/patient00001.* and .*batch 4 .*: which is meant"):
        prepare("chexpert", folder)


def test_chexpert__refuses_two_editions_side_by_side(chex):
    write(chex.parent / "CheXpert-v1.0/train.csv", CHEXPERT_HEAD, *CHEXPERT_ROWS)
    with pytest.raises(SourceError, match=r"train\.csv lies in CheXpert-v1\.0 and in CheXpert-v1\.0-small"):
        prepare("chexpert", chex.parent)


def test_chexpert__refuses_a_cell_that_is_no_state(chex):
    write(chex / "valid.csv", CHEXPERT_HEAD, chexpert_row(1, split="valid", Edema="maybe"))
    with pytest.raises(SourceError, match=r"valid\.csv: Edema is 'maybe' in row 1, not 1, 0, -1 or blank"):
        prepare("chexpert", chex)


# --- MIMIC-CXR-JPG

MIMIC_IMAGES = (
    ("aaaa", "50414267", "10000032", "train"),
    ("bbbb", "50414267", "10000032", "train"),
    ("cccc", "50000001", "10000764", "validate"),
    ("dddd", "50000002", "11000000", "test"),
    ("eeee", "50000003", "11000001", "train"),
    ("ffff", "50000004", "11000002", "train"),
)
MIMIC_STUDIES = (
    ("10000032", "50414267", {"Pneumonia": "1.0", "Edema": "-1.0", "Support_Devices": "1.0"}),
    ("10000764", "50000001", {"No_Finding": "1.0"}),
    ("11000000", "50000002", {"Atelectasis": "1.0"}),
    ("11000001", "50000003", {"Atelectasis": "1.0", "Fracture": "1.0"}),
)


def mimic_file(dicom, study, subject, _split):
    return f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"


@pytest.fixture
def mimic(tmp_path):
    folder = tmp_path / "mimic/2.0.0"
    write(folder / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", *map(",".join, MIMIC_IMAGES))
    studies = (
        f"{subject},{study},{observed(sorted(OBSERVATIONS), **cells)}" for subject, study, cells in MIMIC_STUDIES
    )
    write(folder / "mimic-cxr-2.0.0-chexpert.csv", MIMIC_HEAD, *studies)
    touch(folder, *(mimic_file(*image) for image in MIMIC_IMAGES))
    return folder


def test_mimic__follows_the_published_rules(mimic):
    prepared = prepare("mimic", mimic.parent)
    assert by_file(prepared) == {
        f"2.0.0/{mimic_file(*MIMIC_IMAGES[0])}": ("train", ["XR/chest/Pneumonia"]),
        f"2.0.0/{mimic_file(*MIMIC_IMAGES[1])}": ("train", ["XR/chest/Pneumonia"]),
        f"2.0.0/{mimic_file(*MIMIC_IMAGES[2])}": ("val", ["XR/chest/No Finding"]),
        f"2.0.0/{mimic_file(*MIMIC_IMAGES[3])}": ("test", ["XR/chest/Atelectasis"]),
    }
    assert prepared.report.left_out == {
        SEVERAL: 1,
        "no labels of its study in 2.0.0/mimic-cxr-2.0.0-chexpert.csv": 1,
    }
    assert prepared.table["patient_id"].tolist()[:3] == ["mimic-10000032", "mimic-10000032", "mimic-10000764"]
    assert prepared.table["study_id"].tolist()[0] == "mimic-50414267"
    assert "view left blank" in prepared.report.notes[0]


def test_mimic__takes_views_from_the_metadata(mimic):
    write(
        mimic / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,Rows,ViewPosition", "bbbb,1,LATERAL", "aaaa,1,PA", "cccc,1,"
    )
    prepared = prepare("mimic", mimic)
    assert prepared.table["view"].tolist() == ["PA", "lateral", "", ""]
    assert prepared.report.notes == ()


def test_mimic__keeps_every_label_where_asked(mimic):
    found = by_file(prepare("mimic", mimic, MULTI))
    assert found[mimic_file(*MIMIC_IMAGES[0])][1] == ["XR/chest/Pneumonia", "XR/chest/Support Devices"]
    assert found[mimic_file(*MIMIC_IMAGES[4])][1] == ["XR/chest/Atelectasis", "XR/chest/Fracture"]


# --- RadImageNet

RADIMAGENET = {
    "train": ("CT/abd/adrenal_pathology/a.png", "US/liver/b.png", "MR/af/Achilles_pathology/c.png"),
    "val": ("US/thyroid_nodule/d.png", "US/portal_vein/e.png"),
    "test": ("CT/lung/airspace_opacity/f.png", "US/thyroid/g.png", "MR/af/Achilles_pathology/h.png"),
}


@pytest.fixture
def radimagenet(tmp_path):
    folder = tmp_path / "data/radiology_ai"
    for split, files in RADIMAGENET.items():
        write(folder / f"RadiologyAI_{split}.csv", "filename,label", *(f"radiology_ai/{file},x" for file in files))
        touch(folder, *files)
    return folder


def test_radimagenet__takes_labels_from_the_folders(radimagenet):
    prepared = prepare("radimagenet", radimagenet)
    assert by_file(prepared) == {
        "CT/abd/adrenal_pathology/a.png": ("train", ["CT/abd/adrenal_pathology"]),
        "US/liver/b.png": ("train", ["US/liver/normal"]),
        "MR/af/Achilles_pathology/c.png": ("train", ["MR/af/Achilles_pathology"]),
        "US/thyroid_nodule/d.png": ("val", ["US/thyroid/nodule"]),
        "US/portal_vein/e.png": ("val", ["US/portal_vein/normal"]),
        "CT/lung/airspace_opacity/f.png": ("test", ["CT/lung/airspace_opacity"]),
        "US/thyroid/g.png": ("test", ["US/thyroid/normal"]),
        "MR/af/Achilles_pathology/h.png": ("test", ["MR/af/Achilles_pathology"]),
    }
    rows = {row["filepath"]: row for row in prepared.table.to_dict("records")}
    assert rows["US/thyroid_nodule/d.png"]["modality"] == "US"
    assert rows["US/thyroid_nodule/d.png"]["anatomic_region"] == "thyroid"
    assert set(prepared.table["dataset"]) == {"radiology_ai"}
    assert prepared.report.patients_in_several_splits is None
    assert "name no patient" in prepared.report.notes[0]


def test_radimagenet__renames_fifteen_folders(tmp_path):
    organs = ["aorta", "bladder", "cbd", "fibroid", "gb", "ivc", "kidney", "liver", "ovary", "pancreas", "portal_vein"]
    organs += ["spleen", "thyroid", "uterus"]
    files = [f"radiology_ai/US/{organ}/1.png" for organ in (*organs, "thyroid_nodule")]
    write(tmp_path / "RadiologyAI_train.csv", "filename", *files)
    for split in ("val", "test"):
        write(tmp_path / f"RadiologyAI_{split}.csv", "filename")
    touch(tmp_path, *files)
    labels = {label for _, (label,) in by_file(prepare("radimagenet", tmp_path)).values()}
    assert labels == {f"US/{organ}/normal" for organ in organs} | {"US/thyroid/nodule"}


def test_radimagenet__leaves_out_the_ignore_list_and_what_comes_again(radimagenet, tmp_path):
    again = ["radiology_ai/CT/abd/adrenal_pathology/a.png"] * 2
    write(
        radimagenet / "RadiologyAI_train.csv", "filename", *again, "radiology_ai/US/liver/b.png", "radiology_ai/x.png"
    )
    write(radimagenet / "RadiologyAI_val.csv", "filename", again[0])
    ignore = write(tmp_path / "ignore.txt", "radiology_ai/US/liver/b.png", "CT/lung/airspace_opacity/f.png", "gone.png")
    report = prepare("radimagenet", radimagenet, PrepareOptions(ignore=ignore)).report
    assert report.left_out == {
        "in the ignore list": 2,
        "its path names no label": 1,
        "listed again": 1,
        "listed again, in another split": 1,
    }
    assert report.images == {"train": 1, "val": 0, "test": 2}
    assert report.notes[-1] == f"names in {ignore} that are no image of the lists: 1 of 3"


# --- what holds for all


@pytest.fixture(params=["nih14", "chexpert", "mimic", "radimagenet"])
def published(request):
    """Name of a data set and the tiny tree of it."""
    fixture = {"nih14": "nih", "chexpert": "chex"}.get(request.param, request.param)
    return request.param, request.getfixturevalue(fixture)


def test_datasets__each_has_a_tree_here():
    """A newcomer to the registry needs one, so that the tests of all cover it."""
    assert sorted(DATASETS) == ["chexpert", "mimic", "nih14", "radimagenet"]


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_prepare__gives_a_table_that_ingest_takes(published, mode, tmp_path):
    name, folder = published
    prepared = prepare(name, folder, PrepareOptions(mode))
    for out in (folder / "table.csv", tmp_path / "elsewhere/table.csv.gz"):
        prepared.write(out)
        items = list(open_source(out, SourceOptions(root=None if out.parent == folder else folder)))
        assert all(isinstance(item, SourceImage) and item.asset.path.is_file() for item in items)
        assert len(items) == prepared.report.kept
        assert all(item.record.labels and item.record.modality and item.record.split for item in items)
        assert not any(item.record.extra for item in items)
        if mode == "single":
            assert {len(item.record.labels) for item in items} == {1}


def test_prepare__counts_and_names_missing_files(published):
    name, folder = published
    whole = prepare(name, folder)
    gone = whole.table["filepath"].iloc[0]
    (folder / gone.removeprefix("/")).unlink()
    prepared = prepare(name, folder)
    report = prepared.report
    assert (report.kept, report.failed) == (whole.report.kept - 1, 1)
    assert report.read == report.kept + sum(report.left_out.values()) + report.failed == whole.report.read
    assert Path(prepared.failures[0].filepath).name == Path(gone).name
    assert gone not in set(prepared.table["filepath"])


def test_prepare__needs_some_of_the_files(published):
    name, folder = published
    for path in [*folder.rglob("*.png"), *folder.rglob("*.jpg")]:
        path.unlink()
    with pytest.raises(SourceError, match=r"of \d+ images? of \w+ none is below .*; the lists name "):
        prepare(name, folder)


def test_prepare__report_adds_up(published):
    name, folder = published
    report = prepare(name, folder, MULTI).report
    for split, count in report.images.items():
        assert count <= sum(row[split] for row in report.counts.values())
    assert sum(report.images.values()) == report.kept
    assert json.loads(json.dumps(report.as_json()))["kept"] == report.kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nih", "."), "no data set 'nih'; there are chexpert, mimic, nih14, radimagenet"),
        (("nih14", "."), "no Data_Entry_2017.csv or Data_Entry_2017_v2020.csv (or with .gz) below"),
        (("mimic", "missing"), "can't list missing: No such file"),
    ],
)
def test_prepare__says_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as error:
        prepare(arguments[0], Path(arguments[1]))
    assert message in str(error.value)


def test_prepare__names_a_missing_column_and_a_damaged_list(nih):
    write(nih / "Data_Entry_2017.csv", "Image Index,Finding Labels", "a.png,Mass")
    with pytest.raises(SourceError, match=r"has no column Patient ID; its columns are Image Index, Finding Labels"):
        prepare("nih14", nih)
    (nih / "Data_Entry_2017.csv").rename(nih / "Data_Entry_2017.csv.gz")
    with pytest.raises(SourceError, match=r"can't read .*Data_Entry_2017\.csv\.gz: .*gzip"):
        prepare("nih14", nih)


def test_walk__follows_links_once_and_ends_in_a_loop(tmp_path):
    touch(tmp_path / "real", "a.png", "deep/b.png")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "tree")
    assert Tree.walk(tmp_path / "tree").files == {"linked/a.png", "linked/deep/b.png"}


def test_walk__passes_over_what_is_hidden(tmp_path):
    touch(tmp_path, "images/a.png", ".Trash-1000/files/a.png", "@eaDir/a.png", "__MACOSX/images/._a.png", "Thumbs.db")
    tree = Tree.walk(tmp_path)
    assert tree.files == {"images/a.png"}
    assert tree.by_name("list.csv", ".png") == {"a.png": "images/a.png"}


@given(st.lists(st.lists(st.sampled_from([1, 0, -1]), min_size=4, max_size=4), min_size=1))
def test_rule__is_the_published_net_rule(states):
    """Published in two steps: the sum with uncertain as -1 is 1, and then the sum of the positive ones is 1."""
    state = np.array(states)
    kept = rule(state == 1, "single", (state == -1).any(axis=1)) == ""
    assert kept.tolist() == [sum(row) == 1 and row.count(1) == 1 for row in states]
    assert (rule(state == 1, "multi") == "").tolist() == [1 in row for row in states]


@given(st.lists(st.integers(0, 30).map(str)))
def test_draw__gives_a_patient_one_split(patients):
    drawn = draw(pd.Series(patients, dtype=str))
    assert drawn.keys() == set(patients)
    assert list(drawn.values()).count("train") == max(int(0.9 * len(drawn)), min(len(drawn), 1))


# --- the commands


def test_prepare_command__leaves_with_3_where_files_are_missing(cbmir, nih, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (nih / "images_001/images/00000001_000.png").unlink()
    done = cbmir("ingest", "prepare", "nih14", nih, "--out", nih / "t.csv")
    assert done.returncode == 3, done.stderr
    with Path("failures-nih14.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["filepath"], row["reason"]) for row in rows] == [("00000001_000.png", f"no such file below {nih}")]
    assert "XR/chest/Pleural Effusion" in done.stdout
    assert f"cbmir ingest images {nih / 't.csv'} --encoder" in done.stderr


def test_prepare_command__what_it_says_next_works(cbmir, nih, tmp_path):
    for number, path in enumerate(sorted(nih.rglob("*.png"))):
        write_picture(path, number)
    out = tmp_path / "t.csv"
    done = cbmir("ingest", "prepare", "nih14", nih, "--out", out, "--json")
    assert (done.returncode, json.loads(done.stdout)["kept"]) == (0, 4)
    words = done.stderr.split("next: cbmir ")[1].split()
    words = [{"ENCODER": "pixels", "STORE": str(tmp_path / "store")}.get(word, word) for word in words]
    assert words[3:5] == ["--root", str(nih)]
    done = cbmir(*words, "--json", "--workers", 1)
    assert (done.returncode, json.loads(done.stdout)["stored"]) == (0, 4), done.stderr


@pytest.mark.parametrize("name", ["table.parquet", "table"])
def test_prepare_command__refuses_another_format_first(cbmir, tmp_path, name):
    done = cbmir("ingest", "prepare", "nih14", tmp_path, "--out", tmp_path / name)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: can't write a table {tmp_path / name}; its name must end in .csv or .csv.gz\n",
    )


def test_prepare_command__never_writes_over_an_official_list(cbmir, chex):
    before = (chex / "train.csv").read_text()
    done = cbmir("ingest", "prepare", "chexpert", chex, "--out", chex / "train.csv")
    assert (done.returncode, (chex / "train.csv").read_text()) == (1, before)
    assert "is an official list of CheXpert; give the table another name" in done.stderr


def test_merge__makes_one_table_of_several(cbmir, nih, chex, radimagenet, tmp_path):
    tables = [
        (name, folder / "table.csv")
        for name, folder in (("nih14", nih), ("chexpert", chex), ("radimagenet", radimagenet))
    ]
    kept = 0
    for name, path in tables:
        prepared = prepare(name, path.parent)
        prepared.write(path)
        kept += prepared.report.kept
    out = tmp_path / "all.csv"
    done = cbmir("ingest", "merge", *(path for _, path in tables), "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert "XR/chest/Pleural Effusion" in json.loads(done.stdout)["shared"]
    items = list(open_source(out))
    assert len(items) == kept
    assert all(isinstance(item, SourceImage) and item.asset.path.is_file() for item in items)
    separate = [item for _, path in tables for item in open_source(path)]
    assert [item.record.labels for item in items] == [item.record.labels for item in separate]
    assert [item.record.patient_id for item in items] == [item.record.patient_id for item in separate]


def test_merge__takes_blank_for_0_and_one_label_however_it_is_spelt(tmp_path):
    first = write(tmp_path / "a.csv", "filepath,dataset,XR/chest/Mass,note", 'x.png,a,1.0,"say ""hi"", you"')
    second = write(tmp_path / "b.csv.gz", "filepath,dataset,xr/Chest/mass,CT/lung/Nodule", "x.png,b,,1", "y.png,b,1,0")
    merged = merge([first, second], tmp_path / "all.csv")
    assert (merged.rows, merged.shared) == ({str(first): 1, str(second): 2}, ["XR/chest/Mass"])
    with (tmp_path / "all.csv").open() as stream:
        assert [tuple(row.values()) for row in csv.DictReader(stream)] == [
            ("x.png", "a", 'say "hi", you', "1", "0"),
            ("x.png", "b", "", "0", "1"),
            ("y.png", "b", "", "1", "0"),
        ]


def test_merge__keeps_paths_below_a_common_root(tmp_path):
    first = write(tmp_path / "a/t.csv", "filepath,dataset", "x.png,a", "/abs/y.png,a")
    second = write(tmp_path / "b/t.csv", "filepath,dataset", "x.png,b")
    for root, want in ((tmp_path, ["x.png", "/abs/y.png", "x.png"]), (None, ["a/x.png", "/abs/y.png", "b/x.png"])):
        merge([first, second], tmp_path / "all.csv", root)
        assert pd.read_csv(tmp_path / "all.csv")["filepath"].tolist() == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filepath,dataset\nx.png,a\n", "x.png of a comes again in"),
        ("filepath,XR/chest/Mass\nz.png,1\n", "has no column dataset; both tell images apart"),
        ("filepath,dataset,XR/a/b\nz.png,a,2\n", "label XR/a/b is 2 in"),
        ("filepath,dataset,XR/a/b\nz.png,a,yes\n", "can't read the table"),
        ("filepath,dataset,XR/a/b,XR/a/B\nz.png,a,1,1\n", "has more than one column xr/a/b"),
        ("filepath,dataset\nz.png\n", "can't read the table"),
        ("", "can't read the table"),
    ],
)
def test_merge__refuses(text, message, tmp_path):
    first = write(tmp_path / "a.csv", "filepath,dataset", "x.png,a")
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(SourceError) as error:
        merge([first, tmp_path / "b.csv"], tmp_path / "all.csv")
    assert message in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_merge__refuses_to_write_over_a_table_it_reads(tmp_path):
    table = write(tmp_path / "a.csv", "filepath,dataset", "x.png,a")
    with pytest.raises(SourceError, match="is one of the tables to merge"):
        merge([table], table)


# --- the real label tables, at their true size


def real_table(name):
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None:
        pytest.skip("torchxrayvision is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / name


@pytest.mark.slow
def test_nih14__real_table_at_scale(tmp_path):
    entries = real_table("Data_Entry_2017_v2020.csv.gz")
    table = pd.read_csv(entries)
    (tmp_path / entries.name).symlink_to(entries)
    test = table["Patient ID"] % 5 == 0
    write(tmp_path / "train_val_list.txt", *table["Image Index"][~test])
    write(tmp_path / "test_list.txt", *table["Image Index"][test])
    files = {f"images/{name}" for name in table["Image Index"]}
    lists = {entries.name, "train_val_list.txt", "test_list.txt"}
    listing = nih14(Tree(tmp_path, frozenset(files | lists)), "single")
    kept = listing.rows["left_out"] == ""
    alone = ~table["Finding Labels"].str.contains("|", regex=False)
    assert (kept.sum(), len(kept)) == (alone.sum(), 112_120)
    counts = listing.labels[kept].sum()
    assert counts["XR/chest/Pleural Effusion"] == (table["Finding Labels"] == "Effusion").sum()
    assert counts.sum() == kept.sum()
    train, val = train_test_split(table["Patient ID"][~test].unique(), train_size=0.9, random_state=42)
    assert (listing.rows["split"] == "val").tolist() == table["Patient ID"].isin(val).tolist()
    assert (listing.rows["split"] == "train").tolist() == table["Patient ID"].isin(train).tolist()
    assert listing.notes == ()


@pytest.mark.slow
def test_chexpert__real_table_at_scale(tmp_path):
    """The rules as published, step by step, on all 223,414 rows."""
    train = real_table("chexpert_train.csv.gz")
    (tmp_path / "train.csv.gz").symlink_to(train)
    write(tmp_path / "valid.csv", CHEXPERT_HEAD, VALID_ROW)
    table = pd.read_csv(train)
    listing = chexpert(Tree(tmp_path, frozenset({"train.csv.gz", "valid.csv"})), "single")
    states = table[[name for name in OBSERVATIONS if name != "Support Devices"]].fillna(0)
    summed = states.sum(axis=1) == 1
    patients = table["Path"].str.split("/").str[2]
    _, val = train_test_split(patients[summed].unique(), train_size=0.9, random_state=42)
    kept = summed & (states.where(states >= 1, 0).sum(axis=1) == 1)
    rows = listing.rows.iloc[:-1]
    assert (rows["left_out"] == "").tolist() == kept.tolist()
    assert kept.sum() == 55_781
    assert (rows["split"] == "val")[kept].tolist() == patients.isin(val)[kept].tolist()
