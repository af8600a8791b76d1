"""One image is one id, however its path is written; and nothing outside of the root is read."""

import csv
import json
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_picture

from cbmir.collections.prune import prune
from cbmir.errors import ImageError, SourceError
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.report import Failure
from cbmir.ingest.sources import SourceImage
from cbmir.paths import PathPrefixes, normal_path
from cbmir.root import OutsideError, Root
from cbmir.schema import EmbeddedBatch, ImageRecord

NFC, NFD = (unicodedata.normalize(form, "Röntgen/Ödem 1.png") for form in ("NFC", "NFD"))


def table(path, names, dataset="d"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("filepath", "dataset"), *((name, dataset) for name in names)])
    return path


def rows(path, names, **options):
    return list(open_source(table(path, names), SourceOptions(**options)))


def prefixes(*texts):
    return PathPrefixes(tuple(text.split("=")) for text in texts)


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("a/b.png", "a/b.png"),
        ("./a/b.png", "a/b.png"),
        ("a/./b.png", "a/b.png"),
        ("x/../a/b.png", "a/b.png"),
        ("a//b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        (".\\x\\..\\a\\\\b.png", "a/b.png"),
        ("/a/b.png", "/a/b.png"),
        ("//a/b.png", "/a/b.png"),
        ("file:///a/b.png", "/a/b.png"),
        ("FILE://localhost/a/./b%20c.png", "/a/b c.png"),
        ("file:/a/b.png", "/a/b.png"),
        ("a/b%20c.png", "a/b%20c.png"),
        ("../a.png", "../a.png"),
        ("x/../../a.png", "../a.png"),
        ("..a/.b..png", "..a/.b..png"),
        (NFD, NFC),
        ("s3://bucket//x/../a%20b.png", "s3://bucket//x/../a%20b.png"),
        ("dicom:0a1b#3", "dicom:0a1b#3"),
    ],
)
def test_normal_path__of_each_spelling(written, usual):
    assert normal_path(written) == usual


@given(st.text(alphabet="a.b/\\%:ö\u0308 ", max_size=12))
def test_normal_path__of_a_normal_path_is_itself(text):
    assert normal_path(normal_path(text)) == normal_path(text)


def test_table__every_spelling_is_one_image(tmp_path):
    root = tmp_path / "mnt/data"
    file = write_picture(root / "x y/a.png", 1)
    (tmp_path / "data").symlink_to(root)
    (root / "again").symlink_to("x y")
    spellings = (
        *("x y/a.png", "./x y/a.png", "z/../x y/a.png", "x y//a.png", "x y\\a.png", "x%20y/a.png"),
        *(f"{root}/x y/a.png", f"{root}/z/../x y/a.png", f"{tmp_path}/data/x y/a.png", f"/../{root}//x y/a.png"),
        *(f"file://{root}/x%20y/a.png", f"file://localhost{tmp_path}/data/x%20y/a.png", f"{root}/x%20y/a.png"),
    )
    items = rows(root / "t.csv", [*spellings, "again/a.png"])
    assert {(item.record.filepath, item.record.id) for item in items[:-1]} == {("x y/a.png", items[0].record.id)}
    assert all(item.asset.path.samefile(file) for item in items)
    assert items[-1].record.filepath == "again/a.png"  # as it is written below the root
    through_link = rows(root / "t.csv", spellings, root=tmp_path / "data")
    assert {item.record.id for item in through_link} == {items[0].record.id}
    (folder,) = {item.record.id for item in open_source(root / "x y", SourceOptions(dataset="d"))}
    assert folder == rows(root / "x y/t.csv", ["./a.png"])[0].record.id


@pytest.mark.parametrize("mixed", [NFC, NFD, NFC.split("/")[0] + "/" + NFD.split("/")[1]])
def test_table__files_are_found_whatever_form_their_names_have_on_the_disk(tmp_path, mixed):
    write_picture(tmp_path / mixed, 1)
    listed = [NFC, NFD, f"{NFD.split('/')[0]}\\{NFC.split('/')[1]}", f"{tmp_path}/{NFD}"]
    items = rows(tmp_path / "t.csv", listed)
    assert all(item.asset.path.is_file() for item in items)
    assert {item.record.filepath for item in items} == {NFC}
    assert Root(tmp_path).file(NFC).is_file()


