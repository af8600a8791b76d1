"""Limits of one table and of the other files that describe images: small files that stand for very much."""

import gzip
import json
import tarfile
import zipfile
from itertools import pairwise

import h5py
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import write_picture
from test_ingest_images import ingest

from cbmir.collections.backup_directory import _Filter
from cbmir.collections.manifests import Form
from cbmir.encoders import get
from cbmir.errors import ProtocolError, SourceError
from cbmir.evaluate.experiment_plan import read_plan, read_reference
from cbmir.evaluate.ranking.relevance import Relations
from cbmir.hdf5 import MAX_DEPTH
from cbmir.ingest import SourceOptions, datasets, open_source
from cbmir.ingest.tables.columnar import MAX_CELL
from cbmir.ingest.tables.delimited import MAX_LINE
from cbmir.ingest.tables.rows import MAX_COLUMNS, TableFile
from cbmir.textfile import MAX_BYTES, read_text
from cbmir.vectorfile import open_embeddings


def refused(path):
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_table__more_columns_than_any_study(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("filepath," + ",".join(f"c{number}" for number in range(MAX_COLUMNS)) + "\n")
    assert "has 50,001 columns, 50,000 at most" in refused(path)
    pq.write_table(pa.table({f"c{number}": ["1"] for number in range(MAX_COLUMNS + 1)}), tmp_path / "a.parquet")
    assert "has 50,001 columns, 50,000 at most" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("place", ["header", "row"])
def test_table__one_line_without_end(tmp_path, name, place):
    line = "x" * (MAX_LINE + 10)
    text = line if place == "header" else f"filepath\na.png\n{line}\nb.png\n"
    path = tmp_path / name
    with gzip.open(path, "wt") if name.endswith(".gz") else path.open("w") as file:
        file.write(text)
    number = 1 if place == "header" else 3
    assert f"line {number} is longer than 16,000,000 characters, the limit" in refused(path)


def test_table__a_long_line_of_other_bytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"filepath\n" + b"\xff" * (MAX_LINE + 10) + b"\n")
    assert "line 2 is longer" in refused(tmp_path / "a.csv")


def test_table__packed_rows_up_to_the_limit_only(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"filepath,report\n" + b"a.png,no finding at all\n" * 400_000)
    assert path.stat().st_size < 100_000
    assert TableFile(path).names == ["filepath", "report"]
    monkeypatch.setenv("CBMIR_TABLE_BYTES", "5M")
    assert "unpacks to 5,000,001 bytes or more, 5,000,000 at most (--table-bytes)" in refused(path)


def test_table__a_pipe_is_not_waited_for(tmp_path):
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("needs a POSIX file system")
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(SourceError, match="is not a file that is there"):
        TableFile(tmp_path / "a.csv")


def workbook(path, rows='<row r="1"><c r="A1" t="inlineStr"><is><t>filepath</t></is></c></row>'):
    """A workbook whose sheet has other rows than it was made with."""
    book = openpyxl.Workbook()
    book.active.append(["filepath"])
    book.active.append(["a.png"])
    book.save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    head, _, rest = parts[sheet].decode().partition("<sheetData>")
    head = head.replace("A1:A2", "A1:A2000000000")
    parts[sheet] = f"{head}<sheetData>{rows}{rest[rest.index('</sheetData>') :]}".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return path


def test_table__a_sheet_that_says_it_has_more_rows_than_it_can(tmp_path):
    first = '<row r="1"><c r="A1" t="inlineStr"><is><t>filepath</t></is></c></row>'
    last = '<row r="2000000000"><c r="A2000000000" t="inlineStr"><is><t>a.png</t></is></c></row>'
    path = workbook(tmp_path / "a.xlsx", first + last)
    assert path.stat().st_size < 10_000
    with pytest.raises(SourceError, match="is damaged: sheet Sheet says it has over 1,048,576 rows"):
        list(TableFile(path))


def test_table__a_packed_workbook_up_to_the_limit_only(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", f"<row>{' ' * 3_000_000}</row>")
    assert path.stat().st_size < 20_000
    monkeypatch.setenv("CBMIR_TABLE_BYTES", "2M")
    assert "2,000,000 at most (--table-bytes)" in refused(path)


def test_table__rows_of_parquet_are_counted_before_they_are_made(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), ["p" * 50_000])
    pq.write_table(pa.table({"filepath": [f"{number}.png" for number in range(100_000)], "note": many}), path)
    assert path.stat().st_size < 2_000_000  # 5 GB of texts
    monkeypatch.setenv("CBMIR_TABLE_BYTES", "500M")
    assert "unpacks to 1,0" in refused(path)
    monkeypatch.setenv("CBMIR_TABLE_BYTES", "150k")
    assert "150,000 at most (--table-bytes)" in refused(path)


