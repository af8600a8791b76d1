"""What no payload may hold: nested without end, too much of it, no JSON; by every door through which payloads come."""

import json
import math
import tarfile
from dataclasses import replace

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from standin import Standin

from cbmir.bounds import MAX_BYTES, MAX_DEPTH, MAX_VALUES, check_payload
from cbmir.collections.backups import restore, snapshot
from cbmir.collections.exports import Export, export
from cbmir.collections.manifests import BackupManifest
from cbmir.collections.seals import seal_of
from cbmir.collections.transfer import transfer
from cbmir.errors import RecordError, StoreError
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store import open_store
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

FATAL = 122
"""Levels from which on the embedded engine can't read its write-ahead log again."""


def nested(depth, kind="object"):
    """A text within so many lists or objects."""
    value = "leaf"
    for level in range(depth):
        value = [value] if kind == "list" or (kind == "both" and level % 2) else {"a": value}
    return value


def payload(**extra):
    return {"filepath": "a.png", "dataset": "d", "labels": [], "extra": extra}


@pytest.fixture
def unchecked(monkeypatch):
    """Payloads as they were written before there were bounds."""

    def write(collection, *extras):
        with monkeypatch.context() as patch:
            patch.setattr("cbmir.schema.check_payload", lambda _: None)
            records = tuple(ImageRecord(filepath=f"x{i}.png", dataset="d", extra=e) for i, e in enumerate(extras))
            vectors = np.eye(8, dtype=np.float32)[: len(records)]
            collection.upsert(EmbeddedBatch(records, vectors, collection.card.fingerprint))
        return records

    return write


REFUSED = {
    "nested objects": (nested(MAX_DEPTH), r"extra\.x is nested deeper than 16 levels"),
    "nested lists": (nested(MAX_DEPTH, "list"), r"extra\.x is nested deeper than 16 levels"),
    "nested without end": (nested(100_000, "both"), "is nested deeper than"),
    "many values": (list(range(MAX_VALUES)), r"extra\.x holds more than 10,000 values"),
    "many keys": ({str(number): 1 for number in range(MAX_VALUES)}, "holds more than 10,000 values"),
    "a long text": ("x" * MAX_BYTES, "is over 1,000,000 bytes, the limit, most of them in extra"),
    "a long text of two bytes": ("ä" * (MAX_BYTES // 2), "is over 1,000,000 bytes"),
    "a long key": ({"x" * MAX_BYTES: 1}, "is over 1,000,000 bytes"),
    "not a number": (math.nan, r"extra\.x is nan, which JSON has not"),
    "infinity in a list": ([1.0, -math.inf], r"extra\.x is -inf"),
    "a number of 64 bits and a sign": (2**63, r"extra\.x is a whole number that 64 bits"),
    "a negative number of 65 bits": (-(2**63) - 1, "that 64 bits with a sign"),
    "a number as key": ({1: 2}, r"extra\.x has the key 1, which is no text"),
    "half a character": ("a\ud800", r"extra\.x holds '\\ud800', which is no Unicode text"),
    "half a character as key": ({"\ud800": 1}, "which is no Unicode text"),
    "bytes": (b"x", r"extra\.x holds a value of the type bytes, which JSON has not"),
    "a set": ({1}, "of the type set"),
}


@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_check_payload__refuses(value, says):
    with pytest.raises(RecordError, match=says) as error:
        check_payload(payload(x=value))
    assert "\n" not in str(error.value)
    with pytest.raises(RecordError, match=says):
        ImageRecord(filepath="a.png", dataset="d", extra={"x": value})


@pytest.mark.parametrize("field", ["filepath", "dataset", "patient_id", "thumbnail_url"])
def test_image_record__bounds_hold_for_every_field(field):
    good = {"filepath": "a.png", "dataset": "d"}
    with pytest.raises(RecordError, match=f"most of them in {field}"):
        ImageRecord(**{**good, field: "x" * (MAX_BYTES + 1)})
    with pytest.raises(RecordError, match="no Unicode"):
        ImageRecord(**{**good, field: "\udc80"})
    with pytest.raises(RecordError, match="age_years is nan"):
        ImageRecord(**good, age_years=math.nan)
    with pytest.raises(RecordError, match="labels holds more than 10,000 values"):
        ImageRecord(**good, labels=("x",) * (MAX_VALUES + 1))


def test_upsert__what_lies_within_the_bounds_is_kept_by_both_engines(edge, card, tmp_path):
    extra = {
        "deep": nested(MAX_DEPTH - 1, "both"),
        "long": "ä" * (MAX_BYTES // 2 - 10_000),
        "numbers": [2**63 - 1, -(2**63), 0.1, 5e-324, True, None],
        "many": list(range(8_000)),
    }
    record = ImageRecord(filepath="a.png", dataset="d", extra=extra)
    batch = EmbeddedBatch((record,), np.eye(8, dtype=np.float32)[:1], card.fingerprint)
    edge.create("eight", card).close()
    for _ in range(2):  # the second time its write-ahead log is read
        with edge.open("eight") as collection:
            collection.upsert(batch)
    with edge.open("eight") as collection:
        assert collection.get([record.id])[0].payload == record.payload()
    with Standin(tmp_path) as standin, open_store(standin.url) as store, store.create("eight", card) as collection:
        collection.upsert(batch)
        assert collection.get([record.id])[0].payload["extra"]["deep"] == extra["deep"]


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, FATAL, 1000])
def test_set_payloads__refuses_and_the_collection_opens_again(edge, filled, make_batch, depth):
    first, second = (record.id for record in make_batch(2).records)
    with pytest.raises(RecordError, match="nested deeper"):
        filled.set_payloads({first: {"sex": "F"}, second: {"extra": nested(depth)}})
    filled.close()
    with edge.open("eight") as again:
        assert again.count() == 30
        assert "sex" not in again.get([first])[0].payload


def test_ingest_embeddings__nested_columns_fail_alone(tmp_path, cbmir):
    deep = pa.array([nested(MAX_DEPTH, "list"), None, nested(MAX_DEPTH, "list")])
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"filepath": ["a.png", "b.png", "c.png"], "deep": deep}), table)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for name in ("a.png", "b.png", "c.png"):
            file[name] = np.ones(8, np.float32)
    store = tmp_path / "store"
    command = ("ingest", "embeddings", tmp_path / "v.h5", "--table", table, "--encoder", "x", "--store", store)
    done = cbmir(*command, "--failures", tmp_path / "f.csv", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["read"], report["stored"], report["failed"]) == (3, 3, 1, 2)
    assert (tmp_path / "f.csv").read_text().count("extra.deep is nested deeper than 16 levels") == 2
    with EdgeStore(store).open("x") as collection:
        assert collection.count() == 1


