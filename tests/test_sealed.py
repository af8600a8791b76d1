"""Damaged files of the engine: found by their checksums, also where the engine opens them without a word."""

import os
from pathlib import Path

import pytest

from cbmir.collections.backups import restore, snapshot
from cbmir.doctor import check_store
from cbmir.errors import StoreError
from cbmir.store import sealed
from cbmir.store.edge import EdgeStore
from cbmir.store.sealed import NAME

pytestmark = pytest.mark.slow


@pytest.fixture
def indexed(edge, filled):
    """A collection that was indexed and closed."""
    filled.finish()
    filled.close()
    return edge.path / "eight"


def files(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / "shard/segments").rglob("*")) if path.is_file() and path.stat().st_size]


def test_damages__none_while_a_collection_is_only_read(edge, indexed, make_batch):
    for _ in range(2):
        assert edge.damages("eight", full=True) == []
        with edge.open("eight") as collection:
            collection.query(make_batch(1).vectors[0], 5)
            collection.facet("modality")
            list(collection.scroll(vectors=True))
            collection.flush()
    assert (indexed / NAME).exists()


@pytest.mark.parametrize("damage", ["a bit", "cut", "longer", "gone", "one more"])
def test_doctor__finds_each_damage(edge, indexed, damage):
    path = max(files(indexed), key=lambda item: item.stat().st_size)
    if damage == "a bit":
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(path.stat().st_size // 2)
            file.write(bytes([byte ^ 1]))
    elif damage == "gone":
        path.unlink()
    elif damage == "one more":
        (path.parent / "stray").write_bytes(b"x")
    else:
        os.truncate(path, path.stat().st_size + (1 if damage == "longer" else -1))
    check = next(check for check in check_store(edge) if check.name == "eight")
    assert check.state == "failed"
    assert "cbmir collections salvage eight NEW" in check.text


def test_finish__does_not_seal_a_damage(edge, indexed):
    path = max(files(indexed), key=lambda item: item.stat().st_size)
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    with edge.open("eight") as collection, pytest.raises(StoreError, match="aren't as they were when it was indexed"):
        collection.finish()
    assert edge.damages("eight")


def test_finish__follows_no_link_out_of_its_folder(edge, indexed, tmp_path):
    """A store may have come from elsewhere, with links among its files."""
    names = [f".{name}.{os.getpid()}.part" for name in ("files.json", "collection.json")]
    for name in names:
        (tmp_path / name).write_text("mine")
        (indexed / name).symlink_to(tmp_path / name)
    with edge.open("eight") as collection:
        collection.finish()
        collection.set_metadata({"note": 1})
    assert {(tmp_path / name).read_text() for name in names} == {"mine"}


def test_damages__every_file_counts(edge, indexed):
    for path in list({path.name: path for path in files(indexed)}.values())[::3]:  # hundreds are much alike
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        (flaw,) = edge.damages("eight")
        assert path.name in flaw
        path.write_bytes(before)
    assert edge.damages("eight") == []


def test_damages__large_ones_are_read_only_if_asked_for(edge, indexed, monkeypatch):
    path = files(indexed)[0]
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    monkeypatch.setattr(sealed, "CHEAP_BYTES", 1)
    assert edge.damages("eight") == []
    assert len(edge.damages("eight", full=True)) == 1
    path.write_bytes(before + b"x")
    assert len(edge.damages("eight")) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda collection, batch: collection.upsert(batch),
        lambda collection, batch: collection.delete([batch.records[0].id]),
        lambda collection, batch: collection.set_payloads({batch.records[0].id: {"sex": "F"}}),
    ],
)
def test_damages__a_write_is_none(edge, indexed, make_batch, write):
    with edge.open("eight") as collection:
        write(collection, make_batch(3))
    assert not (indexed / NAME).exists()
    assert edge.damages("eight", full=True) == []
    with edge.open("eight") as collection:
        collection.finish()
        write(collection, make_batch(3))  # in the same process as the index
    assert edge.damages("eight", full=True) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {"a": 1}}'])
def test_damages__of_the_list_itself(edge, indexed, text):
    (indexed / NAME).write_text(text)
    (flaw,) = edge.damages("eight")
    assert "files.json is damaged" in flaw


def test_restore__the_list_comes_along(edge, indexed, tmp_path):
    snapshot(edge, "eight", tmp_path / "backup")
    with EdgeStore(tmp_path / "other") as other:
        restore(tmp_path / "backup", other)
        assert (other.path / "eight" / NAME).exists()
        assert other.damages("eight", full=True) == []
