"""Folders and tables to image records."""

import pandas as pd
import pytest
from pictures import write_picture

from cbmir.errors import SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.report import Failure
from cbmir.ingest.sources import SourceImage


def items(path, **options):
    return list(open_source(path, SourceOptions(**options)))


def table(tmp_path, text, name="table.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_folder__folders_are_split_and_label(tmp_path):
    write_picture(tmp_path / "data/train/XR/Chest/Pleural Effusion/1.png", 1)
    write_picture(tmp_path / "data/test/CT/lung/2.PNG", 2)
    write_picture(tmp_path / "data/3.jpg", 3)
    records = {item.record.filepath: item.record for item in items(tmp_path / "data")}
    first = records["train/XR/Chest/Pleural Effusion/1.png"]
    assert (first.split, first.modality, first.anatomic_region) == ("train", "XR", "chest")
    assert first.labels == ("XR/chest/pleural_effusion",)
    assert first.dataset == "data"
    second = records["test/CT/lung/2.PNG"]
    assert (second.split, second.labels, second.payload().get("pathology")) == ("test", ("CT/lung",), [])
    assert records["3.jpg"].labels == ()


def test_folder__one_folder_is_the_pathology_where_the_rest_is_set(tmp_path):
    write_picture(tmp_path / "nodule/1.png", 1)
    (plain,) = items(tmp_path)
    assert plain.record.labels == ("nodule",)
    (item,) = items(tmp_path, constants={"modality": "ct", "anatomic_region": "Lung"})
    assert item.record.labels == ("CT/lung/nodule",)
    assert (item.record.modality, item.record.anatomic_region) == ("CT", "lung")


def test_folder__labels_can_be_turned_off(tmp_path):
    write_picture(tmp_path / "train/CT/lung/1.png", 1)
    (item,) = items(tmp_path, folder_labels=False)
    assert (item.record.labels, item.record.split) == ((), None)


def test_folder__other_files_are_counted_by_suffix(tmp_path):
    write_picture(tmp_path / "1.png", 1)
    for name in ("a.txt", "b.txt", "README"):
        (tmp_path / name).touch()
    assert open_source(tmp_path).ignored == {".txt": 2, "no suffix": 1}


HIDDEN = (
    *(".ipynb_checkpoints/1-checkpoint.png", "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", ".Trash-1000/files/1.png"),
    *("__MACOSX/._1.png", "$RECYCLE.BIN/1.png", "lost+found/1.png", "deep/.hidden/more/1.png", "#recycle/1.png"),
)


def test_folder__hidden_files_and_folders_are_counted_and_not_read(tmp_path):
    folder = tmp_path / ".cache/XR"  # where the folder itself is doesn't matter
    for name in ("1.png", "deep/2.png", "trash/3.png", "a.b.png", *HIDDEN):
        write_picture(folder / name, 1)
    for name in ("._1.png", "deep/.DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (folder / name).touch()
    source = open_source(folder)
    assert [item.record.filepath for item in source] == ["1.png", "a.b.png", "deep/2.png", "trash/3.png"]
    assert source.ignored == {".txt": 1, "hidden files": 4, "hidden folders": 8}
    notes = source.reading().notes
    assert notes[0] == "passed over, no image suffix: .txt 1"
    assert notes[1] == "passed over, hidden or made by an operating system: hidden files 4, hidden folders 8"


def test_folder__of_hidden_images_alone_says_so(tmp_path):
    write_picture(tmp_path / ".data/1.png", 1)
    with pytest.raises(SourceError, match=r"no image below .*; passed over, hidden .*: hidden folders 1$"):
        open_source(tmp_path)


def test_folder__without_images_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no image below"):
        open_source(tmp_path)


def test_table__one_hot_columns_are_labels(tmp_path):
    path = table(
        tmp_path,
        "filepath,dataset,split,modality,anatomic_region,XR/chest/Pneumonia,XR/chest/No Finding\n"
        "a.png,nih14,train,XR,Chest,1,0\nb.png,nih14,test,XR,chest,1.0,1\nc.png,nih14,val,XR,chest,0,\n",
    )
    first, second, third = (item.record for item in items(path))
    assert first.labels == ("XR/chest/pneumonia",)
    assert second.labels == ("XR/chest/pneumonia", "XR/chest/no_finding")
    assert third.labels == ()
    assert (first.dataset, first.split, first.anatomic_region) == ("nih14", "train", "chest")


def test_table__label_column_extra_and_aliases(tmp_path):
    path = table(tmp_path, "filepath,labels,plane,age_years,licence\na.png,CT/chest|CT/Lung/Nodule,axial,61,MIT\n")
    (item,) = items(path, constants={"split": "train", "age_years": "5"})
    record = item.record
    assert record.labels == ("CT/chest", "CT/lung/nodule")
    assert (record.view, record.age_years, record.split, record.dataset) == ("axial", 61.0, "train", "table")
    assert record.extra == {"licence": "MIT"}
    assert (record.modality, record.anatomic_region) == ("CT", "chest")
    assert item.asset.path == tmp_path / "a.png"


def test_table__parquet_gives_what_csv_gives(tmp_path):
    frame = pd.DataFrame(
        {
            "filepath": ["a.png", "b.png"],
            "dataset": ["d", "d"],
            "labels": [["CT/lung/nodule"], []],
            "age_years": [61.0, None],
            "XR/chest/Pneumonia": [0, 1],
            "site": ["x", None],
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    first, second = (item.record for item in items(tmp_path / "table.parquet"))
    assert (first.labels, first.age_years, first.extra) == (("CT/lung/nodule",), 61.0, {"site": "x"})
    assert (second.labels, second.age_years, second.extra) == (("XR/chest/pneumonia",), None, {})
    assert open_source(tmp_path / "table.parquet").total == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",d,train,0", "has no filepath"),
        ("a.png,d,holdout,0", "is none of train, val, test"),
        ("a.png,d,train,maybe", "not 0, 1, -1"),
    ],
)
def test_table__a_bad_row_is_a_failure_with_its_place(tmp_path, row, reason):
    path = table(tmp_path, f"filepath,dataset,split,XR/chest/x\nfine.png,d,train,1\n{row}\n")
    fine, bad = items(path)
    assert isinstance(fine, SourceImage)
    assert isinstance(bad, Failure)
    assert reason in bad.reason
    assert bad.place == "table.csv row 2"


def test_table__absolute_paths_below_the_root_become_relative(tmp_path):
    path = table(tmp_path, f"filepath\n{tmp_path}/images/a.png\n/elsewhere/b.png\n")
    inside, outside = items(path)
    assert (inside.record.filepath, inside.asset.path) == ("images/a.png", tmp_path / "images/a.png")
    assert isinstance(outside, Failure)
    assert outside.reason == f"lies outside of the root {tmp_path}: give --root /"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.csv", b""),
        ("no_filepath.csv", b"note,label\na,b\n"),
        ("binary.csv", b"\xff\xfe\x00\x01\n\x00"),
        ("text.parquet", b"filepath\na.png\n"),
    ],
)
def test_table__what_is_no_table_is_one_clear_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=name):
        items(tmp_path / name)


def test_open_source__names_what_a_source_is(tmp_path):
    (tmp_path / "notes.docx").touch()
    with pytest.raises(SourceError, match="a folder of images"):
        open_source(tmp_path / "notes.docx")
    with pytest.raises(SourceError, match="no source"):
        open_source(tmp_path / "nowhere")
