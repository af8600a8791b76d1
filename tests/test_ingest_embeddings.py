"""Vectors through HDF5: written, read back, in the published layout, and damaged."""

import csv
import json
import re
import shutil
import unicodedata

import h5py
import numpy as np
import pytest
from builders import contents_of, copied
from pictures import cbmir as program
from pictures import write_picture, write_table

from cbmir.encoders import get
from cbmir.errors import SourceError
from cbmir.fingerprint import external_card
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.embeddings import EmbeddingsFiles, images_of, ingest_embeddings
from cbmir.schema import normalise
from cbmir.store import open_store
from cbmir.vectorfile import open_embeddings, write_embeddings

pytestmark = pytest.mark.slow

COUNT = 24
DIM = 6


@pytest.fixture
def run(cbmir):
    """A function for `cbmir ingest embeddings ... --json`: gives the report, or the line of an error."""

    def ran(*arguments, code=0):
        done = cbmir("ingest", "embeddings", *arguments, "--json")
        assert done.returncode == code, done.stderr
        if code == 1:
            assert done.stdout == ""
            *before, last = done.stderr.splitlines(keepends=True)
            assert last.startswith("error: "), done.stderr
            assert not any(line.startswith("error") for line in before), done.stderr
            return last
        report = json.loads(done.stdout)
        assert report["read"] == report["stored"] + report["skipped"] + report["failed"]
        return report

    return ran


def fill(folder, files, tables, encoder="biomedclip"):
    """What the command does, without a process of its own and without indexing; gives the report."""
    sources = [open_source(table) for table in tables]
    with (
        EmbeddingsFiles(files) as vectors,
        open_store(folder / "store") as store,
        store.open_or_create(encoder, vectors.card(encoder, images_of(sources))) as collection,
    ):
        report = ingest_embeddings(sources, vectors, collection)
    assert report.read == report.stored + report.skipped + report.failed
    return report


def options(tmp_path, encoder="biomedclip"):
    return ("--encoder", encoder, "--store", tmp_path / "store", "--failures", tmp_path / "failures.csv")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a table, a store and what `--embeddings` wrote of it."""
    folder = tmp_path_factory.mktemp("written")
    table = write_table(folder / "data", COUNT)
    arguments = ("--encoder", "pixels", "--store", folder / "store", "--embeddings", folder / "vectors")
    done = program("ingest", "images", table, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} vectors written to" in done.stderr
    assert [path.name for path in (folder / "vectors").iterdir()] == ["pixels.h5"]
    return folder


def vectors(count, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def published(path, rows, **attributes):
    """The published layout: a dataset an image, under its file path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, vector in rows.items():
            file[name] = vector
        file.attrs.update(attributes)
    return path


def table_of(path, names, header="filepath,dataset,split,modality", rest="made,train,CT"):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header.split(","))
        writer.writerows([name, *rest.split(",")] for name in names)
    return path


def reasons(report):
    return {item.filepath: item.reason for item in report.failures}


def test_ingest_embeddings__reads_back_what_ingest_images_wrote(written, tmp_path, run):
    table = written / "data/table.csv"
    report = run(written / "vectors/pixels.h5", "--table", table, *options(tmp_path, "pixels"), "--collection", "copy")
    assert (report["stored"], report["failed"], report["without_row"]) == (COUNT, 0, 0)
    of_file = ("sha256", "decoder", "width", "height")
    want = {
        id: ({name: value for name, value in payload.items() if name not in of_file}, vector)
        for id, (payload, vector) in contents_of(written / "store", "pixels").items()
    }
    assert contents_of(tmp_path / "store", "copy") == want
    assert report["fingerprint"] == get("pixels").card.fingerprint


