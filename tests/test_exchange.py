"""Collections as files and back: what is kept, what is refused, and what an interruption leaves."""

import json
import shutil

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import LABELS
from qdrant_client import QdrantClient

from cbmir.collections import exports, recordfile
from cbmir.collections.exports import Export, export
from cbmir.collections.manifests import ExportManifest
from cbmir.collections.seals import seal_of
from cbmir.collections.transfer import transfer
from cbmir.errors import FilterError, FingerprintError, SourceError, StoreError
from cbmir.filters import parse
from cbmir.fingerprint import external_card
from cbmir.schema import SPLITS, EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow

WHOLE = ImageRecord(
    filepath="Röntgen/a b.png", dataset="one", split="train", modality="CT", anatomic_region="chest",
    labels=("CT/chest/nodule", "CT/chest/mass"), patient_id="p", study_id="s", series_id="r", sha256="0" * 64,
    width=3, height=4, depth=5, age_years=33.1, sex="F", view="axial", study_date="2020-01-05T10:00:00+02:00",
    thumbnail_url="https://x/y.png", extra={"kernel": "B30f", "site": {"名": ["A", None, [], {}, 0.1, 2**53, True]}},
)  # fmt: skip
BARE = ImageRecord(filepath="bare", dataset="b")


def batch_of(records, card, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((len(records), card.dim)).astype(np.float32)
    return EmbeddedBatch(tuple(records), normalise(vectors), card.fingerprint)


@pytest.fixture
def memory():
    with ServerStore.over(QdrantClient(":memory:"), "memory") as store:
        yield store


@pytest.fixture(scope="module")
def whole(card, make_batch, tmp_path_factory):
    """A collection, for reading, of thirty images and two with all and with no fields."""
    with EdgeStore(tmp_path_factory.mktemp("whole") / "store").create("eight", card) as collection:
        collection.upsert(make_batch(30))
        collection.upsert(batch_of([WHOLE, BARE], card, seed=5))
        yield collection


@pytest.fixture(scope="module")
def once(whole, tmp_path_factory):
    """The export of `whole`."""
    folder = tmp_path_factory.mktemp("once") / "out"
    report = export(whole, folder)
    assert (report.count, report.left_out) == (32, {})
    return folder


@pytest.fixture
def exported(once, tmp_path):
    """A copy of that, to do harm to."""
    return shutil.copytree(once, tmp_path / "out")


def test_export__there_and_back_is_the_same_bit_for_bit(exported, whole, card, tmp_path):
    assert sorted(path.name for path in exported.iterdir()) == ["collection.json", "records.parquet", "vectors.h5"]
    with Export(exported) as source, EdgeStore(tmp_path / "other").create("back", card) as back:
        assert (source.name, source.card, source.count()) == ("eight", card, 32)
        report = transfer(source, back)
        assert (report.read, report.written, report.kept, report.checked) == (32, 32, 0, 32)
        assert contents(back) == contents(whole) == contents(source)
        assert transfer(source, back).written == 0


def test_export__others_can_read_the_files(exported, whole):
    table = pq.read_table(exported / "records.parquet").to_pylist()
    with h5py.File(exported / "vectors.h5") as file:
        assert [row["id"].encode() for row in table] == file["id"][:].tolist()
        assert [row["filepath"] for row in table] == list(file["filepath"].asstr())
        vectors = file["vector"][:]
    row = next(row for row in table if row["id"] == WHOLE.id)
    assert row["labels"] == list(WHOLE.labels)
    assert (row["age_years"], row["width"], row["study_date"]) == (33.1, 3, WHOLE.study_date)
    assert json.loads(row["extra"]) == WHOLE.extra
    bare = next(row for row in table if row["id"] == BARE.id)
    assert (bare["labels"], bare["pathology"], bare["extra"], bare["age_years"]) == ([], None, None, None)
    np.testing.assert_array_equal(vectors[table.index(row)], whole.get([WHOLE.id], vectors=True)[0].vector)
    data = json.loads((exported / "collection.json").read_text())
    assert (data["collection"], data["count"], data["filter"]) == ("eight", 32, [])
    assert data["encoder"] == whole.card.as_json()
    assert data["files"]["vectors.h5"]["bytes"] == (exported / "vectors.h5").stat().st_size


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
some = st.none() | text
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
objects = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
images = st.builds(
    ImageRecord,
    filepath=text.filter(bool),
    dataset=text.filter(bool),
    split=st.sampled_from((None, *SPLITS)),
    labels=st.lists(st.sampled_from([*LABELS, "ct", "Ärzte/ß/ñ"]), unique=True, max_size=3).map(tuple),
    modality=some, anatomic_region=some, patient_id=some, study_id=some, series_id=some, sha256=some, sex=some,
    view=some, study_date=some, thumbnail_url=some,
    kind=st.sampled_from(["image", "volume"]),
    width=st.none() | st.integers(0, 2**63 - 1), height=st.none() | st.integers(0, 2**63 - 1),
    depth=st.none() | st.integers(1, 5000),
    age_years=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    extra=objects,
)  # fmt: skip


@pytest.fixture(scope="module")
def reused(tmp_path_factory):
    """A collection that the examples of one property fill in turn."""
    store = EdgeStore(tmp_path_factory.mktemp("reused") / "store")
    with store.create("three", external_card("three", 3)) as collection:
        yield collection


@given(records=st.lists(images, min_size=1, max_size=6, unique_by=lambda record: record.id), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_export__keeps_whatever_a_record_can_hold(records, seed, reused, tmp_path_factory):
    reused.delete(list(contents(reused)))
    reused.upsert(batch_of(records, reused.card, seed))
    folder = tmp_path_factory.mktemp("export")
    assert export(reused, folder).count == len(records)
    stored = contents(reused)
    with Export(folder) as source, ServerStore.over(QdrantClient(":memory:"), "memory") as store:
        assert contents(source) == stored
        with store.create("back", reused.card) as back:
            assert transfer(source, back).written == len(records)
            assert {id: payload for id, (payload, _) in contents(back).items()} == {
                id: payload for id, (payload, _) in stored.items()
            }
    shutil.rmtree(folder)


def test_export__a_part_and_nothing(filled, edge, tmp_path):
    report = export(filled, tmp_path / "ct", (parse("modality~c*"), parse("split!=test")))
    with Export(tmp_path / "ct") as source:
        assert source.count() == report.count == 10
        assert {payload["modality"] for payload, _ in contents(source).values()} == {"CT"}
    assert ExportManifest.read(tmp_path / "ct").filter == ["modality~c*", "split!=test"]
    with pytest.raises(FilterError, match="no modality 'PT'"):
        export(filled, tmp_path / "pet", (parse("modality=PET"),))
    assert not (tmp_path / "pet").exists()
    with edge.create("empty", filled.card) as empty, EdgeStore(tmp_path / "other").create("back", filled.card) as back:
        assert export(empty, tmp_path / "none").count == 0
        with Export(tmp_path / "none") as source:
            assert transfer(source, back).read == 0


def test_export__is_written_in_batches(filled, card, monkeypatch, tmp_path):
    monkeypatch.setattr(recordfile, "GROUP_ROWS", 8)
    scroll = filled.scroll
    monkeypatch.setattr(filled, "scroll", lambda where=(), **options: scroll(where, **{**options, "batch": 5}))
    export(filled, tmp_path / "out")
    assert pq.ParquetFile(tmp_path / "out/records.parquet").num_row_groups == 3
    with Export(tmp_path / "out") as source:
        assert max(len(page) for page in source.scroll(batch=7)) <= 7
        assert contents(source) == contents(filled)


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("the line is cut"), OSError(28, "No space left")])
def test_export__interrupted_leaves_what_was_there(exported, filled, monkeypatch, error, tmp_path):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(exports.RecordWriter, "append", broken)
    expected = SourceError if isinstance(error, OSError) else error if isinstance(error, type) else type(error)
    for folder in (exported, tmp_path / "new"):
        with pytest.raises(expected):
            export(filled, folder)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(SourceError, match=r"new is no export: it has no collection\.json, which is written last"):
        Export(tmp_path / "new")
    monkeypatch.undo()
    assert export(filled, exported).count == 30
    with Export(exported) as source:
        assert source.count() == 30


