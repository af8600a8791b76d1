"""Damaged collections: what can be read comes into a new one, what is lost is counted, the old one stays as it is."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import copied, data_of
from test_bounds import FATAL, nested

from cbmir.collections.salvage import salvage
from cbmir.errors import CollectionError, StoreError, StoreLockedError
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store.cbor import decode
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory, card, make_batch):
    """A collection as a killed process leaves it: 100 images in segments, 40 in the log only, one changed, one deleted.

    Two of its segments hold 60 and 40 images.
    """
    store = EdgeStore(tmp_path_factory.mktemp("killed") / "store")
    with store.create("eight", card) as collection:
        collection.upsert(make_batch(60))
        collection.finish()
        collection.upsert(make_batch(40, first=100, seed=1))
        collection.flush()
        collection.upsert(make_batch(40, first=200, seed=2))
        collection.set_payloads({make_batch(1).records[0].id: {"sex": "F"}})
        collection.delete([make_batch(1, first=100).records[0].id])
        return copied(store.path, tmp_path_factory.mktemp("copy") / "store")


@pytest.fixture
def damaged(killed, tmp_path):
    """A copy of it, to be damaged."""
    return EdgeStore(copied(killed, tmp_path / "store"))


def state(folder: Path):
    """All files, with what is in them and when they were changed."""

    def of(path):
        return (path.stat().st_size, path.stat().st_mtime_ns, data_of(path)) if path.is_file() else None

    return {path.relative_to(folder).as_posix(): of(path) for path in sorted(folder.rglob("*"))}


def contents(store, name):
    with store.open(name) as collection:
        return {point.id: point for page in collection.scroll(vectors=True) for point in page}


def log_is_cut(folder):
    path = folder / "shard/wal/open-1"
    with path.open("r+b") as file:
        file.seek(path.read_bytes().rindex(b"upsert_points") + 200)
        file.write(b"\xff" * 20)


def log_is_gone(folder):
    shutil.rmtree(folder / "shard/wal")


def no_shard_configuration(folder):
    (folder / "shard/edge_config.json").unlink()


def test_salvage__a_whole_collection_is_copied(damaged, killed, card):
    with EdgeStore(killed) as original:
        before = state(damaged.path / "eight")
        report = salvage(damaged.path / "eight", damaged, "new", card)
        assert (report.written, report.refused, report.lost) == (139, (), ())
        assert state(damaged.path / "eight") == before
        assert original.names() == ["eight"]
    assert sorted(path.name for path in damaged.path.iterdir()) == ["eight", "new"]


def test_salvage__nested_payload_in_the_log(damaged, card, make_batch, monkeypatch):
    """Its batch, and what was written after it, is read from the log without the engine."""
    with damaged.open("eight") as collection, monkeypatch.context() as patch:
        patch.setattr("cbmir.schema.check_payload", lambda _: None)
        deep = ImageRecord(filepath="deep.png", dataset="d", extra={"deep": nested(FATAL, "both")})
        beside = ImageRecord(filepath="beside.png", dataset="d")
        vectors = np.eye(8, dtype=np.float32)[:2]
        collection.upsert(EmbeddedBatch((deep, beside), vectors, card.fingerprint))
        collection.upsert(make_batch(5, first=300, seed=3))
        collection.delete([make_batch(1, first=301).records[0].id])
        collection.set_payloads({make_batch(2).records[1].id: {"view": "ap"}})
        copied(damaged.path / "eight", damaged.path / "broken")  # as it is if the process is killed here
    with pytest.raises(StoreError, match="the engine refused"):
        damaged.open("broken")
    before = state(damaged.path / "broken")
    report = salvage(damaged.path / "broken", damaged, "new", card)
    assert report.written == 139 + 1 + 4
    assert [item.filepath for item in report.refused] == ["deep.png"]
    assert "nested deeper than 16" in report.refused[0].reason
    assert report.lost == ()
    assert state(damaged.path / "broken") == before
    made = contents(damaged, "new")
    assert beside.id in made
    assert deep.id not in made
    first, second = (made[record.id].payload for record in make_batch(2).records)
    assert (first["sex"], second["view"]) == ("F", "ap")
    assert make_batch(1, first=100).records[0].id not in made
    np.testing.assert_allclose(made[beside.id].vector, vectors[1], atol=1e-6)


def test_salvage__nested_payload_in_a_segment(damaged, card, monkeypatch):
    with damaged.open("eight") as collection, monkeypatch.context() as patch:
        patch.setattr("cbmir.schema.check_payload", lambda _: None)
        deep = ImageRecord(filepath="deep.png", dataset="d", extra={"deep": nested(FATAL)})
        collection.upsert(EmbeddedBatch((deep,), np.eye(8, dtype=np.float32)[:1], card.fingerprint))
        collection.flush()
    report = salvage(damaged.path / "eight", damaged, "new", card)
    assert report.written == 139
    assert [item.id for item in report.refused] == [deep.id]


@pytest.mark.parametrize("damage", [log_is_cut, log_is_gone, no_shard_configuration])
def test_salvage__the_segments_outlive_all_else(damaged, card, damage):
    damage(damaged.path / "eight")
    before = state(damaged.path / "eight")
    report = salvage(damaged.path / "eight", damaged, "new", card)
    assert report.written >= 99
    assert report.written + 40 >= 139
    assert state(damaged.path / "eight") == before
    assert len(contents(damaged, "new")) == report.written


def _largest(folder: Path) -> Path:
    return max((folder / "shard/segments").iterdir(), key=lambda path: sum(1 for _ in path.rglob("*")))


@pytest.mark.parametrize("way", ["segment.json gone", "vectors cut", "mappings cut", "segment emptied"])
def test_salvage__a_broken_segment_costs_no_other(damaged, card, way):
    """The log still holds all that was written here, so that even the broken segment's images may come back."""
    segment = _largest(damaged.path / "eight")
    if way == "segment.json gone":
        (segment / "segment.json").unlink()
    elif way == "segment emptied":
        shutil.rmtree(segment)
        segment.mkdir()
    else:
        for path in segment.rglob("*.mmap" if way == "vectors cut" else "*mappings*"):
            os.truncate(path, path.stat().st_size // 3)
        for path in segment.rglob("matrix.dat" if way == "vectors cut" else "none"):
            os.truncate(path, path.stat().st_size // 3)
    before = state(damaged.path / "eight")
    try:
        report = salvage(damaged.path / "eight", damaged, "new", card)
    except StoreError as error:
        pytest.fail(str(error))
    assert report.written >= 40
    assert state(damaged.path / "eight") == before
    for point in contents(damaged, "new").values():
        assert point.id == ImageRecord.from_payload(point.payload).id


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_salvage__lost_metadata_must_be_said(damaged, cbmir, damage):
    damage(damaged.path / "eight" / "collection.json")
    command = ("collections", "salvage", "eight", "new", "--store", damaged.path)
    refused = cbmir(*command)
    assert refused.returncode == 1
    assert "whose vectors these are must be said: --encoder NAME" in refused.stderr
    done = cbmir(*command, "--encoder", "eight", "--dim", "8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 139


def test_salvage__refuses(damaged, card, make_batch, cbmir, tmp_path):
    with pytest.raises(CollectionError, match="exists already"):
        salvage(damaged.path / "eight", damaged, "eight", card)
    with damaged.open("eight"), pytest.raises(StoreLockedError, match="in use"):
        salvage(damaged.path / "eight", damaged, "new", card)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="is no collection in a directory"):
        salvage(tmp_path / "empty", damaged, "new", card)
    with damaged.create("none", card):
        pass
    with pytest.raises(StoreError, match=r"not one image of .* can be read"):
        salvage(damaged.path / "none", damaged, "new", card)
    assert "new" not in damaged.names()
    missing = cbmir("collections", "salvage", "nothing", "new", "--store", damaged.path)
    assert missing.returncode == 1
    assert "there is no collection nothing" in missing.stderr


# the engine's log


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0a", 10), ("1903e8", 1000), ("3903e7", -1000), ("f9c400", -4.0), ("fa47c35000", 100000.0),
        ("fb3ff199999999999a", 1.1), ("f4", False), ("f5", True), ("f6", None), ("4401020304", b"\1\2\3\4"),
        ("62c3bc", "ü"), ("80", []), ("a0", {}), ("83010203", [1, 2, 3]), ("9fff", []), ("bfff", {}),
        ("8301820203820405", [1, [2, 3], [4, 5]]), ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}), ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ],
)  # fmt: skip
def test_decode__examples_of_rfc_8949(text, value):
    assert decode(bytes.fromhex(text)) == value


@pytest.mark.parametrize(
    "text", ["", "18", "62c3", "8301", "a161", "ff", "c001", "9f01", "a1820102", "1c", "f818", "82ff"]
)
def test_decode__refuses(text):
    with pytest.raises(ValueError):  # noqa: PT011
        decode(bytes.fromhex(text))


def test_decode__any_depth():
    value = decode(b"\x81" * 200_000 + b"\x01")
    for _ in range(200_000):
        (value,) = value
    assert value == 1