def test_ingest_embeddings__answers_image_queries_as_the_encoder_is_known(written, tmp_path, cbmir, run):
    run(written / "vectors/pixels.h5", "--table", written / "data/table.csv", *options(tmp_path, "pixels"))
    done = cbmir(
        *("search", "image", written / "data/images/00003.png", "-k", 1, "--store", tmp_path / "store", "--json")
    )
    assert done.returncode == 0, done.stderr
    assert "images/00003.png" in done.stdout


def test_ingest_embeddings__into_the_collection_it_came_from_changes_nothing(written, tmp_path):
    copied(written / "store", tmp_path / "store")
    before = contents_of(tmp_path / "store", "pixels")
    report = fill(tmp_path, [written / "vectors/pixels.h5"], [written / "data/table.csv"], "pixels")
    assert (report.stored, report.skipped, report.updated) == (0, COUNT, 0)
    assert contents_of(tmp_path / "store", "pixels") == before


def test_write_embeddings__columns_in_the_order_of_the_ids(written):
    points = contents_of(written / "store", "pixels")
    with h5py.File(written / "vectors/pixels.h5") as file:
        ids = [id.decode() for id in file["id"][:]]
        assert ids == sorted(points)
        assert [name.decode() for name in file["filepath"][:]] == [points[id][0]["filepath"] for id in ids]
        assert {name.decode() for name in file["dataset"][:]} == {"made"}
        assert file["vector"][:].tobytes() == b"".join(points[id][1] for id in ids)
        assert file["vector"].dtype == np.float32
        assert file.attrs["fingerprint"] == get("pixels").card.fingerprint


def test_write_embeddings__a_file_that_can_not_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with open_store(tmp_path / "store") as store, store.create("eight", external_card("eight", 8)) as collection:
        assert write_embeddings(collection, tmp_path / "empty.h5") == 0
        with pytest.raises(SourceError, match="can't write the embeddings"):
            write_embeddings(collection, tmp_path / "file/eight.h5")
        (tmp_path / "new.h5.partial").symlink_to(tmp_path / "file")  # a link that somebody put there is not followed
        assert write_embeddings(collection, tmp_path / "new.h5") == 0
    assert (tmp_path / "file").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.h5", "file", "new.h5", "store"]
    with EmbeddingsFiles([tmp_path / "empty.h5"]) as files:
        assert files.count == 0


def test_ingest_embeddings__published_layout(tmp_path):
    names = [f"train/patient{number // 2}/study 1/{number}.png" for number in range(COUNT)]
    made = vectors(COUNT) * np.linspace(0.1, 40, COUNT, dtype=np.float32)[:, None]
    file = published(tmp_path / "v.h5", dict(zip(names, made, strict=True)))
    table = table_of(tmp_path / "t.csv", names, "filepath,dataset,CT/chest/Lung Nodule,CT/chest/Mass", "nih14,1,0")
    report = fill(tmp_path, [file], [table])
    assert (report.stored, report.failed, report.without_row) == (COUNT, 0, 0)
    stored = {
        payload["filepath"]: (payload, vector)
        for payload, vector in contents_of(tmp_path / "store", "biomedclip").values()
    }
    for name, vector in zip(names, made, strict=True):
        payload, got = stored[name]
        assert (payload["labels"], payload["dataset"]) == (["CT/chest/lung_nodule"], "nih14")
        unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
        assert np.frombuffer(got, np.float32) == pytest.approx(unit, abs=1e-6)


def test_ingest_embeddings__second_run_changes_nothing(tmp_path):
    names = [f"{number}.png" for number in range(COUNT)]
    file = published(tmp_path / "v.h5", dict(zip(names, vectors(COUNT) * 3, strict=True)))
    arguments = (tmp_path, [file], [table_of(tmp_path / "t.csv", names)])
    fill(*arguments)
    before = contents_of(tmp_path / "store", "biomedclip")
    again = fill(*arguments)
    assert (again.stored, again.skipped, again.updated) == (0, COUNT, 0)
    assert contents_of(tmp_path / "store", "biomedclip") == before