def test_export__killed_between_the_files_is_no_export(exported, whole, monkeypatch):
    monkeypatch.setattr(exports.ExportManifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(whole, exported)
    with pytest.raises(SourceError, match="is no export"):
        Export(exported)


def test_export__says_what_it_leaves_out_and_refuses_what_is_no_image(filled, tmp_path):
    first, second = sorted(contents(filled))[:2]
    filled.set_payloads({first: {"note": "x", "stars": 3}, second: {"note": "y"}})
    report = export(filled, tmp_path / "out")
    assert (report.count, report.left_out) == (30, {"note": 2, "stars": 1})
    assert "left out, fields that cbmir doesn't know: " in str(report)
    assert "note of 2" in str(report)
    filled.set_payloads({first: {"dataset": "another"}})
    with pytest.raises(StoreError, match=f"point {first} has another id than its data set and file path give"):
        export(filled, tmp_path / "strange")
    filled.set_payloads({first: {"dataset": "synthetic"}, second: {"width": "wide"}})
    with pytest.raises(SourceError, match="width holds a value that is no int64") as error:
        export(filled, tmp_path / "strange")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "strange").iterdir()) == []


@pytest.mark.parametrize("name", ["vectors.h5", "records.parquet", "collection.json"])
@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_export__follows_no_link_out_of_its_folder(filled, tmp_path, name, suffix):
    """Whoever can write to a folder could else have any file of the user overwritten."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    if name != "collection.json" or suffix:
        (out / (name + suffix)).symlink_to(precious)
    export(filled, out)
    assert precious.read_text() == "precious"
    assert sorted(path.name for path in out.iterdir()) == ["collection.json", "records.parquet", "vectors.h5"]
    assert not any(path.is_symlink() for path in out.iterdir())


def test_export__never_replaces_a_collection_of_a_store(filled):
    before = (filled.folder / "collection.json").read_bytes()
    with pytest.raises(SourceError, match="was not written by `cbmir collections export`; choose another folder"):
        export(filled, filled.folder)
    assert (filled.folder / "collection.json").read_bytes() == before


def test_export__from_and_to_a_server(memory, card, make_batch, tmp_path):
    with memory.create("eight", card) as collection:
        collection.upsert(make_batch(20))
        collection.upsert(batch_of([WHOLE, BARE], card))
        export(collection, tmp_path / "out")
        with Export(tmp_path / "out") as source, memory.create("back", card) as back:
            assert transfer(source, back).written == 22
            assert contents(back) == contents(collection)


def sealed(folder):
    """Make the checksums fit again, as somebody would who changes files by hand."""
    path = folder / "collection.json"
    data = json.loads(path.read_text())
    for name in data["files"]:
        seal = seal_of(folder / name)
        data["files"][name] = {"sha256": seal.sha256, "bytes": seal.bytes}
    path.write_text(json.dumps(data))


def records(change):
    def damage(folder):
        table = change(pq.read_table(folder / "records.parquet"))
        pq.write_table(table, folder / "records.parquet")

    return damage


def vectors(change):
    def damage(folder):
        with h5py.File(folder / "vectors.h5", "r+") as file:
            change(file)

    return damage


def described(**changes):
    def damage(folder):
        path = folder / "collection.json"
        data = json.loads(path.read_text())
        data.update(changes)
        path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))

    return damage


def foreign(folder):
    with h5py.File(folder / "vectors.h5", "w") as file:
        file["a.png"] = np.ones(8, np.float32)


def torn(folder):
    (folder / "records.parquet").write_bytes((folder / "records.parquet").read_bytes()[:-100])


def linked(folder):
    (folder / "vectors.h5").rename(folder.parent / "elsewhere.h5")
    (folder / "vectors.h5").symlink_to(folder.parent / "elsewhere.h5")


OTHER = external_card("other", 8)
DAMAGES = {
    "no vectors": (lambda folder: (folder / "vectors.h5").unlink(), r"can't read .*vectors\.h5: No such"),
    "no records": (lambda folder: (folder / "records.parquet").unlink(), r"can't read .*records\.parquet: No such"),
    "shorter": (torn, r"records\.parquet isn't as it was written: it has [\d,]+ bytes, not"),
    "one bit": (vectors(lambda file: file["vector"].__setitem__((0, 0), 2.0)), "its SHA-256 is [0-9a-f]{64}, not"),
    "not JSON": (lambda folder: (folder / "collection.json").write_text("{"), r"can't read .*collection\.json"),
    "a list": (lambda folder: (folder / "collection.json").write_text("[]"), "was not written by"),
    "later version": (described(version=2), "has version 2, this cbmir reads 1: update cbmir"),
    "no encoder": (described(encoder=None), r"is damaged \(KeyError"),
    "another fingerprint": (described(fingerprint="0" * 16), "doesn't have the fingerprint"),
    "files a list": (described(files=[]), "is damaged"),
    "a name that leads out": (
        described(files={"../../etc/passwd": {"sha256": "0", "bytes": 1}}),
        r"'\.\./\.\./etc/passwd' is no file name",
    ),
    "a name with a zero byte": (described(files={"a\0b": {"sha256": "0", "bytes": 1}}), "is no file name"),
    "a link": (linked, r"vectors\.h5 is no plain file"),
    "files missing": (described(files={}), r"doesn't tell of records\.parquet, vectors\.h5"),
    "another encoder": (
        described(encoder=OTHER.as_json(), fingerprint=OTHER.fingerprint),
        r"the encoder of .*vectors\.h5 is another than that of collection\.json",
    ),
}
MADE_TO_FIT = {
    "torn Parquet": (torn, r"can't read .*records\.parquet as Parquet"),
    "foreign HDF5": (foreign, r"vectors\.h5 is an HDF5 file of another layout"),
    "later HDF5": (vectors(lambda file: file.attrs.update(version=2)), "it has version 2, this cbmir reads 1"),
    "fewer records": (records(lambda table: table.slice(1)), r"vectors\.h5 has 32, records\.parquet 31"),
    "other order": (records(lambda table: table.take(list(range(31, -1, -1)))), "don't fit together: row 1 of"),
    "more columns": (
        records(lambda table: table.append_column("later", pa.array([1] * 32))),
        "has columns that this cbmir doesn't know: later",
    ),
    "no data set": (records(lambda table: table.drop_columns("dataset")), "dataset is missing"),
    "numbers as paths": (
        records(lambda table: table.set_column(1, "filepath", pa.array([1] * 32))),
        "filepath has another type",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_import__refuses_damage_before_anything_is_written(exported, damage, says):
    damage(exported)
    with pytest.raises(SourceError, match=says) as error:
        Export(exported)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "says"), MADE_TO_FIT.values(), ids=MADE_TO_FIT)
def test_import__refuses_what_doesnt_fit_together(exported, damage, says):
    damage(exported)
    sealed(exported)
    with pytest.raises(SourceError, match=says) as error:
        Export(exported)
    assert "\n" not in str(error.value)


def test_import__a_column_less_is_an_older_export(exported):
    records(lambda table: table.drop_columns("depth"))(exported)
    sealed(exported)
    with Export(exported) as source:
        payload = contents(source)[WHOLE.id][0]
    assert payload == {name: value for name, value in WHOLE.payload().items() if name != "depth"}


def test_import__extra_that_is_no_json(exported, memory):
    at = pq.read_schema(exported / "records.parquet").names.index("extra")
    records(lambda table: table.set_column(at, "extra", pa.array(["{"] * 32)))(exported)
    sealed(exported)
    wrong = pytest.raises(SourceError, match=r"records\.parquet is damaged: extra is no JSON")
    with Export(exported) as source, memory.create("x", source.card) as made, wrong:
        transfer(source, made)


def test_import__from_the_command_line(exported, shelf, card, tmp_path, cbmir):
    out, store = tmp_path / "again", tmp_path / "third"
    done = cbmir("collections", "export", "eight", "--store", shelf, "--out", out, "--modality", "CT", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["count"], report["left_out"], report["folder"]) == (10, {}, str(out))
    done = cbmir("collections", "import", out, "--store", store, "--as", "half", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 10
    done = cbmir("collections", "import", exported, "--store", store, "--as", "half")
    assert done.stdout == "half: read 32 = written 22 + same already 10; 32 read back and compared\n"
    done = cbmir("collections", "import", exported, "--store", store)
    assert "eight: read 32 = written 32" in done.stdout
    shown = cbmir("collections", "show", "eight", "--store", store, "--json")
    assert (json.loads(shown.stdout)["points"], json.loads(shown.stdout)["fingerprint"]) == (32, card.fingerprint)
    EdgeStore(store).create("other", external_card("other", 8)).close()
    for arguments in (
        ("import", exported, "--store", store, "--as", "other"),
        ("import", tmp_path / "nothing", "--store", store),
        ("import", store / "eight", "--store", store),
        ("export", "nine", "--store", shelf, "--out", out),
        ("export", "eight", "--store", shelf, "--out", exported / "vectors.h5"),
    ):
        wrong = cbmir("collections", *arguments)
        assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1), wrong.stderr


def test_import__another_encoder_is_refused(exported, memory):
    wrong = pytest.raises(FingerprintError, match="they differ in name")
    with Export(exported) as source, memory.create("other", OTHER) as other, wrong:
        transfer(source, other)


def test_export__also_goes_through_ingest_embeddings(exported, whole, tmp_path, cbmir):
    """What is lost that way is `extra`, but for the id, and what is known of the pixel file."""
    arguments = ("--table", exported / "records.parquet", "--encoder", "eight", "--store", tmp_path / "third")
    done = cbmir("ingest", "embeddings", exported / "vectors.h5", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["stored"], report["failed"], report["without_row"]) == (32, 0, 0)
    of_file = ("sha256", "width", "height", "depth", "extra")
    with EdgeStore(tmp_path / "third").open("eight") as collection:
        back = contents(collection)
    for id, (payload, vector) in contents(whole).items():
        kept = {name: value for name, value in payload.items() if name not in of_file}
        assert back[id] == ({**kept, "extra": {"id": id}}, vector)
