"""What a version left that kept the spelling of paths: nothing of it doubles, and every image gets its id."""

import csv
import shutil
import sys
from pathlib import Path

import earlier_paths
import pytest
from builders import copied

from cbmir.collections.exports import Export
from cbmir.collections.transfer import transfer
from cbmir.encoders import get
from cbmir.ingest import SourceOptions, ingest_images, open_source
from cbmir.ingest.embeddings import EmbeddingsFiles, ingest_embeddings
from cbmir.paths import PathPrefixes, normal_path
from cbmir.schema import EmbeddedBatch, ImageRecord, point_id
from cbmir.store import open_store

pytestmark = pytest.mark.slow

KEYS = {
    "pixels": {normal_path(name) for name in earlier_paths.IMAGES.values()},
    "vectors": {
        *("a/1.png", "a/2.png", "a/3.png", "a/4.png", "a/Röntgen.png", "a/6.png", "a/7 b.png", "a/8.png", "a/9.png"),
        "s3://bucket/a/10.png",
    },
}
IDS = {name: {point_id("d", key) for key in keys} for name, keys in KEYS.items()}

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/cwd is of Linux")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of the earlier version, for copies."""
    return copied(earlier_paths.unpack(tmp_path_factory.mktemp("archive")), tmp_path_factory.mktemp("unpacked"))


@pytest.fixture
def earlier(unpacked, tmp_path, monkeypatch):
    """A copy of it, which is the current folder: its table's absolute path leads there."""
    monkeypatch.chdir(tmp_path)
    return copied(unpacked, tmp_path)


def points(store, name):
    with open_store(store) as opened, opened.open(name) as collection:
        return {point.id: point for page in collection.scroll(vectors=True) for point in page}


def by_label(found):
    """Payload but for the path, and vector, by the label, which is another of each image."""
    return {
        point.payload["primary_label"]: (
            {key: value for key, value in point.payload.items() if key != "filepath"},
            point.vector.tobytes(),
        )
        for point in found.values()
    }


def ingest_again(folder, name="pixels", table="table.csv", files=("scans/vectors.h5",)):
    with open_store(folder / "store") as store, store.open(name) as collection:
        if name == "pixels":
            return ingest_images(open_source(folder / "scans" / table), get("pixels"), collection, 1)
        prefixes = PathPrefixes([("C:\\archive", "/archive")])
        how = SourceOptions(root=Path("/archive"), prefixes=prefixes, uris=True)
        with EmbeddingsFiles([folder / path for path in files], prefixes) as vectors:
            return ingest_embeddings([open_source(folder / "scans/vectors.csv", how)], vectors, collection)


@needs_proc
@pytest.mark.parametrize("name", ["pixels", "vectors"])
def test_ingest__of_an_earlier_store_moves_each_image_and_doubles_none(earlier, name):
    before = points(earlier / "store", name)
    odd = before.keys() - IDS[name]
    assert len(odd) == {"pixels": 4, "vectors": 7}[name]
    report = ingest_again(earlier, name)
    after = points(earlier / "store", name)
    assert (report.stored, report.skipped, report.moved, report.failed) == (0, len(before), len(odd), 0)
    assert after.keys() == IDS[name]
    assert {point.payload["filepath"] for point in after.values()} == KEYS[name]
    assert by_label(after) == by_label(before)
    again = ingest_again(earlier, name)
    assert (again.skipped, again.moved, again.updated) == (len(before), 0, 0)
    assert f"moved {len(odd)} points of an earlier cbmir" in "\n".join(report.lines())


@needs_proc
@pytest.mark.parametrize("name", ["pixels", "vectors"])
def test_ingest__an_image_that_moves_loses_the_thumbnail_of_its_former_id(earlier, name):
    base, table = "https://host.example/t", "https://host.example/of-the-table.jpg"
    odd = sorted(points(earlier / "store", name).keys() - IDS[name])
    urls = {id: f"{base}/{id[:2]}/{id}.jpg" for id in odd[1:]} | {odd[0]: table}
    with open_store(earlier / "store") as store, store.open(name) as collection:
        collection.set_payloads({id: {"thumbnail_url": url} for id, url in urls.items()})
    assert ingest_again(earlier, name).moved == len(odd)
    shown = {point.payload.get("thumbnail_url") for point in points(earlier / "store", name).values()}
    assert shown == {None, table}


@needs_proc
def test_ingest__of_a_table_that_was_put_right_moves_by_the_hash(earlier):
    before = points(earlier / "store", "pixels")
    with (earlier / "scans/right.csv").open("w", newline="", encoding="utf-8") as stream:
        names = [normal_path(name) for name in earlier_paths.IMAGES.values()]
        rows = [(name, "d", f"XR/chest/finding_{number}") for number, name in enumerate(names)]
        csv.writer(stream).writerows([("filepath", "dataset", "labels"), *rows])
    report = ingest_again(earlier, table="right.csv")
    assert (report.stored, report.skipped, report.moved) == (0, 7, 4)
    after = points(earlier / "store", "pixels")
    assert after.keys() == IDS["pixels"]
    assert by_label(after) == by_label(before)