def test_ingest_embeddings__corrected_table_and_vectors_are_taken_over(tmp_path):
    names = [f"{number}.png" for number in range(4)]
    rows = dict(zip(names, vectors(4), strict=True))
    table = table_of(tmp_path / "t.csv", names)
    fill(tmp_path, [published(tmp_path / "v.h5", rows)], [table])
    table.write_text(table.read_text().replace("1.png,made,train,CT", "1.png,made,test,"))
    rows["2.png"] = vectors(1, seed=9)[0]
    report = fill(tmp_path, [published(tmp_path / "v.h5", rows)], [table])
    assert (report.stored, report.skipped, report.updated) == (1, 3, 1)
    stored = {
        payload["filepath"]: (payload, vector)
        for payload, vector in contents_of(tmp_path / "store", "biomedclip").values()
    }
    bare = {"filepath": "1.png", "dataset": "made", "split": "test", "kind": "image", "labels": []}
    assert stored["1.png"][0] == bare
    unit = rows["2.png"] / np.linalg.norm(rows["2.png"])
    assert np.frombuffer(stored["2.png"][1], np.float32) == pytest.approx(unit, abs=1e-6)


def test_ingest_embeddings__several_files_and_tables(tmp_path, run):
    made = vectors(9)
    files = [
        published(tmp_path / f"{part}.h5", {f"{part}/{number}.png": made[3 * part + number] for number in range(3)})
        for part in range(3)
    ]
    tables = [table_of(tmp_path / f"t{part}.csv", [f"{part}/{number}.png" for number in range(3)]) for part in range(3)]
    arguments = [item for table in tables for item in ("--table", table)]
    report = run(*files, *arguments, *options(tmp_path))
    assert (report["read"], report["stored"], report["without_row"]) == (9, 9, 0)


def test_ingest_embeddings__rows_and_vectors_that_do_not_meet_are_counted(tmp_path, cbmir):
    names = [f"{number}.png" for number in range(6)]
    file = published(tmp_path / "v.h5", dict(zip(names[2:], vectors(4), strict=True)))
    table = table_of(tmp_path / "t.csv", [*names[:4], names[3], ""])
    done = cbmir("ingest", "embeddings", file, "--table", table, *options(tmp_path))
    assert done.returncode == 3
    assert "read 6 = stored 2 + skipped 0 + failed 4" in done.stderr
    assert "left out, without a row in a table: 2 vectors" in done.stderr
    with (tmp_path / "failures.csv").open(newline="") as stream:
        failed = [(row["filepath"], row["reason"]) for row in csv.DictReader(stream)]
    missing = "has no vector in the embeddings"
    again = "came before in this source: one image has one row"
    assert sorted(failed) == [("", "has no filepath"), ("0.png", missing), ("1.png", missing), ("3.png", again)]


BAD = {
    "nan.png": (np.array([1, np.nan, 0, 0, 0, 0], np.float32), "zero, not finite"),
    "inf.png": (np.array([1, np.inf, 0, 0, 0, 0], np.float32), "zero, not finite"),
    "zero.png": (np.zeros(DIM, np.float32), "zero, not finite"),
    "huge.png": (np.full(DIM, 1e300), "zero, not finite"),
    "short.png": (np.ones(DIM - 1, np.float32), r"shape \(5,\) and type float.*, not \(6,\) float"),
    "long.png": (np.ones(DIM + 1, np.float32), r"shape \(7,\)"),
    "none.png": (np.ones(0, np.float32), r"shape \(0,\)"),
    "integer.png": (np.ones(DIM, np.int64), "type int64"),
    "table.png": (np.ones((DIM, DIM), np.float32), r"shape \(6, 6\)"),
    "row.png": (np.ones((1, DIM), np.float32), r"shape \(1, 6\)"),
    "scalar.png": (np.float32(1), r"shape \(\)"),
    "text.png": ("no vector", r"shape \(\)"),
    "nothing.png": (h5py.Empty("f4"), "shape None"),
    "group.png/deeper": (np.ones(DIM, np.float32), None),
}
GOOD = {
    "double.png": np.arange(1.0, 7.0),
    "half.png": np.ones(DIM, np.float16),
    "big_endian.png": np.ones(DIM, ">f4"),
    "tiny.png": np.full(DIM, 1e-30, np.float32),
    "large.png": np.full(DIM, 1e30, np.float32),
}