def test_table__percent_signs_are_decoded_only_where_that_finds_the_file(tmp_path):
    for name in ("a b.png", "c%20d.png", "c d.png"):
        write_picture(tmp_path / name, 1)
    names = ["a%20b.png", "c%20d.png", "none%20here.png", "50%.png", "%2e%2e/up.png", "%2Fetc%2Fa.png"]
    items = rows(tmp_path / "t.csv", names)
    assert [item.record.filepath for item in items] == ["a b.png", *names[1:]]
    assert [item.asset.path.is_file() for item in items] == [True, True, False, False, False, False]


def test_table__a_path_out_of_the_root_is_refused_with_the_remedy(tmp_path):
    write_picture(tmp_path / "up/a.png", 1)
    names = ["../up/a.png", "x/../../up/a.png", "..", "..\\up\\a.png", ".", "", f"file://{tmp_path}/up/a.png"]
    items = rows(tmp_path / "in/t.csv", names)
    assert all(isinstance(item, Failure) for item in items)
    remedy = f"--root {tmp_path} --path-prefix ../="
    assert [remedy in item.reason for item in items] == [True, True, True, True, False, False, False]
    assert items[-1].reason == f"lies outside of the root {tmp_path / 'in'}: give --root {tmp_path}/up"
    again = rows(tmp_path / "in/t.csv", names[:1], root=tmp_path, prefixes=prefixes("../="))
    assert [item.asset.path for item in again] == [tmp_path / "up/a.png"]


