"""Points whose files are gone."""

import json

import pytest

from cbmir.collections.prune.prune import prune
from cbmir.errors import FilterError, StoreError
from cbmir.filters import parse
from cbmir.schema import EmbeddedBatch, ImageRecord


@pytest.fixture
def root(tmp_path):
    """The files of the collection `filled` but for the last three."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(27):
        (folder / f"{number:05}.png").touch()
    return folder


def test_prune__lists_and_removes_only_what_is_gone(filled, root):
    report = prune(filled, root)
    assert (report.looked_at, len(report.gone), report.removed) == (30, 3, 0)
    assert {path for _, path in report.gone} == {"00027.png", "00028.png", "00029.png"}
    assert filled.count() == 30
    assert str(report) == "eight: 3 of 30 images have no file; removed nothing: give --yes to remove them"
    assert prune(filled, root, remove=True).removed == 3
    assert filled.count() == 27
    left = {point.payload["filepath"] for page in filled.scroll() for point in page}
    assert left == {path.name for path in root.iterdir()}
    assert str(prune(filled, root, remove=True)) == "eight: 0 of 27 images have no file; removed 0"


def test_prune__only_what_the_filter_leaves(filled, root):
    report = prune(filled, root, (parse("modality=CT"),), remove=True)
    assert (report.looked_at, [path for _, path in report.gone]) == (10, ["00027.png"])
    assert filled.count() == 29
    assert len(prune(filled, root, (parse("modality~[MX]R"),)).gone) == 2
    with pytest.raises(FilterError, match="no modality 'PT' in eight; there are"):
        prune(filled, root, (parse("modality=PET"),))


def test_prune__of_another_folder_removes_nothing(filled, tmp_path):
    with pytest.raises(StoreError, match=r"not one of the 30 files is below .*, such as 000\d\d.png: is it another"):
        prune(filled, tmp_path, remove=True)
    assert filled.count() == 30


def test_prune__knows_nothing_of_uris(filled, root, card, make_batch):
    record = ImageRecord(filepath="s3://bucket/a.png", dataset="synthetic")
    filled.upsert(EmbeddedBatch((record,), make_batch(1).vectors, card.fingerprint))
    report = prune(filled, root, remove=True)
    assert (report.looked_at, report.remote, report.removed) == (31, 1, 3)
    assert "1 are URIs and were left alone" in str(report)
    assert filled.get([record.id])


def test_prune__from_the_command_line(edge, card, make_batch, root, cbmir):
    with edge.create("eight", card) as collection:
        collection.upsert(make_batch(30))
    options = ("eight", "--store", edge.path, "--root", root)
    listed = cbmir("collections", "prune", *options)
    assert listed.returncode == 0
    assert sorted(line.split()[1] for line in listed.stdout.splitlines()) == ["00027.png", "00028.png", "00029.png"]
    done = cbmir("collections", "prune", *options, "--yes", "--json")
    assert json.loads(done.stdout)["removed"] == 3
    wrong = cbmir("collections", "prune", "eight", "--store", edge.path, "--root", edge.path, "--yes")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