def test_transfer__refused_images_are_counted_and_the_others_copied(edge, filled, unchecked, card, make_batch, cbmir):
    unchecked(filled, {"deep": nested(100)}, {"fine": nested(3)}, {"many": list(range(20_000))})
    with edge.create("copy", card) as copy:
        report = transfer(filled, copy)
        assert (report.read, report.written, report.kept, report.others) == (33, 31, 0, 0)
        assert {item.filepath for item in report.refused} == {"x0.png", "x2.png"}
        assert "refused 2" in str(report)
        again = transfer(filled, copy)
        assert (again.read, again.written, again.kept, len(again.refused)) == (33, 0, 31, 2)
    filled.close()
    done = cbmir("collections", "push", "eight", "--store", edge.path, "--to", edge.path, "--as", "third", "--json")
    assert done.returncode == 3
    assert "refused: x" in done.stderr
    assert len(json.loads(done.stdout)["refused"]) == 2


def test_export__refused_images_are_counted_and_in_no_file(filled, unchecked, tmp_path):
    unchecked(filled, {"deep": nested(100)}, {"fine": 1})
    report = export(filled, tmp_path / "out")
    assert (report.count, len(report.refused)) == (31, 1)
    assert "nested deeper" in report.refused[0].reason
    with Export(tmp_path / "out") as source:
        assert source.count() == 31


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900])
def test_import__refused_images_are_counted(edge, filled, unchecked, card, depth, tmp_path, monkeypatch):
    unchecked(filled, {"x": "to be replaced"})
    export(filled, tmp_path / "out")
    with Export(tmp_path / "out") as source, edge.create("made", card) as made:
        payloads = source._records._with_objects

        def deep(payload):
            if "extra" in payload:
                payload["extra"] = json.dumps({"x": nested(depth)})
            return payloads(payload)

        monkeypatch.setattr(source._records, "_with_objects", deep)
        report = transfer(source, made)
        assert (report.read, report.written, len(report.refused)) == (31, 30, 1)
    with edge.open("made") as made:
        assert made.count() == 30


def test_restore__a_backup_that_cant_be_opened_leaves_no_collection(edge, filled, unchecked, tmp_path):
    backup = tmp_path / "backup"
    snapshot_of(edge, filled, backup)
    with edge.open("eight") as collection:
        unchecked(collection, {"deep": nested(FATAL)})
    made = BackupManifest.read(backup)
    with tarfile.open(backup / "collection.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(edge.path / "eight" / "collection.json", "collection.json")
        for path in sorted((edge.path / "eight" / "shard").rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(edge.path / "eight").as_posix())
    replace(made, files={"collection.tar.gz": seal_of(backup / "collection.tar.gz")}).write(backup)
    with EdgeStore(tmp_path / "other") as other:
        with pytest.raises(StoreError, match="the engine refused"):
            restore(backup, other)
        assert other.names() == []
        assert list(other.path.iterdir()) == []


def snapshot_of(store, collection, folder):
    collection.close()
    snapshot(store, collection.name, folder)
