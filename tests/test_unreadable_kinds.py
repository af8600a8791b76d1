"""Kinds of files that can't be read: what to do is said once, and folders count them."""

import os

import pytest
from dicoms import made
from pictures import write_picture
from test_decoder_version import HOW

from cbmir.errors import ImageError, SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.loading import Wanted, load_image
from cbmir.ingest.sources.dicom_files import PICTURES
from cbmir.ingest.sources.dicom_options import DicomOptions
from cbmir.media import Asset, decode_noted, passed_over, passed_over_as, remedy

pytestmark = pytest.mark.slow

DICOM = bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + bytes(200)
HELP = "is DICOM, whose path and header may name a patient: give its folder, a zip file, the DICOMDIR"


def test_remedy__by_name_or_first_bytes():
    for name in ("a.dcm", "b/A.DCM", "x.dicom", "x.ima", "DICOMDIR"):
        assert "is DICOM" in str(remedy(name)), name
    assert "is DICOM" in str(remedy("IM000001", DICOM))
    assert "Analyze or NIfTI pair" in str(remedy("brain.hdr"))
    assert "MetaImage" in str(remedy("brain.mhd"))
    assert "one .nrrd" in str(remedy("brain.nhdr"))
    assert "JPEG or PNG" in str(remedy("photo.heic"))
    assert "JPEG or PNG" in str(remedy("photo.jpg", b"\0\0\0\x18ftypheic" + bytes(20)))
    assert remedy("a.txt") is None
    assert remedy("a.png", b"\x89PNG\r\n\x1a\n") is None


@pytest.mark.parametrize("name", ["a.dcm", "IM000001", "1.2.840.113619.2.5"])
def test_open_source__a_dicom_file_without_a_header_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(DICOM)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / name)
    assert str(caught.value) == "the source holds no DICOM image; passed over, DICOM: objects without an image 1"


def test_load_image__dicom_whatever_its_name(tmp_path):
    for name, data in {"a.dcm": DICOM, "b.png": DICOM, "old.dcm": b"\x08\0\5\0\x0a\0\0\0ISO_IR 100"}.items():
        (tmp_path / name).write_bytes(data)
        reason = str(load_image(Wanted(Asset(tmp_path / name), None), HOW).reason)
        assert reason.startswith(HELP), name
    with pytest.raises(ImageError, match="is not in a picture format known here"):
        decode_noted(b"something else", "a.png")


def write_archive(folder):
    """Two images, and DICOM under the names that archives give it."""
    write_picture(folder / "a.png", 1)
    write_picture(folder / "deep/b.png", 2)
    for name in ("1.dcm", "2.DCM", "IM000001", "deep/1.2.840.113619.2.5"):
        (folder / name).write_bytes(DICOM)
    (folder / "LICENSE").write_text("text")
    (folder / "part.7").write_text("text")


def test_passed_over_as__dicom_is_told_by_its_first_bytes(tmp_path):
    write_archive(tmp_path)
    (tmp_path / "DICOMDIR").touch()
    names = {name: passed_over_as(tmp_path / name) for name in ("1.dcm", "IM000001", "LICENSE", "part.7", "DICOMDIR")}
    assert names == {"1.dcm": ".dcm", "IM000001": "DICOM", "LICENSE": "no suffix", "part.7": ".7", "DICOMDIR": "DICOM"}
    assert passed_over_as(tmp_path / "missing") == "no suffix"
    os.mkfifo(tmp_path / "pipe")
    assert passed_over_as(tmp_path / "pipe") == "no suffix"
    assert passed_over({}) == []


def test_folder__pictures_beside_dicom_are_taken_where_they_are_asked_for(tmp_path, cbmir, monkeypatch):
    """Their names would be stored, and in a folder of DICOM they may name patients."""
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "data")
    made(tmp_path / "data/good.dcm")
    source = open_source(tmp_path / "data")
    assert (source.total, source.ignored[PICTURES]) == (1, 2)
    done = cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", "store")
    assert done.returncode == 0
    assert "read 1 = stored 1 + skipped 0 + failed 0" in done.stderr
    assert "passed over, DICOM: objects without an image 4" in done.stderr
    assert f"{PICTURES}: 2 passed over" in done.stderr
    pictures = open_source(tmp_path / "data", SourceOptions(dicom=DicomOptions(take="pictures")))
    assert pictures.total == 2
    assert pictures.ignored == {".7": 1, "DICOM": 5, "no suffix": 1}
    done = cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", "other", "--take", "pictures")
    assert done.returncode == 0
    assert "passed over, no image suffix: .7 1, DICOM 5, no suffix 1" in done.stderr


def test_command__search_takes_dicom_below_a_folder(tmp_path, cbmir):
    write_picture(tmp_path / "data/a.png", 1)
    store = ("--store", tmp_path / "store", "--format", "csv-long")
    assert cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", *store[:2]).returncode == 0
    made(tmp_path / "data/1.2.840.7")
    made(tmp_path / "data/b.dcm")
    found = cbmir("search", "image", tmp_path / "data", "--include-same-patient", *store)
    assert found.returncode == 0
    assert len(found.stdout.splitlines()) == 4
    (tmp_path / "bad.dcm").write_bytes(DICOM)
    one = cbmir("search", "image", tmp_path / "bad.dcm", *store)
    assert one.returncode == 1
    assert "DICOM" in one.stderr


def test_table__a_row_of_dicom_fails_with_the_remedy(tmp_path):
    from test_ingest_images import ingest

    from cbmir.encoders import get

    write_archive(tmp_path / "data")
    (tmp_path / "data/table.csv").write_text("filepath\na.png\n1.dcm\nIM000001\n")
    report = ingest(tmp_path / "data/table.csv", tmp_path / "store", get("pixels"))
    assert (report.stored, report.failed) == (1, 2)
    assert all(item.reason.startswith(HELP) for item in report.failures)