def test_table__a_text_of_parquet_that_no_image_can_have_costs_its_row(tmp_path):
    path = tmp_path / "a.parquet"
    for name in ("a.png", "b.png", "c.png"):
        write_picture(tmp_path / name, ord(name[0]))
    notes = ["fine", "x" * (MAX_CELL + 1), None]
    pq.write_table(pa.table({"filepath": ["a.png", "b.png", "c.png"], "note": notes}), path)
    report = ingest(path, tmp_path / "store", get("pixels"))
    assert (report.stored, report.failed) == (2, 1)
    assert "holds a text of 1,000,001 bytes, 1,000,000 at most" in report.failures[0].reason


def test_table__values_of_parquet_are_as_before(tmp_path):
    columns = {
        "filepath": ["a.png", "b.png", "a.png"],
        "text": pa.array(["x", None, "ü"]),
        "large": pa.array(["x", None, "y"], pa.large_string()),
        "coded": pa.array(["x", None, "x"]).dictionary_encode(),
        "raw": pa.array([b"x", None, b"y"]),
        "list": [["x"], [], None],
        "number": [1, None, 3],
        "a.b": ["dot", "dot", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = list(zip(*(pa.array(column).to_pylist() for column in columns.values()), strict=True))
    assert list(TableFile(tmp_path / "a.parquet")) == rows


def test_table__time_and_memory_are_held(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("filepath,note\n" + "".join(f"{number}.png,{number}\n" for number in range(200_000)))
    monkeypatch.setenv("CBMIR_TABLE_SECONDS", "0.05")
    assert "takes over 0.05 s of computing, the limit (--table-seconds)" in refused(path)
    path.write_text("filepath,dataset\n" + "".join(f"{number}.png,a\n" for number in range(200_000)))
    with pytest.raises(SourceError, match=r"--table-seconds"):
        datasets.merge([path], tmp_path / "out.csv", None)


def deep(path, levels):
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(levels):
            group = group.create_group("a")
        group.create_dataset("x.png", data=np.ones(4, np.float32))


def test_open_embeddings__groups_within_groups(tmp_path):
    deep(tmp_path / "a.h5", MAX_DEPTH - 1)
    file = open_embeddings(tmp_path / "a.h5")
    assert file.count == 1
    file.close()
    deep(tmp_path / "b.h5", 500)
    with pytest.raises(SourceError, match="its groups are nested deeper than 64 levels"):
        open_embeddings(tmp_path / "b.h5")


def test_open_embeddings__a_circle_of_groups_is_entered_once(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("a/b")
        group["again"] = file["a"]
        group["top"] = file["/"]
        group.create_dataset("x.png", data=np.ones(4, np.float32))
    file = open_embeddings(tmp_path / "a.h5")
    assert file.count == 1
    file.close()


@pytest.mark.parametrize("how", [{"chunks": (1 << 28,)}, {"dtype": "S300000000"}], ids=["chunk", "value"])
def test_open_embeddings__pieces_that_are_unpacked_as_a_whole(tmp_path, how):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x.png", (4,), how.pop("dtype", "f4"), maxshape=(None,), compression="gzip", **how)
    with pytest.raises(SourceError, match=r"x\.png is stored in pieces of [0-9,]+ bytes, 268,435,456 at most"):
        open_embeddings(tmp_path / "a.h5")


@pytest.mark.parametrize(("dim", "rows"), [(10**12, 5), (8, 10**11)], ids=["dimensions", "rows"])
def test_open_embeddings__shapes_that_no_file_has_room_for(tmp_path, card, dim, rows):
    from dataclasses import replace

    mine = replace(card, dim=dim)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"format": "cbmir-embeddings", "version": 1, "encoder": json.dumps(mine.as_json())})
        file.attrs["fingerprint"] = mine.fingerprint
        for name in ("filepath", "dataset"):
            file.create_dataset(name, (rows,), h5py.string_dtype(), chunks=(5,))
        file.create_dataset("id", (rows,), "S36", chunks=(5,))
        file.create_dataset("vector", (rows, dim), "f4", chunks=(1, 8))
    with pytest.raises(SourceError, match=r"is a damaged embeddings file: .*(65,536 at most|than its bytes can hold)"):
        open_embeddings(tmp_path / "a.h5")


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairwise("abcdefghijklmnopqrstuv")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{LAUGHS}relations: [[*v, y, 1]]", "aliases .* write each value out"),
        ("relations: [[[x, y], y, 1]]", "a label is a list or a mapping"),
        (f"relations: {'[' * 5000}", "can't read relations"),
        (f"same: 0x{'f' * 400}", "can't read relations"),
        ("x" * 10_000_001, "it is larger than 10,000,000 bytes"),
    ],
    ids=["aliases", "list", "deep", "huge_number", "large"],
)
def test_relations__small_files_that_stand_for_much(tmp_path, text, reason):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ProtocolError, match=reason):
        Relations.read(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", [f"a = {'[' * 20_000}", f"k = {'9' * 5000}", "a = 1979-13-27"])
def test_read_plan__toml_that_its_reader_trips_over(tmp_path, text):
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(ProtocolError, match="can't read the experiment"):
        read_plan(tmp_path / "e.toml")


@pytest.mark.parametrize("text", ["[" * 200_000, "9" * 5000, '{"experiments_dir": 1', "3", "null"])
def test_read_reference__json_that_its_reader_trips_over(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ProtocolError, match=r"can't read the experiment|is no config"):
        read_reference(tmp_path / "config.json")


def test_read_text__no_more_than_people_write(tmp_path):
    (tmp_path / "m.json").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="it is larger than 64,000,000 bytes"):
        read_text(tmp_path / "m.json")
    form = Form("m.json", "f", 1, "thing", "command")
    with pytest.raises(SourceError, match=r"can't read .*m\.json: it is larger than 64,000,000 bytes"):
        form.read(tmp_path)


