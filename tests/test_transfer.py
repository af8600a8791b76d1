"""Copies of collections between stores: directory, and the client's own engine in the place of a server."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from cbmir.collections import transfer as module
from cbmir.collections.transfer import transfer
from cbmir.errors import FingerprintError, RecordError, StoreError
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store.edge import EdgeStore
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow

WHOLE = ImageRecord(
    filepath="a/b.png", dataset="one", split="train", modality="CT", anatomic_region="chest",
    labels=("CT/chest/nodule", "CT/chest/mass"), patient_id="p", study_id="s", series_id="r", sha256="0" * 64,
    width=3, height=4, age_years=33.5, sex="F", view="axial", study_date="2020-01-05",
    thumbnail_url="https://x/y.png", extra={"kernel": "B30f", "site": {"name": "A"}},
)  # fmt: skip


@pytest.fixture
def server():
    with ServerStore.over(QdrantClient(":memory:"), "memory") as store:
        yield store


def contents(collection):
    return {point.id: point for page in collection.scroll(vectors=True) for point in page}


def same(one, other):
    left, right = contents(one), contents(other)
    assert left.keys() == right.keys()
    for id, point in left.items():
        assert point.payload == right[id].payload
        np.testing.assert_allclose(point.vector, right[id].vector, atol=1e-6)


@pytest.mark.parametrize("record", [WHOLE, ImageRecord(filepath="a", dataset="b")])
def test_from_payload__is_the_inverse_of_payload(record):
    assert ImageRecord.from_payload(record.payload()) == record
    assert ImageRecord.from_payload({**record.payload(), "later": 1}) == record


@given(st.dictionaries(st.sampled_from(["filepath", "dataset", "split", "labels"]), st.text(max_size=3), max_size=3))
def test_from_payload__refuses_what_is_no_image(payload):
    try:
        record = ImageRecord.from_payload(payload)
    except RecordError:
        return
    assert record.filepath
    assert record.dataset


def test_transfer__there_and_back(filled, card, server, tmp_path):
    with server.create("copy", card) as copy:
        report = transfer(filled, copy)
        assert (report.read, report.written, report.kept, report.others, report.checked) == (30, 30, 0, 0, 30)
        same(filled, copy)
        with EdgeStore(tmp_path / "other").create("back", card) as back:
            assert transfer(copy, back).written == 30
            same(filled, back)
            assert transfer(copy, back).written == 0


def test_transfer__goes_on_and_repairs(filled, card, server, make_batch, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)
    with server.create("copy", card) as copy:
        written = copy._write
        left = [3]

        def broken(batch):
            if not left[0]:
                raise StoreError("the line is cut")
            left[0] -= 1
            written(batch)

        monkeypatch.setattr(copy, "_write", broken)
        with pytest.raises(StoreError, match="the line is cut"):
            transfer(filled, copy)
        assert copy.count() == 21
        monkeypatch.setattr(copy, "_write", written)
        assert transfer(filled, copy).written == 9
        ids = sorted(contents(copy))
        copy.set_payloads({ids[0]: {"view": "another"}})
        moved = contents(filled)[ids[5]]
        record = ImageRecord.from_payload(moved.payload)
        copy.upsert(EmbeddedBatch((record,), -moved.vector[np.newaxis], card.fingerprint))
        copy.delete([ids[9]])
        copy.upsert(make_batch(2, first=1000, seed=9))
        report = transfer(filled, copy)
        assert (report.written, report.kept, report.others) == (3, 27, 2)
        assert "only there: 2 more" in str(report)


def test_transfer__says_what_is_wrong(filled, card, server, monkeypatch):
    with server.create("other", external_card("other", 8)) as other, pytest.raises(FingerprintError, match="eight"):
        transfer(filled, other)
    with server.create("copy", card) as copy:
        monkeypatch.setattr(copy, "_write", lambda batch: None)  # a server that forgets
        with pytest.raises(StoreError, match="copy has 30 images less than eight of 30; copy again"):
            transfer(filled, copy)
        monkeypatch.undo()
        transfer(filled, copy)
        stored = copy.get

        def turned(ids, **options):
            return [dataclasses.replace(point, vector=-point.vector) for point in stored(ids, **options)]

        monkeypatch.setattr(copy, "get", turned)
        with pytest.raises(StoreError, match="read back from copy and not as written: 30 of 30 images, such as "):
            transfer(filled, copy)


def test_push_and_pull__from_the_command_line(shelf, tmp_path, cbmir):
    other = tmp_path / "other"
    done = cbmir("collections", "push", "eight", "--store", shelf, "--to", other, "--as", "copy", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 30
    back = cbmir("collections", "pull", "copy", "--from", other, "--store", tmp_path / "third")
    assert back.stdout == "copy: read 30 = written 30 + same already 0; 30 read back and compared\n"
    again = cbmir("collections", "pull", "copy", "--from", other, "--store", tmp_path / "third")
    assert "written 0 + same already 30" in again.stdout
    itself = cbmir("collections", "push", "eight", "--store", shelf, "--to", shelf)
    assert itself.returncode == 2
    assert "can't be copied onto itself" in itself.stderr
    missing = cbmir("collections", "push", "nine", "--store", shelf, "--to", other)
    assert missing.returncode == 1
    assert "no collection 'nine'" in missing.stderr