def test_ingest_embeddings__vectors_of_no_use_are_counted_with_their_reason(tmp_path):
    rows = {**{name: vector for name, (vector, _) in BAD.items()}, **GOOD}
    names = ["short.png", *GOOD, *(name for name in BAD if name not in ("short.png", "group.png/deeper")), "group.png"]
    report = fill(tmp_path, [published(tmp_path / "v.h5", rows)], [table_of(tmp_path / "t.csv", names)])
    assert report.stored == len(GOOD)
    failed = reasons(report)
    assert failed.pop("group.png") == "has no vector in the embeddings"
    assert report.without_row == 1
    assert failed.keys() == BAD.keys() - {"group.png/deeper"}
    for name, reason in failed.items():
        assert re.search(BAD[name][1], reason), (name, reason)


def test_ingest_embeddings__odd_file_paths_do_no_harm(tmp_path):
    names = ["a.png", "..", ".", "/", "a.png/", "nul\x00l.png", "/a.png", "./a.png"]
    report = fill(
        tmp_path, [published(tmp_path / "v.h5", {"a.png": vectors(1)[0]})], [table_of(tmp_path / "t.csv", names)]
    )
    assert report.read == len(names)
    assert reasons(report)["nul\x00l.png"] == "has no vector in the embeddings"


def test_ingest_embeddings__no_row_has_a_vector(tmp_path, run):
    file = published(tmp_path / "v.h5", {"a.png": vectors(1)[0]})
    said = run(file, "--table", table_of(tmp_path / "t.csv", ["b.png"]), *options(tmp_path), code=1)
    assert said == "error: no row of the table has a vector in the embeddings files\n"
    assert not (tmp_path / "store").exists()


def test_ingest_embeddings__a_name_no_registry_knows_is_searched_by_id_and_vector_only(tmp_path, cbmir, run):
    names = [f"{number}.png" for number in range(COUNT)]
    made = vectors(COUNT)
    file = published(tmp_path / "v.h5", dict(zip(names, made, strict=True)))
    run(file, "--table", table_of(tmp_path / "t.csv", names), *options(tmp_path, "my own/network"))
    at = ("--store", tmp_path / "store", "--collection", "my-own-network", "-k", 1, "--json")
    unit = made[3] / np.linalg.norm(made[3])
    np.save(tmp_path / "q.npy", unit)
    found = cbmir("search", "vector", tmp_path / "q.npy", *at)
    assert found.returncode == 0, found.stderr
    assert '"3.png"' in found.stdout
    like = cbmir("search", "like", "made/5.png", *at)
    assert like.returncode == 0, like.stderr
    refused = cbmir("search", "image", write_picture(tmp_path / "p.png", 1), *at)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "my own/network that were made elsewhere" in refused.stderr


def test_ingest_embeddings__vectors_of_a_known_name_made_elsewhere_refuse_images(tmp_path, cbmir):
    names = ["a.png", "b.png"]
    file = published(tmp_path / "v.h5", dict(zip(names, vectors(2, dim=1024), strict=True)))
    fill(tmp_path, [file], [table_of(tmp_path / "t.csv", names)], "pixels")
    picture = write_picture(tmp_path / "p.png", 1)
    refused = cbmir("search", "image", picture, "--store", tmp_path / "store")
    assert refused.returncode == 1
    assert "pixels that were made elsewhere" in refused.stderr
    (tmp_path / "images").mkdir()
    picture.rename(tmp_path / "images/p.png")
    mixed = cbmir("ingest", "images", tmp_path / "images", "--encoder", "pixels", "--store", tmp_path / "store")
    assert mixed.returncode == 1
    assert get("pixels").card.fingerprint in mixed.stderr
    assert external_card("pixels", 1024).fingerprint in mixed.stderr