@needs_proc
def test_ingest__a_changed_file_is_embedded_and_its_earlier_point_removed(earlier):
    shutil.copy(earlier / "scans/images/7.png", earlier / "scans/images/1.png")
    report = ingest_again(earlier)
    assert (report.stored, report.skipped, report.moved) == (1, 6, 4)
    after = points(earlier / "store", "pixels")
    assert after.keys() == IDS["pixels"]
    one, seven = (after[point_id("d", f"images/{number}.png")] for number in (1, 7))
    assert one.payload["sha256"] == seven.payload["sha256"]
    assert one.vector.tobytes() == seven.vector.tobytes()


@needs_proc
def test_ingest__what_can_not_be_read_stays_as_it_was(earlier):
    (earlier / "scans/images/1.png").unlink()
    report = ingest_again(earlier)
    assert (report.failed, report.moved) == (1, 3)
    assert point_id("d", "./images/1.png") in points(earlier / "store", "pixels")


@needs_proc
def test_ingest__a_crash_between_write_and_removal_is_mended(earlier):
    old = point_id("d", "./images/1.png")
    with open_store(earlier / "store") as store, store.open("pixels") as collection:
        with Export(earlier / "exports/pixels") as export:
            (kept,) = [point for page in export.scroll() for point in page if point.id == old]
        ingest_images(open_source(earlier / "scans/table.csv"), get("pixels"), collection, 1)
        record = ImageRecord.from_payload(kept.payload)
        collection.upsert(EmbeddedBatch((record,), kept.vector[None], collection.card.fingerprint))
        assert collection.count() == 8
    report = ingest_again(earlier)
    assert (report.skipped, report.moved) == (7, 1)
    assert points(earlier / "store", "pixels").keys() == IDS["pixels"]


@needs_proc
def test_ingest__one_image_in_two_earlier_spellings_becomes_one_point(earlier):
    rows = list(csv.reader((earlier / "scans/table.csv").open(encoding="utf-8")))
    with open_store(earlier / "store") as store, store.open("pixels") as collection:
        (first,) = collection.get([point_id("d", "./images/1.png")], vectors=True)
        twin = ImageRecord.from_payload({**first.payload, "filepath": "images//1.png"})
        collection.upsert(EmbeddedBatch((twin,), first.vector[None], collection.card.fingerprint))
    with (earlier / "scans/twice.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([*rows, ("images//1.png", "d", "XR/chest/finding_0")])
    report = ingest_again(earlier, table="twice.csv")
    assert (report.failed, report.moved) == (1, 5)
    assert points(earlier / "store", "pixels").keys() == IDS["pixels"]


@needs_proc
@pytest.mark.parametrize("name", ["pixels", "vectors"])
def test_ingest_embeddings__takes_an_earlier_columnar_file(earlier, name, tmp_path):
    """By rows with the same spellings, and by rows in normal form."""
    card = Export(earlier / f"exports/{name}").card
    root = Path("/archive") if name == "vectors" else None
    how = SourceOptions(root=root, prefixes=PathPrefixes([("C:\\archive", "/archive")]), uris=True)
    names = ["images/1.png", "images/2.png"] if name == "pixels" else ["a/1.png", "a/2.png", "a/4.png"]
    usual = earlier / "scans/usual.csv"
    with usual.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("filepath", "dataset"), *((key, "d") for key in names)])
    with (
        open_store(tmp_path / "new") as store,
        store.create("x", card) as collection,
        EmbeddingsFiles([earlier / f"exports/{name}/vectors.h5"]) as vectors,
    ):
        table = earlier / ("scans/vectors.csv" if name == "vectors" else "scans/table.csv")
        report = ingest_embeddings([open_source(table, how)], vectors, collection)
        assert (report.stored, report.failed) == (len(KEYS[name]), 0)
        report = ingest_embeddings([open_source(usual, how)], vectors, collection)
        assert (report.skipped, report.failed) == (len(names), 0)


@needs_proc
@pytest.mark.parametrize("moved_first", [False, True])
def test_transfer__of_an_earlier_collection_doubles_nothing_on_either_side(earlier, moved_first, tmp_path):
    """A copy of before, filled again after the original has moved, and the other way round."""
    with (
        Export(earlier / "exports/pixels") as export,
        open_store(tmp_path / "copy") as target,
        target.create("pixels", export.card) as copy,
    ):
        transfer(export, copy)
        assert copy.count() == 7
        ingest_again(earlier)
        with open_store(earlier / "store") as store, store.open("pixels") as original:
            if moved_first:
                report = transfer(original, copy)
                assert (report.read, report.moved, report.others, copy.count()) == (7, 4, 0, 7)
            report = transfer(copy, original)
            assert (report.read, report.written, report.others) == (7, 0, 0)
            assert original.count() == 7
        report = transfer(export, copy)
        assert (report.written, report.others, copy.count()) == (0, 0, 7)
    if moved_first:
        assert points(tmp_path / "copy", "pixels").keys() == IDS["pixels"]
