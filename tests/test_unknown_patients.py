"""What evaluations say where patients aren't known: nobody may read images as patients."""

import csv
import json
import re

import pytest
from pictures import write_picture

NAMES = ["patient_id", "PatientID", "Patient ID", "patient", "subject_id", "Subject", "participant_id", "pid"]
WARNING = "WARNING     no image has a patient_id: same-patient images are not excluded"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two near copies of each of 24 pictures, a patient each; the nearest other image of no patient has their class."""
    folder = tmp_path_factory.mktemp("patients")
    for number in range(24):
        for copy in range(2):
            write_picture(folder / f"{number:02}-{copy}.png", number)
    return folder


def ingested(folder, cbmir, store, column):
    table = folder / "t.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "labels", column or "site"])
        for number in range(24):
            writer.writerows([f"{number:02}-{copy}.png", f"XR/chest/c{number}", f"p{number}"] for copy in range(2))
    done = cbmir("ingest", "images", table, "--encoder", "pixels", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    dry = cbmir("ingest", "images", table, "--dry-run", "--json")
    (reading,) = json.loads(dry.stdout)["reading"]
    assert json.loads(done.stdout)["reading"] == [reading]
    return done.stderr, reading


def precision(cbmir, store, command="retrieval"):
    how = ("--store", store, "--collection", "pixels", "--queries", "all", "--gallery", "all", "--draws", 50)
    extra = {
        "retrieval": ("-k", 1, "--search", "exact", "--measure", "precision"),
        "classify": ("-k", 1),
        "sweep": (),
    }[command]
    done = cbmir("evaluate", command, *how, *extra)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("column", NAMES)
def test_retrieval__the_patient_counts_under_every_name(folder, cbmir, tmp_path, column):
    told, reading = ingested(folder, cbmir, tmp_path / "s", column)
    assert {item["name"]: item["became"] for item in reading["columns"]}[column] == "patient_id"
    assert (reading["tally"]["patients"], reading["tally"]["without_patient"]) == (24, 0)
    assert "no image has a patient_id" not in told
    out = precision(cbmir, tmp_path / "s")
    assert WARNING not in out
    assert re.search(r"all +micro +exact +0\.0000", out), out
    assert "50 draws of 24 patients," in out
    assert "96 images for 48 queries; 0 queries without patient_id" in out


def test_retrieval__without_patients_the_header_says_so(folder, cbmir, tmp_path):
    told, reading = ingested(folder, cbmir, tmp_path / "s", None)
    assert (reading["tally"]["patients"], reading["tally"]["without_patient"]) == (0, 48)
    assert "warning: no image has a patient_id" in told
    out = precision(cbmir, tmp_path / "s")
    assert WARNING in out.splitlines()
    assert re.search(r"all +micro +exact +1\.0000", out), out
    assert "50 draws of 48 images, as none has a patient id (each counted on its own)," in out


@pytest.mark.parametrize("command", ["retrieval", "sweep", "classify"])
def test_evaluate__images_are_never_called_patients(folder, cbmir, tmp_path, command):
    ingested(folder, cbmir, tmp_path / "s", None)
    out = precision(cbmir, tmp_path / "s", command)
    assert WARNING in out.splitlines()
    assert not re.search(r"\d patients", out), out


def test_compare__images_are_never_called_patients(folder, cbmir, tmp_path):
    ingested(folder, cbmir, tmp_path / "s", None)
    arguments = ("--encoder", "pixels", "--store", tmp_path / "s", "--collection", "other")
    assert cbmir("ingest", "images", folder / "t.csv", *arguments).returncode == 0
    how = ("--store", tmp_path / "s", "--queries", "all", "--gallery", "all", "--draws", 50)
    out = cbmir("evaluate", "compare", "pixels", "other", *how).stdout
    assert "no image has a patient_id: same-patient images are not excluded" in out
    assert "paired randomisation over images, 50 draws" in out
    assert not re.search(r"\d patients", out), out
    data = json.loads(cbmir("evaluate", "compare", "pixels", "other", *how, "--json").stdout)
    assert (data["patients"], data["queries_without_patient"]) == (0, 48)
