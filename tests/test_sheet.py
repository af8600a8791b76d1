"""Contact sheets: what is drawn of which file, in every form, and what is asked for before the work starts."""

import csv
import gzip
import json
import re
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import nrrd
import numpy as np
import pytest
from pictures import write_picture
from PIL import Image, ImageOps
from test_volumes import CROP, body, write_volume

from cbmir.encoders import get
from cbmir.encoders.pixels import PixelEncoder
from cbmir.errors import CollectionError, ImageError, SourceError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.ingest import ingest_images, open_source
from cbmir.media import Asset
from cbmir.schema import EmbeddedBatch, Hit, ImageRecord, normalise
from cbmir.search import Answer, Options, Searcher
from cbmir.search.layout import FONT_PX, GAP_PX, HITS_A_LINE, LINE_PX, TILE_PX, cut, wrapped
from cbmir.search.sheet import MAX_HITS, MAX_ROWS, SheetTerms, draw_sheet
from cbmir.search.shelf import Shelf
from cbmir.store import open_store

pytestmark = pytest.mark.slow

TOP = LINE_PX + 2 * GAP_PX
LABELS = ("XR/chest/pneumonia", "CT/lung/nodule", "")


def fill(folder, dataset, count, seed=0, store=None):
    """Pictures images/N.png in a folder of their own, into collection `pixels`; the last of three has no label."""
    rows = []
    for number in range(count):
        write_picture(folder / f"images/{number}.png", seed + number)
        rows.append([f"images/{number}.png", dataset, LABELS[number % 3], f"p{number}" if number % 2 else ""])
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["filepath", "dataset", "labels", "patient_id"], *rows])
    encoder = get("pixels")
    with open_store(store or folder / "store") as opened, opened.open_or_create("pixels", encoder.card) as collection:
        ingest_images(open_source(table), encoder, collection, 1)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two data sets whose files have the same names, each in a folder of its own, in one collection."""
    place = tmp_path_factory.mktemp("archive")
    fill(place / "one", "one", 9, 0, place / "store")
    fill(place / "two", "two", 9, 100, place / "store")
    return place


@pytest.fixture
def searcher(archive):
    with Searcher(archive / "store") as opened:
        yield opened


def tile(path, row=0, column=0):
    """The pixels of a tile of a PNG without captions, whose queries take one line each."""
    with Image.open(path) as sheet:
        drawn = np.asarray(sheet.convert("RGB"))
    left = GAP_PX + column * (TILE_PX + GAP_PX)
    assert row == 0
    return drawn[TOP : TOP + TILE_PX, left : left + TILE_PX]


def shown(image):
    """How an image fills a tile."""
    small = ImageOps.contain(image.convert("RGB"), (TILE_PX, TILE_PX))
    square = Image.new("RGB", (TILE_PX, TILE_PX))
    square.paste(small, ((TILE_PX - small.width) // 2, (TILE_PX - small.height) // 2))
    return np.asarray(square)


def texts(svg):
    """All texts of an SVG, in the order in which they are drawn."""
    root = ElementTree.parse(svg).getroot()
    return ["".join(item.itertext()).strip() for item in root.iter() if item.tag.endswith("}text")]


def test_draw_sheet__draws_the_very_images_of_each_data_set(archive, searcher, tmp_path):
    query = archive / "one/images/4.png"
    (answer,) = searcher.images([query], Options(k=5))
    assert len({hit.payload["dataset"] for hit in answer.hits}) == 2
    drawn = draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / "sheets/out.png"))
    assert (drawn.rows, drawn.hits, drawn.left_out, drawn.missing) == (1, 5, 0, {})
    assert np.array_equal(tile(tmp_path / "sheets/out.png"), shown(Image.open(query)))
    for hit in answer.hits:
        own = Image.open(archive / hit.payload["dataset"] / hit.payload["filepath"])
        assert np.array_equal(tile(tmp_path / "sheets/out.png", column=hit.rank), shown(own))


def test_draw_sheet__is_what_its_name_says(searcher, tmp_path):
    answers = [searcher.like("one/images/0.png", Options(k=8))]
    beginnings = {"png": b"\x89PNG", "jpg": b"\xff\xd8\xff", "jpeg": b"\xff\xd8\xff", "PDF": b"%PDF-", "svg": b"<?xml"}
    for form, beginning in beginnings.items():
        for name in (f"a.{form}", f"b.{form}"):
            draw_sheet(answers, Shelf(searcher.collection), SheetTerms(path=tmp_path / name, title="A $title$"))
        assert (tmp_path / f"a.{form}").read_bytes().startswith(beginning)
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    words = texts(tmp_path / "a.svg")
    assert words[0] == "A $title$"
    ranks = [int(found[1]) for word in words if (found := re.match(r"(\d+)\.\s+cosine", word))]
    assert ranks == list(range(1, 9))
    content = (tmp_path / "a.PDF").read_bytes()
    assert content.count(b"/Subtype /Image") == 9
    assert b"/FontFile2" in content
    svg = (tmp_path / "a.svg").read_text()
    assert svg.count("data:image/png;base64") == 9


@pytest.mark.parametrize("name", ["out", "out.gif", "out.html", "out.pdf.txt"])
def test_sheet_terms__another_ending_names_the_choices(tmp_path, name):
    with pytest.raises(SourceError, match=rf"'{name}'.*\.png, \.jpg, \.jpeg, \.svg or \.pdf"):
        SheetTerms(path=tmp_path / name)


def test_sheet_terms__refuse_captions_and_folders(tmp_path):
    with pytest.raises(SourceError, match="no caption 'name'; there are filename, patient, dataset"):
        SheetTerms(path=tmp_path / "a.png", captions=("name",))
    (tmp_path / "b.png").mkdir()
    with pytest.raises(SourceError, match="folder"):
        SheetTerms(path=tmp_path / "b.png")


def test_draw_sheet__captions_stand_below_hits_in_their_order(searcher, tmp_path):
    answer = searcher.like("one/images/1.png", Options(k=17))
    for captions in ((), ("dataset", "filename", "patient")):
        draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.svg", captions=captions))
        words = texts(tmp_path / "a.svg")
        for hit in answer.hits:
            at = next(place for place, word in enumerate(words) if word.startswith(f"{hit.rank}.  cosine"[:3]))
            patient = hit.payload.get("patient_id", "unknown")
            below = [f"dataset {hit.payload['dataset']}", hit.payload["filepath"][7:], f"patient {patient}"]
            assert (words[at + 2 : at + 5] == below) == bool(captions)


def test_draw_sheet__a_row_has_six_hits(searcher, tmp_path):
    sizes = {}
    for k in (3, 6, 7, 12, 13):
        answer = searcher.like("one/images/1.png", Options(k=k))
        draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / f"{k}.png"))
        with Image.open(tmp_path / f"{k}.png") as sheet:
            sizes[k] = sheet.size
    assert HITS_A_LINE == 6
    assert {sizes[k][0] for k in (6, 7, 12, 13)} == {GAP_PX + 7 * (TILE_PX + GAP_PX)}
    assert sizes[3][0] < sizes[6][0]
    assert sizes[6][1] < sizes[7][1] == sizes[12][1] < sizes[13][1]
    last = tile(tmp_path / "7.png", column=6)
    assert last.std() > 20


def colours(svg):
    """The colour of the label below each hit."""
    found = {}
    for item in ElementTree.parse(svg).getroot().iter():
        if item.tag.endswith("}text"):
            found["".join(item.itertext()).strip()] = re.search(r"fill: (#\w+)", item.get("style", ""))
    return {text: match and match[1] for text, match in found.items()}


def test_draw_sheet__hits_without_labels_are_grey(tmp_path):
    fill(tmp_path / "made", "made", 4)
    with Searcher(tmp_path / "made/store") as searcher:
        for name, expected in (("images/0.png", {"✓ XR/chest/pneumonia", "✗ CT/lung/nodule"}), ("images/2.png", {
            "XR/chest/pneumonia", "CT/lung/nodule"
        })):  # fmt: skip
            answer = searcher.like(name)
            draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.svg"))
            drawn = colours(tmp_path / "a.svg")
            assert expected <= drawn.keys()
            assert ("no label" in drawn) == (name == "images/0.png")
            if name == "images/0.png":
                assert len({drawn[text] for text in (*expected, "no label")}) == 3
                assert drawn["no label"] == drawn["grey: without labels, so neither"] == "#666666"


def test_draw_sheet__a_missing_or_another_image_is_an_error_unless_allowed(tmp_path):
    place = fill(tmp_path / "made", "made", 4)
    (place / "images/1.png").unlink()
    write_picture(place / "images/2.png", 55)
    with Searcher(place / "store") as searcher:
        answer, shelf = searcher.like("images/0.png"), Shelf(searcher.collection)
        with pytest.raises(ImageError, match=r"images/[12]\.png can't be drawn.*1 more.*--root.*--allow-missing"):
            draw_sheet([answer], shelf, SheetTerms(path=tmp_path / "a.png"))
        assert not (tmp_path / "a.png").exists()
        drawn = draw_sheet([answer], shelf, SheetTerms(path=tmp_path / "a.png", allow_missing=True))
        assert drawn.missing == {
            str(place / "images/1.png"): "No such file or directory",
            str(place / "images/2.png"): "is another file than the one that was stored",
        }
    assert (tmp_path / "a.png").exists()


def test_draw_sheet__a_vector_has_no_image_and_lacks_none(searcher, tmp_path):
    answer = Answer("v.npy row 0", searcher.like("one/images/0.png", Options(k=2)).hits)
    drawn = draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.svg"))
    assert drawn.missing == {}
    assert {"a vector without an image", "v.npy row 0"} <= set(texts(tmp_path / "a.svg"))


def test_draw_sheet__what_is_too_much_is_left_out_and_counted(searcher, tmp_path):
    hit = searcher.like("one/images/0.png", Options(k=1)).hits[0]
    many = Answer("q", tuple(Hit(hit.id, 0.5, rank, hit.payload) for rank in range(1, MAX_HITS + 6)))
    drawn = draw_sheet([many], Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.png"))
    assert (drawn.rows, drawn.hits, drawn.left_out) == (1, MAX_HITS, 5)
    few = [Answer("q", (hit,))] * (MAX_ROWS + 2)
    assert draw_sheet(few, Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.pdf")).rows == MAX_ROWS
    assert (tmp_path / "a.pdf").read_bytes().count(b"/Type /Page ") > 5


def test_draw_sheet__volumes_of_every_format(tmp_path):
    """Middle slices, in the window of the encoder; the record says nothing of the format."""
    how = CROP
    values = [body(seed) for seed in range(4)]
    write_volume(tmp_path / "ct/0.nii.gz", values[0])
    affine = np.diag([1.2, 1.1, 2.5, 1.0])
    nibabel.save(nibabel.MGHImage(values[1].astype(np.float32), affine), tmp_path / "ct/1.mgz")
    header = {"space": "right-anterior-superior", "space directions": affine[:3, :3], "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "ct/2.nrrd"), values[2], header)
    (tmp_path / "ct/3.nii").write_bytes(gzip.decompress(write_volume(tmp_path / "x.nii.gz", values[3]).read_bytes()))
    encoder = PixelEncoder(EncoderCard("scans", int(np.prod(how.input_voxels)), "none", how.as_json()), how, 1)
    with open_store(tmp_path / "store") as store, store.create("scans", encoder.card) as collection:
        report = ingest_images(open_source(tmp_path / "ct"), encoder, collection, 1)
        assert (report.stored, report.failures) == (4, [])
    with Searcher(tmp_path / "store") as searcher:
        answer = searcher.like("0.nii.gz")
        draw_sheet([answer], Shelf(searcher.collection), SheetTerms(path=tmp_path / "a.png"))
        for column, name in enumerate(["0.nii.gz", *(hit.payload["filepath"] for hit in answer.hits)]):
            drawn = tile(tmp_path / "a.png", column=column)
            assert np.array_equal(drawn, shown(Asset(tmp_path / "ct" / name).render(encoder.card.window_hu)))
            assert drawn.std() > 20


# where the images are


def test_ingest__remembers_where_each_data_set_was_read(archive):
    metadata = json.loads((archive / "store/pixels/collection.json").read_text())
    assert metadata["roots"] == {name: [str((archive / name).absolute())] for name in ("one", "two")}


def test_ingest__the_folder_read_last_comes_first(tmp_path, monkeypatch):
    place = fill(tmp_path / "made", "made", 3)
    (place / "store").rename(tmp_path / "store")
    place.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    encoder = get("pixels")
    with open_store(Path("store")) as store, store.open("pixels") as collection:
        assert ingest_images(open_source(Path("moved/table.csv")), encoder, collection, 1).skipped == 3
        assert collection.roots == {"made": [str(tmp_path / "moved"), str(tmp_path / "made")]}
        asset = Shelf(collection).asset({"filepath": "images/1.png", "dataset": "made"})
        assert asset.path == tmp_path / "moved/images/1.png"


def test_backup_and_export__have_no_folders_of_this_machine(archive, tmp_path, cbmir):
    for words in (
        ("snapshot", "pixels", "--out", tmp_path / "backup"),
        ("export", "pixels", "--out", tmp_path / "out"),
    ):
        done = cbmir("collections", *words, "--store", archive / "store")
        assert done.returncode == 0, done.stderr
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or str(archive).encode() not in path.read_bytes()
    (tar,) = tmp_path.rglob("*.tar.gz")
    with tarfile.open(tar) as files:
        assert "roots" not in json.load(files.extractfile("collection.json"))
    assert cbmir("collections", "restore", tmp_path / "backup", "--store", tmp_path / "new").returncode == 0
    with open_store(tmp_path / "new") as store, store.open("pixels") as collection:
        assert (collection.count(), collection.roots) == (18, {})


def elsewhere(tmp_path, dataset="d"):
    """A collection of vectors made elsewhere, whose images nobody has read here."""
    card = external_card("somebody", 4)
    records = tuple(ImageRecord(filepath=f"{n}.png", dataset=dataset) for n in range(4))
    with open_store(tmp_path / "store") as store, store.create("somebody", card) as collection:
        collection.upsert(EmbeddedBatch(records, normalise(np.eye(4, dtype=np.float32)), card.fingerprint))
    return tmp_path / "store"


def test_check__asks_for_a_folder_that_holds_the_images(tmp_path):
    location = elsewhere(tmp_path)
    with open_store(location) as store, store.open("somebody") as collection:
        with pytest.raises(SourceError, match="doesn't know where the images of data set d are: give --root FOLDER"):
            Shelf(collection).check()
        with pytest.raises(SourceError, match=r"none of 4 images of data set d is there.*--root"):
            Shelf(collection, tmp_path).check()
        with pytest.raises(SourceError, match=r"--root .*nowhere is not a folder"):
            Shelf(collection, tmp_path / "nowhere")
        collection.remember(tmp_path / "gone", ["d"])
        with pytest.raises(SourceError, match=r"were read from .*gone, which is not there now: give --root"):
            Shelf(collection).check()
        write_picture(tmp_path / "2.png", 2)
        Shelf(collection, tmp_path).check()


def test_command__asks_for_the_folder_before_the_search(archive, tmp_path, cbmir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    location = elsewhere(tmp_path)
    np.save(tmp_path / "v.npy", np.eye(4)[:1])
    words = ("search", "vector", tmp_path / "v.npy", "--store", location, "--sheet", tmp_path / "a.pdf")
    for more, code, remedy in (((), 1, "give --root FOLDER"), (("--sheet", "a.gif"), 1, ".png, .jpg, .jpeg, .svg")):
        done = cbmir(*words, *more)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert remedy in done.stderr
    allowed = cbmir(*words, "--allow-missing")
    assert allowed.returncode == 0
    assert "1 of 1 query drawn to" in allowed.stderr
    assert "4 images could not be drawn" in allowed.stderr


def test_command__what_only_a_sheet_has_needs_one(archive, cbmir):
    for option in (("--root", "."), ("--caption", "patient"), ("--allow-missing",)):
        done = cbmir("search", "like", "one/images/1.png", "--store", archive / "store", *option)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{option[0]} is for a sheet: give --sheet FILE too" in done.stderr


# copies of the query


def test_images__exclude_self_leaves_out_every_copy_of_the_query(tmp_path, cbmir):
    place = tmp_path / "made"
    write_picture(place / "images/copy.png", 1)  # the same bytes as images/1.png
    fill(place, "made", 4)
    with open_store(place / "store") as store, store.open("pixels") as collection:
        ingest_images(open_source(place / "images"), get("pixels"), collection, 1)
    with Searcher(place / "store") as searcher:
        assert searcher.collection.count() == 9
        for way in ("auto", "exact", "approximate"):
            hits = searcher.image(place / "images/1.png", Options(k=9, exclude_self=True, way=way))
            assert len(hits) == 6
            assert {hit.payload["filepath"].rpartition("/")[2] for hit in hits} == {"0.png", "2.png", "3.png"}
    done = cbmir("search", "image", place / "images/1.png", "--store", place / "store", "--exclude-self", "--json")
    assert len(json.loads(done.stdout)[0]["hits"]) == 6


def test_images__exclude_self_needs_hashes(tmp_path):
    encoder = get("pixels")
    vectors = encoder.embed(np.zeros((1, 32, 32, 1), np.float32) + np.eye(32, dtype=np.float32)[None, :, :, None])
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        record = ImageRecord(filepath="a.png", dataset="d")
        collection.upsert(EmbeddedBatch((record,), vectors, encoder.card.fingerprint))
    query = write_picture(tmp_path / "q.png", 1)
    with Searcher(tmp_path / "store") as searcher, pytest.raises(CollectionError, match="no hashes of image files"):
        searcher.image(query, Options(exclude_self=True))


# texts


def test_cut__is_never_wider_and_keeps_ends():
    assert cut("short.png") == "short.png"
    long = "a_very_long_name_of_a_file_" * 4 + "00017.png"
    assert cut(long).startswith("a_very_long")
    assert cut(long).endswith("…")
    assert cut(long, keep="ends").endswith("17.png")
    assert "…" in cut(long, keep="ends")
    assert len(cut(long)) < TILE_PX / FONT_PX * 2.5


def test_wrapped__breaks_where_words_end():
    lines = wrapped("MR/abdomen/hepatocellular_carcinoma_with_extension, MR/abdomen/ascites", 2)
    assert len(lines) == 2
    assert lines[0][-1] in "/_,"
    assert lines[1].endswith("…")
    assert wrapped("", 2) == [""]
    assert wrapped("one", 3) == ["one"]
    assert len(wrapped("x" * 500, 4)) == 4