def test_filter__no_more_than_the_disk_has_room_for(tmp_path):
    allow = _Filter(tmp_path)
    member = tarfile.TarInfo("shard/a")
    member.size = 10
    assert allow(member, str(tmp_path)).name == "shard/a"
    member.size = 1 << 60
    with pytest.raises(tarfile.TarError, match="bytes of disk or more"):
        allow(member, str(tmp_path))


def test_filter__no_more_files_than_a_collection_has(tmp_path, monkeypatch):
    monkeypatch.setattr("cbmir.collections.backup_directory._MAX_FILES", 3)
    allow = _Filter(tmp_path)
    for _ in range(3):
        allow(tarfile.TarInfo("shard/a"), str(tmp_path))
    with pytest.raises(tarfile.TarError, match="it holds over 3 files"):
        allow(tarfile.TarInfo("shard/a"), str(tmp_path))


@pytest.mark.parametrize("part", ["xl/workbook.xml", "xl/worksheets/sheet1.xml", "[Content_Types].xml"])
def test_table__a_workbook_of_broken_xml(tmp_path, part):
    path = workbook(tmp_path / "a.xlsx")
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts[part] = parts[part][: len(parts[part]) // 2] + b"<\0&"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    with pytest.raises(SourceError, match=r"can't read the table .*a\.xlsx: "):
        open_source(path)


@pytest.mark.parametrize("k", [10**20, 10**9])
def test_read_reference__more_hits_than_anybody_looks_at(tmp_path, k):
    config = {"experiments_dir": "x", "h5_paths": [], "csv_paths": [], "k": k}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProtocolError, match="not a number up to 100,000"):
        read_reference(tmp_path / "config.json")


NO_PATHS = (
    "/x/a\0b/c.png",
    "/x/a%00b/c.png",
    "a\0.png",
    "a%00.png",
    "file:///x/%00/a.png",
    "x" * 5000,
    "/" + "y" * 5000,
)


@pytest.mark.parametrize("links", [True, False])
def test_table__a_path_that_no_file_can_have_costs_its_row(tmp_path, links):
    write_picture(tmp_path / "good.png", 1)
    (tmp_path / "a.csv").write_text("filepath,note\ngood.png,1\n" + "".join(f"{bad},2\n" for bad in NO_PATHS))
    report = ingest(tmp_path / "a.csv", tmp_path / "store", get("pixels"), SourceOptions(links=links))
    assert (report.read, report.stored, report.failed) == (1 + len(NO_PATHS), 1, len(NO_PATHS))


@pytest.mark.parametrize("links", [True, False])
def test_reading__a_path_that_no_file_can_have_is_counted(tmp_path, links):
    write_picture(tmp_path / "good.png", 1)
    (tmp_path / "a.csv").write_text("filepath,note\ngood.png,1\n" + "".join(f"{bad},2\n" for bad in NO_PATHS))
    tally = open_source(tmp_path / "a.csv", SourceOptions(links=links)).reading().tally
    assert tally.images + tally.failed == 1 + len(NO_PATHS)
