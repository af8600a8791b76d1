"""Points whose files are gone."""

import json

import pytest

from cbmir.collections.prune import prune
from cbmir.errors import FilterError, StoreError
from cbmir.filters import parse
from cbmir.schema import EmbeddedBatch, ImageRecord

pytestmark = pytest.mark.slow


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
    assert str(report) == "eight: images without a file: 3 of 30; removed nothing: give --yes to remove them"
    assert prune(filled, root, remove=True).removed == 3
    assert filled.count() == 27
    left = {point.payload["filepath"] for page in filled.scroll() for point in page}
    assert left == {path.name for path in root.iterdir()}
    assert str(prune(filled, root, remove=True)) == "eight: images without a file: 0 of 27; removed 0"


def test_prune__only_what_the_filter_leaves(filled, root):
    report = prune(filled, root, (parse("modality=CT"),), remove=True)
    assert (report.looked_at, [path for _, path in report.gone]) == (10, ["00027.png"])
    assert filled.count() == 29
    assert len(prune(filled, root, (parse("modality~[MX]R"),)).gone) == 2
    with pytest.raises(FilterError, match="no modality 'PT' in eight; there are"):
        prune(filled, root, (parse("modality=PET"),))


def test_prune__of_another_folder_removes_nothing(filled, tmp_path):
    with pytest.raises(StoreError, match=r"of 30 files none is below .*, such as 000\d\d.png: is it another"):
        prune(filled, tmp_path, remove=True)
    assert filled.count() == 30


def test_prune__knows_nothing_of_uris(filled, root, card, make_batch):
    record = ImageRecord(filepath="s3://bucket/a.png", dataset="synthetic")
    filled.upsert(EmbeddedBatch((record,), make_batch(1).vectors, card.fingerprint))
    report = prune(filled, root, remove=True)
    assert (report.looked_at, report.remote, report.removed) == (31, 1, 3)
    assert "URIs and DICOM of elsewhere left alone: 1;" in str(report)
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


@pytest.fixture
def parted(edge, card, make_batch, tmp_path):
    """A collection of six images in the folders one, two and three, and none at the top; two is empty on the disk."""
    folder = tmp_path / "parted"
    paths = ["one/a.png", "one/b.png", "two/a.png", "two/b.png", "two/c.png", "three/a.png"]
    records = tuple(ImageRecord(filepath=path, dataset="d") for path in paths)
    for path in paths:
        if not path.startswith("two"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    (folder / "two").mkdir()
    with edge.create("parted", card) as collection:
        collection.upsert(EmbeddedBatch(records, make_batch(6).vectors, card.fingerprint))
    return folder


def test_prune__of_an_empty_folder_needs_to_be_allowed(edge, parted, cbmir):
    options = ("collections", "prune", "parted", "--store", edge.path, "--root", parted)
    assert cbmir(*options).returncode == 0  # listing needs nothing
    refused = cbmir(*options, "--yes")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    for said in ("50.0%", "all of two", "3 in two", "--allow-missing 50", "Nothing was removed"):
        assert said in refused.stderr
    assert cbmir(*options, "--yes", "--allow-missing", "49.9").returncode == 1
    with edge.open("parted") as collection:
        assert collection.count() == 6
    assert cbmir(*options, "--yes", "--allow-missing", "50").returncode == 0
    with edge.open("parted") as collection:
        assert {point.payload["filepath"] for page in collection.scroll() for point in page} == {
            *("one/a.png", "one/b.png", "three/a.png")
        }


def test_prune__a_whole_top_folder_is_refused_however_few_images_it_has(filled, root, card, make_batch):
    record = ImageRecord(filepath="lost/a.png", dataset="synthetic")
    for number in range(27, 30):
        (root / f"{number:05}.png").touch()
    filled.upsert(EmbeddedBatch((record,), make_batch(1).vectors, card.fingerprint))
    with pytest.raises(StoreError, match=r"3\.2% of the files .* with all of lost.*--allow-missing 4"):
        prune(filled, root, remove=True)
    assert filled.count() == 31
    assert prune(filled, root, remove=True, allow_missing=4).removed == 1


def test_prune__more_than_a_tenth_is_refused(filled, root):
    (root / "00000.png").unlink()
    with pytest.raises(StoreError, match=r"13\.3% .*4 in no folder"):
        prune(filled, root, remove=True)
    assert filled.count() == 30
    assert prune(filled, root, remove=True, allow_missing=13.4).removed == 4


def test_prune__all_files_gone_is_removed_only_where_100_percent_are_allowed(filled, tmp_path):
    with pytest.raises(StoreError, match="is it another folder"):
        prune(filled, tmp_path / "none", remove=True, allow_missing=99)
    assert prune(filled, tmp_path / "none", remove=True, allow_missing=100).removed == 30