def test_table__absolute_paths_elsewhere_are_one_line_with_the_root_to_give(tmp_path, cbmir):
    names = [str(write_picture(tmp_path / "far" / name, 1)) for name in ("a/1.png", "a/2.png", "b/3.png")]
    path = table(tmp_path / "here/t.csv", names)
    done = cbmir("ingest", "images", path, "--dry-run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"3 absolute paths lie outside of the root {tmp_path / 'here'}: give --root {tmp_path / 'far'}" in line
    done = cbmir("ingest", "images", path, "--dry-run", "--root", tmp_path / "far")
    assert (done.returncode, "3 images" in done.stderr) == (0, True), done.stderr
    path = table(tmp_path / "here/t.csv", [*names, "a.png"])
    reading = open_source(path).reading()
    assert (reading.tally.images, reading.tally.failed) == (1, 3)
    assert any(f"give --root {tmp_path / 'far'}" in warning for warning in reading.warnings)


@pytest.mark.parametrize("stored", ["../out.png", "x/../../out.png", "/etc/out.png", "."])
def test_root__a_stored_path_leads_nowhere_outside(tmp_path, stored):
    write_picture(tmp_path / "out.png", 1)
    (tmp_path / "in").mkdir()
    with pytest.raises(ImageError, match="root"):
        Root(tmp_path / "in").file(stored)
    with pytest.raises(OutsideError if stored != "." else Exception, match="root"):
        Root(tmp_path / "in").place(stored)


@pytest.mark.parametrize(
    ("written", "start", "new"),
    [
        (r"C:\data\x\a.png", r"C:\data", ""),
        (r"c:\Data\x\a.png", "C:/data/", "."),
        ("file:///C:/data/x/a.png", "C:\\data\\", ""),
        (r"\\server\share\x\a.png", r"\\server\share", "ROOT"),
        ("file://server/share/x/a.png", "//SERVER/share", "ROOT/"),
        ("s3://bucket/deep/x/a.png", "s3://bucket/deep", ""),
        ("gs://bucket/x/a.png", "gs://bucket/", "file://ROOT"),
        ("https://host/x/a.png", "https://host", ""),
        ("smb://host/share/x/a.png", "smb://host/share", ""),
    ],
)
def test_prefixes__lead_foreign_paths_to_files(tmp_path, written, start, new):
    write_picture(tmp_path / "x/a.png", 1)
    (refused,) = rows(tmp_path / "t.csv", [written])
    assert "--path-prefix" in refused.reason
    given = prefixes(f"{start}={new.replace('ROOT', str(tmp_path))}", "/nowhere=x")
    (item,) = rows(tmp_path / "t.csv", [written], prefixes=given)
    assert (item.record.filepath, item.asset.path.is_file()) == ("x/a.png", True)
    assert given.unused == ("/nowhere",)


def test_prefixes__end_where_a_folder_does_and_the_longest_counts():
    given = prefixes("/data=a", "/data/deep=b", "/database/=c")
    texts = ("/data/1.png", "/data/deep/1.png", "/deeper/../data/1.png", "/database/1.png", "/datab/1.png")
    assert [given.replaced(text) for text in texts] == ["a/1.png", "b/1.png", "a/1.png", "c/1.png", "/datab/1.png"]
    with pytest.raises(SourceError, match="twice"):
        prefixes("C:\\data=x", "C:/data=y")


def test_prefixes__one_without_use_is_a_warning(tmp_path, cbmir):
    write_picture(tmp_path / "a.png", 1)
    path = table(tmp_path / "t.csv", ["D:\\old\\a.png"])
    options = ("--path-prefix", "D:\\old=", "--path-prefix", "E:\\=x")
    done = cbmir("ingest", "images", path, "--dry-run", *options)
    assert "t.csv is read: 1 image;" in done.stderr
    assert "warning: --path-prefix E:\\=...: no path begins so" in done.stderr
    assert "D:\\old=" not in done.stderr
    done = cbmir("ingest", "images", path, "--dry-run", "--json", *options)
    assert "E:\\" in json.loads(done.stdout)["reading"][0]["warnings"][-1]
    assert cbmir("ingest", "images", path, "--dry-run", "--path-prefix", "D:").returncode == 2


def test_folder__links_are_followed_once_and_counted(tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "out"
    write_picture(folder / "real/1.png", 1)
    write_picture(elsewhere / "deep/2.png", 2)
    (folder / "one.png").symlink_to("real/1.png")
    (folder / "two.png").symlink_to(elsewhere / "deep/2.png")
    (folder / "away").symlink_to(elsewhere)
    (folder / "a way again").symlink_to(elsewhere / "deep")
    (folder / "inside").symlink_to("real")
    (folder / "above").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(folder)
    (elsewhere / "circle").symlink_to(elsewhere)
    source = open_source(folder)
    assert [item.record.filepath for item in source] == ["away/deep/2.png", "one.png", "real/1.png", "two.png"]
    assert source.ignored == {"links to folders": 5}
    assert source.reading().notes[0] == "followed, symbolic links: links to files 2, links to folders 1"
    assert source.reading().notes[1] == "passed over, symbolic links: links to folders 5"
    alone = open_source(folder, SourceOptions(links=False))
    assert [item.record.filepath for item in alone] == ["real/1.png"]
    assert alone.ignored == {"links to files": 2, "links to folders": 4}


def test_no_links__rows_over_links_are_passed_over_and_counted(tmp_path, cbmir):
    write_picture(tmp_path / "real/1.png", 1)
    (tmp_path / "one.png").symlink_to("real/1.png")
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "root").symlink_to(tmp_path)
    path = table(tmp_path / "t.csv", ["real/1.png", "one.png", "linked/1.png"])
    arguments = (path, "--root", tmp_path / "root", "--encoder", "pixels", "--json", "--workers", 1)
    for option, counts in (("--no-links", (1, {"links to files": 2})), (None, (3, {}))):
        store = ("--store", tmp_path / f"store{option}")
        done = cbmir("ingest", "images", *arguments, *store, *([option] if option else []))
        report = json.loads(done.stdout)
        assert (report["read"], report["stored"], report["ignored"]) == (counts[0], counts[0], counts[1])
    assert (
        "symbolic links: links to files 2"
        in cbmir(*("ingest", "images", *arguments[:-3], "--workers", 1, "--store", tmp_path / "s", "--no-links")).stderr
    )


def test_merge__of_tables_elsewhere_names_the_root(tmp_path, cbmir):
    for name in ("one", "two"):
        write_picture(tmp_path / name / "x/a.png", 1)
        table(tmp_path / name / "t.csv", ["x\\a.png", "s3://b/a.png", "C:\\a.png"], name)
    out = tmp_path / "out/all.csv"
    out.parent.mkdir()
    done = cbmir("ingest", "merge", tmp_path / "one/t.csv", tmp_path / "two/t.csv", "--out", out)
    assert f"--root {tmp_path}" in done.stderr
    items = list(open_source(out, SourceOptions(root=tmp_path)))
    assert [item.record.filepath for item in items if isinstance(item, SourceImage)] == ["one/x/a.png", "two/x/a.png"]
    assert sum("--path-prefix" in item.reason for item in items if isinstance(item, Failure)) == 4
    table(tmp_path / "two/t.csv", ["./x/a.png"], "one")
    table(tmp_path / "two/u.csv", ["x//a.png"], "one")
    done = cbmir("ingest", "merge", tmp_path / "two/t.csv", tmp_path / "two/u.csv", "--out", out)
    assert (done.returncode, "comes again" in done.stderr) == (1, True)


def test_embeddings__keys_and_rows_in_any_spelling_meet(tmp_path, cbmir):
    keys = ["a\\1.png", "x/../a/2.png", "file:///far/a/3%20b.png", "C:\\far\\a\\4.png", "/far/a/5.png", "s3://b/6.png"]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for place, key in enumerate(keys):
            file[key] = np.eye(len(keys), dtype=np.float32)[place]
    usual = ["a/1.png", "a/2.png", "a/3 b.png", "a/4.png", "a/5.png", "s3://b/6.png"]
    ids = []
    for name, names in (("same", keys), ("usual", usual)):
        path = table(tmp_path / f"{name}.csv", names)
        done = cbmir(
            *("ingest", "embeddings", tmp_path / "v.h5", "--table", path, "--encoder", "x", "--root", "/far"),
            *("--store", tmp_path / name, "--path-prefix", "C:\\far=", "--json", "--failures", tmp_path / "f.csv"),
        )
        assert json.loads(done.stdout)["stored"] == len(keys), done.stderr
        done = cbmir("search", "like", usual[2], "--store", tmp_path / name, "--json")
        ids.append(sorted(hit["id"] for hit in json.loads(done.stdout)[0]["hits"]))
    assert ids[0] == ids[1]


def test_prune__takes_no_image_whose_file_is_spelt_otherwise(tmp_path, edge, card):
    names = {"a/1.png": "a/1.png", NFC: NFD, "as/named.png": "as\\named.png", "./old/2.png": "old/2.png"}
    for name in names.values():
        write_picture(tmp_path / "data" / name, 1)
    records = tuple(ImageRecord(filepath=name, dataset="d") for name in (*names, "gone.png", "../out.png"))
    write_picture(tmp_path / "out.png", 1)
    with edge.create("eight", card) as collection:
        vectors = np.eye(8, dtype=np.float32)[: len(records)]
        collection.upsert(EmbeddedBatch(records, vectors, card.fingerprint))
        assert sorted(path for _, path in prune(collection, tmp_path / "data").gone) == ["../out.png", "gone.png"]


def test_root__is_one_however_it_is_written(tmp_path, monkeypatch):
    write_picture(tmp_path / "r/a.png", 1)
    monkeypatch.chdir(tmp_path)
    for root in (Path("r"), Path("./r/../r"), tmp_path / "r"):
        found = Root(root).place(f"{tmp_path}/r/./a.png")
        assert (found.key, found.path.is_file()) == ("a.png", True)
    assert Root(Path("/")).place(f"{tmp_path}/r/a.png").key == f"{tmp_path}/r/a.png"[1:]
