"""cbmir in a notebook: connect, load an encoder, ingest, search, evaluate."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pictures import environment, pixels, write_table
from PIL import Image

import cbmir as package
from cbmir.errors import (
    CbmirError,
    CollectionError,
    FilterError,
    ImageError,
    ProtocolError,
    QueryError,
    SourceError,
    StoreError,
)
from cbmir.filters import parse, parse_all
from cbmir.media import Asset
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

COUNT = 60


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    write_table(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def encoder():
    return package.load_encoder("pixels")


@pytest.fixture(scope="module")
def store(archive, encoder):
    with package.connect(archive / "store") as store:
        report = store.ingest(archive / "table.csv", encoder, progress=False)
        assert (report.stored, report.failed) == (COUNT, 0)
        yield store


@pytest.fixture
def collection(store):
    return store["pixels"]


def test_import__loads_nothing_heavy():
    code = (
        "import sys, cbmir; cbmir.connect; cbmir.errors.CbmirError; cbmir.evaluate\n"
        "print([name for name in ('torch', 'pandas', 'timm', 'open_clip', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.strip() == "[]"


def test_import__says_what_there_is():
    assert {"connect", "load_encoder", "evaluate", "errors"} <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'conect'; there are connect, errors"):
        _ = package.conect


def test_store__is_a_mapping(store):
    assert list(store) == ["pixels"]
    assert len(store) == 1
    assert "pixels" in store
    assert "other" not in store
    assert store["pixels"] is store["pixels"]
    assert "pixels" in repr(store)
    with pytest.raises(CollectionError, match=r"no collection 'other' in .*; there are pixels"):
        _ = store["other"]


def test_ingest__prints_how_the_source_is_read(archive, encoder, tmp_path, capfd):
    with package.connect(tmp_path / "new") as store:
        store.ingest(archive / "images", "pixels", collection="folder", dataset="mine")
        assert "patients: 0" in capfd.readouterr().err
        assert store["folder"].values("dataset") == {"mine": COUNT}


def test_ingest__a_data_frame(archive, encoder, tmp_path):
    frame = pd.read_csv(archive / "table.csv").assign(scanner=["a", "b"] * (COUNT // 2))
    with package.connect(tmp_path / "new") as store:
        report = store.ingest(frame.head(20), encoder, root=archive, progress=False)
        assert report.stored == 20
        again = store.ingest(frame.head(21), encoder, root=archive, progress=False)
        assert (again.stored, again.skipped) == (1, 20)
        assert len(store["pixels"]) == 21
        assert store["pixels"].count("scanner=a") == 11
    assert "read 20 = stored 20" in repr(report)


def test_ingest__shows_failures(archive, encoder, tmp_path):
    frame = pd.read_csv(archive / "table.csv").head(3)
    frame.loc[1, "filepath"] = "images/gone.png"
    with package.connect(tmp_path / "new") as store:
        report = store.ingest(frame, encoder, root=archive, progress=False)
    assert report.failed == 1
    assert "failed: images/gone.png" in repr(report)


@pytest.mark.parametrize("form", ["path", "text", "bytes", "image", "array", "vector", "id", "name"])
def test_search__takes_a_query_in_any_form(collection, archive, encoder, form):
    path = archive / "images" / "00007.png"
    everyone = {"exclude_same_patient": False}
    stored = next(iter(collection.search(path, k=1, **everyone)))
    query = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "image": Image.open(path),
        "array": pixels(7),
        "vector": encoder.encode(path),
        "id": stored.id,
        "name": "images/00007.png",
    }[form]
    result = collection.search(query, k=3, **everyone)
    expected = collection.search(path, k=4, **everyone)
    if form in ("id", "name"):
        assert [hit.id for hit in result] == [hit.id for hit in expected][1:]
    else:
        assert [(hit.id, hit.score) for hit in result] == [(hit.id, pytest.approx(hit.score)) for hit in expected][:3]


def test_search__several_images_at_once(collection, archive):
    paths = [archive / "images" / f"{number:05d}.png" for number in (1, 2)]
    result = collection.search(paths, k=2, exclude_same_patient=False)
    assert len(result) == 4
    assert [answer.query for answer in result.answers] == [str(path) for path in paths]
    frame = result.to_pandas()
    assert frame["query"].tolist() == [str(path) for path in paths for _ in range(2)]
    assert frame["filepath"].tolist()[::2] == ["images/00001.png", "images/00002.png"]


@pytest.mark.parametrize(
    "where", ["modality=CT and split=train", ["modality=CT", "split=train"], ("modality=ct", "split=train")]
)
def test_search__narrowed(collection, archive, where):
    result = collection.search(archive / "images" / "00000.png", where=where, k=50, exclude_same_patient=False)
    assert {(hit.payload["modality"], hit.payload["split"]) for hit in result} == {("CT", "train")}
    assert len(result) == collection.count("modality=CT and split=train")


def test_search__a_result_in_a_notebook(collection, archive, tmp_path):
    result = collection.search(archive / "images" / "00003.png", k=6)
    assert result[0].rank == 1
    assert "images/00003.png" in repr(result)
    assert result._repr_html_().startswith("<pre>")
    sheet = result.sheet(tmp_path / "sheet.png")
    assert Image.open(sheet).width > 100
    other = collection.search(pixels(3), k=2).sheet(tmp_path / "sheet.svg")
    assert b"<svg" in other.read_bytes()


def test_search__nothing_found_is_an_empty_frame(collection, archive):
    result = collection.search(archive / "images" / "00003.png", where=["modality=CT", "modality=MR"])
    assert result.to_pandas().columns.tolist() == ["query", "rank", "score", "id", "way"]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda c, _: c.search("nowhere.png"), CollectionError, "there is no file 'nowhere.png', and no image"),
        (lambda c, _: c.search(b"no picture"), ImageError, "^image "),
        (lambda c, _: c.search(np.zeros(3)), CollectionError, r"has the shape \(3,\); collection pixels is asked with"),
        (lambda c, _: c.search(np.zeros((3, 3, 3, 3))), ImageError, r"array of shape \(3, 3, 3, 3\)"),
        (lambda c, _: c.search(pixels(1), where="modalty=CT"), FilterError, "did you mean modality"),
        (lambda c, _: c.count("age_years=three"), FilterError, "age_years"),
        (lambda c, _: c.search(pixels(1), k="5"), QueryError, "k is '5'; ask for 1 hit or more"),
        (lambda c, _: c.search(pixels(1), k=1.5), QueryError, "k is 1.5"),
        (lambda c, _: c.values("age_years"), FilterError, "values of age_years can't be counted; those of .*modality"),
        (lambda c, _: c.values("modalty"), FilterError, "did you mean modality"),
        (lambda c, _: package.evaluate.retrieval(c, querys="x"), ProtocolError, "did you mean queries"),
        (lambda _, e: e.encode(["nowhere.png"]), ImageError, r"image 0 \(nowhere.png\) "),
        (lambda _, e: e.encode([pixels(1), b""]), ImageError, "^image 1 "),
        (lambda _, e: e.encode_text("words"), CbmirError, "text"),
        (lambda c, _: package.evaluate.retrieval(c, query="x"), ProtocolError, "no argument 'query'; .* queries"),
        (lambda c, _: package.evaluate.retrieval(c, measures="precison"), ProtocolError, "there are precision_capped"),
        (lambda c, _: package.evaluate.retrieval(c, k=0), ProtocolError, "k is 0"),
        (lambda _, e: package.evaluate.retrieval(e), ProtocolError, "is no collection"),
        (lambda c, _: package.evaluate.compare([c]), ProtocolError, "two collections or more, got 1"),
        (lambda c, _: package.evaluate.compare([c, c], by="sex"), ProtocolError, "by has no part"),
        (lambda c, _: package.evaluate.probe(c, exclude="study"), ProtocolError, "exclude has no part"),
        (lambda c, _: package.evaluate.sweep(c, sizes="half"), ProtocolError, "half"),
        (lambda *_: package.load_encoder("nothing"), CbmirError, "nothing"),
    ],
)  # fmt: skip
def test_errors__name_what_is_wrong(collection, encoder, call, error, text):
    with pytest.raises(error, match=text):
        call(collection, encoder)


def test_close__what_is_asked_afterwards_is_an_error_that_says_so(tmp_path, archive):
    other = package.connect(tmp_path / "store")
    other.ingest(archive / "images", encoder="pixels")
    closed = other["pixels"]
    assert closed.count() > 0
    other.close()
    with pytest.raises(StoreError, match="is closed: open it again"):
        closed.count()


def test_encode__as_ingest_does(collection, archive, encoder):
    paths = [archive / "images" / f"{number:05d}.png" for number in range(5)]
    vectors = encoder.encode(
        [paths[0], str(paths[1]), paths[2].read_bytes(), Image.open(paths[3]), pixels(4)], batch_size=2
    )
    assert vectors.shape == (5, encoder.dim)
    assert vectors.dtype == np.float32
    found = [next(iter(collection.search(vector, k=1))) for vector in vectors]
    assert [hit.payload["filepath"] for hit in found] == [f"images/{number:05d}.png" for number in range(5)]
    assert [hit.score for hit in found] == pytest.approx([1.0] * 5)
    np.testing.assert_array_equal(encoder.encode(paths[0]), vectors[0])
    assert encoder.encode([]).shape == (0, encoder.dim)


ANALYSES = {
    "retrieval": (
        lambda c: package.evaluate.retrieval(c, k=[1, 5], draws=20),
        "-k 1 -k 5 --draws 20 --search exact",
    ),
    "retrieval of some": (
        lambda c: package.evaluate.retrieval(
            c, queries="split=test|val", where="modality=CT|MR", exclude=[], by="dataset", draws=0, k=2
        ),
        "--queries split=test|val --where modality=CT|MR --include-same-patient --by dataset --draws 0 -k 2 "
        "--search exact",
    ),
    "classify": (lambda c: package.evaluate.classify(c, draws=20, max_k=5), "--draws 20 --max-k 5"),
    "probe": (
        lambda c: package.evaluate.probe(c, draws=20, paper=True, epochs=3),
        "--draws 20 --protocol paper --epochs 3",
    ),
    "audit": (lambda c: package.evaluate.audit(c, k=3), "-k 3"),
    "sweep": (
        lambda c: package.evaluate.sweep(c, sizes=["50%", "100%"], k=1, draws=20),
        "--size 50% --size 100% -k 1 --draws 20",
    ),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_evaluate__gives_what_the_command_gives(store, collection, cbmir, name):
    call, options = ANALYSES[name]
    result = call(collection)
    place = ("--store", store.core.location, "--collection", "pixels")
    done = cbmir("evaluate", name.split()[0], *place, "--json", *options.split())
    assert done.returncode == 0, done.stderr
    assert json.loads(json.dumps(result.as_json())) == json.loads(done.stdout)
    assert repr(result) == result.table()
    assert "<pre>" in result._repr_html_()
    frame = result.to_pandas()
    assert len(frame) > 0
    if name.startswith("retrieval"):
        assert frame["collection"].unique().tolist() == ["pixels"]
        assert len(frame) == len(result.rows)


def test_evaluate__recall_compare_and_report(store, collection, encoder, archive, tmp_path):
    recall = package.evaluate.recall(collection, count=20)
    assert recall.to_pandas()["recall"].min() == pytest.approx(1.0)
    store.ingest(archive / "table.csv", encoder, collection="twin", progress=False)
    comparison = package.evaluate.compare([collection, store["twin"]], k=[1, 3], draws=50)
    frame = comparison.to_pandas()
    assert frame["difference"].tolist() == [0.0] * len(frame)
    assert set(frame["first"]) | set(frame["second"]) == {"pixels", "twin"}
    made = package.evaluate.report(store, ["pixels", "twin"], out=tmp_path / "page", draws=20, pictures=1)
    assert {"pixels", "twin"} == set(made.to_pandas()["collection"])
    assert "<html" in (tmp_path / "page" / "report.html").read_text()


def test_connect__two_openings_in_one_process_share_a_collection(archive, store, collection, cbmir_process):
    with package.connect(archive / "store") as other:
        assert other["pixels"].core is collection.core
        link = archive / "link"
        link.symlink_to(archive / "store")
        with package.connect(link) as third:
            assert len(third["pixels"]) == COUNT
    assert len(collection) == COUNT  # still open
    done = cbmir_process("search", "like", "images/00001.png", "--store", archive / "store", "--collection", "pixels")
    assert "in use by another process" in done.stderr


def test_close__lets_others_in_when_all_have_closed(tmp_path, card, make_batch, cbmir_process):
    with EdgeStore(tmp_path).create("eight", card) as made:
        made.upsert(make_batch(9))
    one, two = EdgeStore(tmp_path).open("eight"), EdgeStore(tmp_path).open("eight")
    assert one is two
    one.close()
    two.upsert(make_batch(3, first=9))
    assert cbmir_process("collections", "drop", "eight", "--yes", "--store", tmp_path).returncode == 1
    two.close()
    done = cbmir_process("collections", "show", "eight", "--store", tmp_path, "--json")
    assert json.loads(done.stdout)["points"] == 12


def _jpeg_turned():
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(5)).save(made, "JPEG", exif=exif)
    return Image.open(io.BytesIO(made.getvalue())), made.getvalue()


def _saved(image, form="PNG"):
    made = io.BytesIO()
    image.save(made, form)
    return image, made.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        _jpeg_turned,
        lambda: _saved(Image.fromarray(pixels(1))),
        lambda: _saved(Image.fromarray(pixels(1).astype(np.uint16) * 200)),
        lambda: _saved(Image.fromarray(np.dstack([pixels(1), pixels(2), pixels(3)]))),
        lambda: _saved(Image.fromarray(np.dstack([pixels(1), pixels(2), pixels(3), pixels(4)]))),
        lambda: _saved(Image.fromarray(pixels(1)).convert("P")),
        lambda: _saved(Image.fromarray(pixels(1)).convert("1")),
        lambda: _saved(Image.fromarray(pixels(1).astype(np.float32) - 100), "TIFF"),
        lambda: _saved(Image.fromarray(np.dstack([pixels(1), pixels(2), pixels(3)])).convert("CMYK"), "TIFF"),
    ],
)
def test_asset__of_a_pillow_image_is_that_of_its_file(make):
    image, file = make()
    np.testing.assert_array_equal(np.asarray(Asset.of(image).image), np.asarray(Asset(file).image))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.float32, np.float64])
def test_asset__of_an_array(kind):
    array = pixels(1).astype(kind) if kind is not bool else pixels(1) > 100
    expected = np.asarray(Asset.of(Image.fromarray(array.astype(np.float32) if kind is np.float64 else array)).image)
    shown = np.asarray(Asset.of(array).image)
    np.testing.assert_array_equal(shown, expected)
    assert shown.shape == (48, 40, 3)
    assert shown.std() > 10


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["sex=F and age_years<60"], ["sex=F", "age_years<60"]),
        (["sex=F AND  age_years<60 and split=test"], ["sex=F", "age_years<60", "split=test"]),
        (["note=fluid and air"], ["note=fluid and air"]),
        (["note=fluid and air and sex=F"], ["note=fluid and air", "sex=F"]),
        (['"Age and sex"=1 and sex=F'], ['"Age and sex"=1', "sex=F"]),
        (["modality=CT|MR", "sex=F and split=test"], ["modality=CT|MR", "sex=F", "split=test"]),
        ([], []),
    ],
)
def test_parse_all__conditions_joined_by_and(texts, expected):
    assert parse_all(*texts) == tuple(parse(text) for text in expected)


def test_ingest__of_which_nothing_could_be_stored_is_an_error(archive, encoder, tmp_path):
    frame = pd.read_csv(archive / "table.csv").head(3)
    frame["filepath"] = "gone/" + frame["filepath"]
    with package.connect(tmp_path / "new") as store:
        with pytest.raises(SourceError, match=r"nothing was stored, 3 images failed: gone/images/00000\.png: No such"):
            store.ingest(frame, encoder, root=archive, progress=False)
        assert list(store) == []