def test_ingest_embeddings__another_encoder_is_refused_with_both_fingerprints(written, tmp_path, run):
    copied(written / "store", tmp_path / "store")
    before = contents_of(tmp_path / "store", "pixels")
    names = [f"images/{number:05}.png" for number in range(3)]
    file = published(tmp_path / "v.h5", dict(zip(names, vectors(3), strict=True)))
    table = table_of(tmp_path / "t.csv", names)
    said = run(file, "--table", table, *options(tmp_path), "--collection", "pixels", code=1)
    assert get("pixels").card.fingerprint in said
    assert external_card("biomedclip", DIM).fingerprint in said
    assert contents_of(tmp_path / "store", "pixels") == before


def test_ingest_embeddings__our_file_under_another_name_or_beside_another_file(written, tmp_path):
    tables = [written / "data/table.csv"]
    ours = written / "vectors/pixels.h5"
    with pytest.raises(SourceError, match="made by pixels, not by biomedclip"):
        fill(tmp_path, [ours], tables)
    other = published(tmp_path / "v.h5", {"a.png": vectors(1)[0]})
    with pytest.raises(SourceError, match="made by different encoders"):
        fill(tmp_path, [ours, other], tables, "pixels")
    assert fill(tmp_path, [ours, ours], tables, "pixels").stored == COUNT


@pytest.mark.parametrize("data", [b"", b"no HDF5\n" * 100, b"\x89HDF\r\n\x1a\n", None, "cut", "folder"])
def test_ingest_embeddings__what_is_no_whole_hdf5_is_one_line(written, tmp_path, data):
    path = tmp_path / "v.h5"
    if data == "cut":
        whole = (written / "vectors/pixels.h5").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(SourceError, match=r"v\.h5") as error:
        open_embeddings(path)
    assert "\n" not in str(error.value)


def test_ingest_embeddings__damaged_file_leaves_with_1_and_one_line(written, tmp_path, run):
    (tmp_path / "v.h5").write_bytes((written / "vectors/pixels.h5").read_bytes()[:3000])
    arguments = ("--table", written / "data/table.csv", *options(tmp_path, "pixels"))
    assert "v.h5" in run(tmp_path / "v.h5", *arguments, code=1)
    assert not (tmp_path / "store").exists()


def replaced(name, data):
    def damage(file):
        del file[name]
        if data is not None:
            file[name] = data

    return damage


