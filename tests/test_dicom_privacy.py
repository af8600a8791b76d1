"""Nothing that identifies a patient is left by a run: in the store, in what is printed, in any file beside it."""

import gzip
import json
import re
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import made
from pictures import cbmir, pixels
from planted import planted, traces
from pydicom.datadict import keyword_for_tag

from cbmir.errors import KeyFileError
from cbmir.ingest.privacy.dates import shifted, years_between
from cbmir.ingest.privacy.profile import HASHED, KEPT, READ, SHIFTED, profile
from cbmir.keyfile import Key, make_key, read_key
from cbmir.media.dicom_identity import is_dummy_id
from cbmir.store import open_store

SECRET_FOLDER, SECRET_FILE = "Kowalska Bronislawa 19330401", "Kowalska_Bronislawa_77123456"


def payloads(store: Path, name: str = "pixels") -> list[dict]:
    with open_store(store) as opened, opened.open(name) as collection:
        return [dict(point.payload) for page in collection.scroll() for point in page]


@pytest.mark.slow
def test_ingest__leaves_nothing_that_identifies(tmp_path, tmp_path_factory, monkeypatch):
    secrets = [SECRET_FOLDER, SECRET_FILE]
    data = tmp_path / "in" / SECRET_FOLDER
    for number in range(2):
        picture = pixels(number).astype(np.int16) * 4
        secrets += planted(data / f"{SECRET_FILE}{number}.dcm", picture, number)
    broken = (data / f"{SECRET_FILE}0.dcm").read_bytes()
    (data / f"{SECRET_FILE}_cut.dcm").write_bytes(broken[: len(broken) // 2])
    (data / f"{SECRET_FILE}_flat").write_bytes(broken[:400])
    made(data / f"{SECRET_FILE}_sr.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", PatientName=secrets[5])
    made(data / "zero.dcm", np.zeros((0, 0), np.int16), PatientName="Nullmensch^Nina")
    (data / f"{SECRET_FILE}.png").write_bytes(b"no picture")
    left = tmp_path / "left"
    (left / "tmp").mkdir(parents=True)
    short = tmp_path_factory.getbasetemp() / "t"  # the loader makes a socket in it, whose path may have 107 bytes
    short.symlink_to(left / "tmp")
    monkeypatch.setenv("TMPDIR", str(short))
    common = ("--store", "store", "--image-seconds", "60")
    runs = [
        ("ingest", "images", data, "--encoder", "pixels", "--thumbnails", "thumbnails", "--thumbnail-url",
         "https://images.example.org", "--embeddings", "vectors", "--json", *common),
        ("ingest", "images", data, "--encoder", "pixels", *common),
        ("search", "like", "NAME", "--json", "--sheet", "sheet.png", "--store", "store"),
        ("collections", "show", "pixels", "--json", "--store", "store"),
        ("collections", "export", "pixels", "--out", "export", "--store", "store"),
        ("evaluate", "audit", "--store", "store", "--json"),
    ]  # fmt: skip
    for number, run in enumerate(runs):
        done = cbmir(*((_first_path(left) if word == "NAME" else word) for word in run), cwd=left)
        assert done.returncode in (0, 3), done.stderr
        (left / f"said-{number}.txt").write_text(done.stdout + done.stderr)
    stored = payloads(left / "store")
    assert len(stored) == 2
    (left / "payloads.json").write_text(json.dumps(stored, ensure_ascii=False))
    (left / "records.json").write_text(_parquet(left / "export"))
    found = _found(left, secrets)
    assert found == []
    everything = b"".join(path.read_bytes() for path in left.rglob("*") if path.is_file())
    assert stored[0]["patient_id"].encode() in everything  # what is there is found this way


def ingested(folder: Path, store: str = "s", *options: object):
    """The command, from the folder, on what is in its folder ``a``."""
    run = ("ingest", "images", "a", "--encoder", "pixels", "--store", store)
    return cbmir(*run, *options, cwd=folder)


def _first_path(folder: Path) -> str:
    return payloads(folder / "store")[0]["filepath"]


def _parquet(folder: Path) -> str:
    import pyarrow.parquet as pq

    return json.dumps(
        [pq.read_table(path).to_pylist() for path in folder.rglob("*.parquet")], default=str, ensure_ascii=False
    )


def _without_gaps(data: bytes) -> bytes:
    """Long runs of zeros, of which the engine's files are full, made short."""
    return re.sub(rb"\0{64,}", b"\0" * 64, data)


def _found(folder: Path, secrets: list[str]) -> list[tuple[str, str]]:
    files = {path: _without_gaps(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    files |= {path: gzip.decompress(data) for path, data in files.items() if data[:2] == b"\x1f\x8b"}
    everything = b"\n".join([*files.values(), *(str(path.relative_to(folder)).encode() for path in folder.rglob("*"))])
    low = everything.lower()
    return [
        (secret, str(trace))
        for secret in dict.fromkeys(secrets)
        for trace in traces(secret)
        if len(trace) >= 6 and (trace in everything or trace in low)
    ]


def test_profile__is_the_whole_table_and_says_what_is_done():
    rows = profile()
    assert len(rows) > 600
    assert len({row.tag for row in rows}) == len(rows)
    for row in rows:
        if row.keyword:
            assert keyword_for_tag(int(row.tag, 16)) == row.keyword
    by_name = {row.keyword: row for row in rows if row.keyword}
    for name, action in {
        "PatientName": "Z",
        "SOPInstanceUID": "U",
        "PatientAge": "X",
        "StudyDate": "Z",
        "AccessionNumber": "Z",
    }.items():
        assert by_name[name].action == action
    kept = {row.keyword for row in rows if row.here == "kept"}
    assert kept == {"PatientAge", "PatientSex"}
    assert {row.keyword for row in rows if row.here == "shifted"} == SHIFTED
    assert {row.keyword for row in rows if row.here == "hashed"} == HASHED
    assert not KEPT & READ


def test_ingest__same_ids_in_two_runs_and_two_processes(tmp_path):
    made(tmp_path / "a/1.dcm", SOPInstanceUID="1.2.3", PatientID=" P1 ", StudyDate="20200115")
    made(tmp_path / "a/2.dcm", SOPInstanceUID="1.2.4", PatientID="P1", StudyDate="20200122", StudyInstanceUID="1.2.9")
    made(tmp_path / "a/3.dcm", SOPInstanceUID="1.2.5", PatientID="P2", StudyDate="20200122", StudyInstanceUID="1.2.10")
    for store in ("one", "two"):
        done = cbmir(
            "ingest", "images", tmp_path / "a", "--encoder", "pixels", "--store", tmp_path / store, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    first, second = ({item["filepath"]: item for item in payloads(tmp_path / store)} for store in ("one", "two"))
    assert first == second
    patients: dict[str, list[str]] = {}
    for item in first.values():
        patients.setdefault(item["patient_id"], []).append(item["study_date"][:10])
    assert sorted(map(len, patients.values())) == [1, 2]
    (dates,) = [sorted(found) for found in patients.values() if len(found) == 2]
    assert (np.datetime64(dates[1]) - np.datetime64(dates[0])).astype(int) == 7
    weeks = (np.datetime64("2020-01-15") - np.datetime64(dates[0])).astype(int) / 7
    assert weeks == int(weeks)
    assert 1 <= weeks <= 520


def test_ingest__another_key_is_refused_with_both_check_values(tmp_path, monkeypatch):
    made(tmp_path / "a/1.dcm")
    run = ("ingest", "images", tmp_path / "a", "--encoder", "pixels", "--store", tmp_path / "store")
    keys = [make_key(tmp_path / name) for name in ("one.key", "two.key")]
    assert cbmir(*run, "--dicom-key", tmp_path / "one.key", cwd=tmp_path).returncode == 0
    done = cbmir(*run, "--dicom-key", tmp_path / "two.key", cwd=tmp_path)
    assert done.returncode == 1
    assert all(key.check in done.stderr for key in keys)
    done = cbmir(*run, "--dicom-key", tmp_path / "lost.key", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no key file" in done.stderr
    assert keys[0].check in done.stderr
    assert not (tmp_path / "lost.key").exists()
    monkeypatch.setenv("CBMIR_DICOM_PLACES", str(tmp_path / "another machine"))
    done = cbmir(*run, "--dicom-key", tmp_path / "lost.key", cwd=tmp_path)
    assert done.returncode == 1
    assert keys[0].check in done.stderr
    assert len(payloads(tmp_path / "store")) == 1


def test_key_file__is_for_its_user_alone(tmp_path):
    path = tmp_path / "deep/dicom.key"
    key = make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == make_key(path) == key
    assert key.secret.hex() not in repr(key)
    assert read_key(tmp_path / "none") is None
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="other users may read"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("something else\n" + "0" * 64)
    with pytest.raises(KeyFileError, match="is no key file"):
        read_key(path)
    assert not [item for item in path.parent.iterdir() if item != path]


def test_key__known_answers():
    """By HMAC-SHA256 of ``patient``, NUL, the length in 8 bytes and the text: stored ids may never change."""
    key = Key(bytes(range(32)))
    assert key.hashed("patient", "a\0b") == "bb4ed5f691748efc95b71ae26a4166a6"
    assert key.hashed("study", "a\0b") != key.hashed("patient", "a\0b")
    assert 0 <= key.number("weeks", "x", 520) < 520


def test_shifted__whole_weeks_back():
    key = Key(bytes(32))
    moved = {shifted(day, "whose", key) for day in ("20200115", "2020.01.15")}
    (first,) = moved
    assert first is not None
    assert (np.datetime64("2020-01-15") - np.datetime64(first)).astype(int) % 7 == 0
    assert shifted("20200115", "somebody", key) != first
    for wrong in ("", "20201399", "2020", "abcdefgh", "00010101"):
        assert shifted(wrong, "whose", key) is None
    assert years_between("19500116", "20200115") == 69
    assert years_between("20200116", "20200115") is None


@pytest.mark.parametrize(
    "id", ["", "  ", "0", "0000", "ANONYMOUS", "anonym^", "Unknown", "xxx", "---", "1111", "No Name"]
)
def test_is_dummy_id__ids_of_nobody(id):
    assert is_dummy_id(id)


@pytest.mark.parametrize("id", ["7", "12345", "P1", "A0", "anonymous17", "test-42"])
def test_is_dummy_id__ids_of_somebody(id):
    assert not is_dummy_id(id)


def test_ages__above_89_are_90(tmp_path):
    for number, (age, birth) in enumerate((("103Y", "19170101"), (None, "19200101"), ("089Y", None), ("006M", None))):
        made(tmp_path / f"a/{number}.dcm", PatientAge=age, PatientBirthDate=birth, PatientID=f"P{number}")
    assert (
        cbmir(
            "ingest", "images", tmp_path / "a", "--encoder", "pixels", "--store", tmp_path / "s", cwd=tmp_path
        ).returncode
        == 0
    )
    assert sorted(item["age_years"] for item in payloads(tmp_path / "s")) == [0.5, 89.0, 90.0, 90.0]


def test_audit__says_what_became_of_each_attribute(tmp_path):
    path = made(tmp_path / "a/1.dcm", PatientName="Nobody^Knows", AccessionNumber="77")
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0099, "somebody", create=True).add_new(1, "LO", "something")
    dataset.save_as(path)
    done = cbmir(
        "ingest",
        "images",
        tmp_path / "a",
        "--encoder",
        "pixels",
        "--store",
        tmp_path / "s",
        "--audit",
        tmp_path / "a.jsonl",
    )
    assert done.returncode == 0
    assert stat.S_IMODE((tmp_path / "a.jsonl").stat().st_mode) == 0o600
    profile_line, fate, file = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert profile_line["profile"]["so"] == "pseudonymised, not anonymous"
    assert file["fate"] == fate["fate"]
    assert payloads(tmp_path / "s")[0]["filepath"] == f"{file['file']}#1"
    assert {"Modality", "PatientSex"} <= set(fate["kept"])
    assert fate["shifted"] == ["StudyDate"]
    assert {"PatientID", "SOPInstanceUID", "StudyInstanceUID"} <= set(fate["hashed"])
    assert {"PatientName", "AccessionNumber"} <= set(fate["dropped"])
    assert fate["dropped_private"] == 2