DAMAGES = {
    "no ids": replaced("id", None),
    "no vectors": replaced("vector", None),
    "fewer ids": lambda file: file["id"].resize(COUNT - 1, axis=0),
    "fewer vectors": lambda file: file["vector"].resize(COUNT - 1, axis=0),
    "other dim": replaced("vector", np.ones((COUNT, 5), np.float32)),
    "integer vectors": replaced("vector", np.ones((COUNT, 1024), np.int32)),
    "numbers as ids": replaced("id", np.arange(COUNT)),
    "ids in disorder": lambda file: file["id"].write_direct(file["id"][:][::-1].copy()),
    "one id": replaced("id", b"a"),
    "ids as a group": lambda file: (replaced("id", None)(file), file.create_group("id")),
    "vectors as a group": lambda file: (replaced("vector", None)(file), file.create_group("vector")),
    "no encoder": lambda file: file.attrs.pop("encoder"),
    "encoder no JSON": lambda file: file.attrs.update(encoder="{"),
    "encoder a list": lambda file: file.attrs.update(encoder="[]"),
    "encoder a number": lambda file: file.attrs.update(encoder=5),
    "encoder without preprocessing": lambda file: file.attrs.update(
        encoder='{"name": "pixels", "dim": 1024, "weights": "none", "preprocessing": null}'
    ),
    "another encoder": lambda file: file.attrs.update(encoder=file.attrs["encoder"].replace("bilinear", "bicubic")),
    "no fingerprint": lambda file: file.attrs.pop("fingerprint"),
    "later version": lambda file: file.attrs.update(version=2),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_open_embeddings__damage_to_our_format_is_one_line(written, tmp_path, damage):
    path = tmp_path / "v.h5"
    shutil.copy(written / "vectors/pixels.h5", path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(SourceError, match="is a damaged embeddings file") as error:
        open_embeddings(path)
    assert "\n" not in str(error.value)


def test_ingest_embeddings__overwritten_vectors_are_counted_by_their_checksum(written, tmp_path):
    path = tmp_path / "v.h5"
    shutil.copy(written / "vectors/pixels.h5", path)
    with h5py.File(path) as file:
        chunk = file["vector"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 4000 : chunk.byte_offset + 4100] = bytes(100)
    path.write_bytes(data)
    report = fill(tmp_path, [path], [written / "data/table.csv"], "pixels")
    assert (report.stored, report.failed, report.without_row) == (0, COUNT, 0)
    assert all("can't be read from v.h5" in reason for reason in reasons(report).values())


def test_ingest_embeddings__length_of_most_vectors_is_the_length(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    rows = dict(zip(names, [np.ones(3, np.float32), *vectors(4)], strict=True))
    with EmbeddingsFiles([published(tmp_path / "v.h5", rows)]) as files:
        sources = [open_source(table_of(tmp_path / "t.csv", names))]
        card = files.card("x", images_of(sources))
        assert card.dim == DIM
        with open_store(tmp_path / "store") as store, store.create("x", card) as collection:
            report = ingest_embeddings(sources, files, collection)
    assert (report.stored, report.failed) == (4, 1)


def test_ingest_embeddings__keeps_what_an_ingest_of_images_knew_of_the_file(written, tmp_path):
    copied(written / "store", tmp_path / "store")
    table = tmp_path / "table.csv"
    table.write_text((written / "data/table.csv").read_text().replace("CT/lung/nodule", "CT/lung/cyst"))
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.open("pixels") as collection:
        with EmbeddingsFiles([written / "vectors/pixels.h5"]) as files:
            report = ingest_embeddings([open_source(table)], files, collection)
        assert (report.stored, report.skipped, report.updated) == (0, COUNT, COUNT // 4)
        shutil.copytree(written / "data/images", tmp_path / "images")
        again = ingest_images(open_source(table), encoder, collection, 1)
    assert (again.stored, again.skipped, again.updated) == (0, COUNT, 0)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("key", "name"), [("a/b.png", "a\\b.png"), ("a\\b.png", "a/b.png"), ("a\\b.png", "a\\b.png")])
def test_ingest_embeddings__backslashes_and_slashes_are_one_key(tmp_path, key, name, there):
    """Whether or not the file is there."""
    if there:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/b.png").touch()
    with EmbeddingsFiles([published(tmp_path / "v.h5", {key: vectors(1)[0]})]) as files:
        (image,) = images_of([open_source(table_of(tmp_path / "t.csv", [name]))])
        assert image.record.filepath == "a/b.png"
        assert files.vector(image, vectors(1).shape[1]) == pytest.approx(normalise(vectors(1))[0], abs=1e-6)


def test_ingest_embeddings__accented_letters_of_one_sign_or_two_are_one_key(tmp_path):
    one, two = (unicodedata.normalize(form, "Röntgen.png") for form in ("NFC", "NFD"))
    for key, name in ((one, two), (two, one)):
        with EmbeddingsFiles([published(tmp_path / "v.h5", {key: vectors(1)[0]})]) as files:
            (image,) = images_of([open_source(table_of(tmp_path / "t.csv", [name]))])
            assert files.vector(image, vectors(1).shape[1]) == pytest.approx(normalise(vectors(1))[0], abs=1e-6)
