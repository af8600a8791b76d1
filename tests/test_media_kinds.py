"""A kind of file that one module adds and one source finds: everything that reads images takes it as it is."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import environment, pixels
from PIL import Image, ImageOps
from stacks import KIND, StackSource, write_stack

from cbmir.collections.prune import prune
from cbmir.doctor import check_program
from cbmir.encoders import get
from cbmir.errors import ImageError
from cbmir.evaluate.analyses.report.report import make_report
from cbmir.evaluate.analyses.report.terms import ReportTerms
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.reindex.reindex import StoredSource
from cbmir.ingest.thumbnails.existing import set_thumbnails
from cbmir.ingest.thumbnails.place import open_place
from cbmir.media import Asset, Decoded, expected_kind, register, split_key, stored_asset, thumbnail, unregister
from cbmir.root import Root
from cbmir.search import Options, Searcher
from cbmir.search.sheet import SheetTerms, draw_sheet
from cbmir.search.shelf import Shelf
from cbmir.store import open_store

FILES, FRAMES = 4, 3
BASE = "https://images.example.org"


@pytest.fixture(autouse=True)
def stacks():
    register(KIND)
    yield
    unregister(KIND.name)


def frames(file: int) -> np.ndarray:
    return np.stack([pixels(10 * file + frame) for frame in range(FRAMES)])


@pytest.fixture
def data(tmp_path):
    for file in range(FILES):
        write_stack(tmp_path / f"data/s{file}.stack", frames(file))
    return tmp_path / "data"


@pytest.fixture
def filled(data, tmp_path):
    """The collection, open."""
    with open_store(tmp_path / "store") as store:
        encoder = get("pixels")
        with store.open_or_create("pixels", encoder.card) as collection:
            report = ingest_images(StackSource(data), encoder, collection, 2)
            assert (report.stored, report.failures) == (FILES * FRAMES, [])
            yield collection


def payloads(collection):
    return {point.payload["filepath"]: point.payload for page in collection.scroll() for point in page}


def shown(file: int, frame: int) -> Image.Image:
    """For people: stacks are negatives."""
    return ImageOps.invert(Image.fromarray(frames(file)[frame - 1]))


def test_ingest__each_frame_is_an_image(filled, data):
    found = payloads(filled)
    assert sorted(found) == [f"s{file}.stack#{frame}" for file in range(FILES) for frame in range(1, FRAMES + 1)]
    assert {(item["kind"], item["width"], item["height"]) for item in found.values()} == {("image", 40, 48)}
    assert len({item["sha256"] for item in found.values()}) == FILES * FRAMES


def test_ingest__what_is_stored_is_skipped_and_what_changed_is_embedded_again(filled, data):
    again = ingest_images(StackSource(data), get("pixels"), filled, 1)
    assert (again.stored, again.skipped, again.updated) == (0, FILES * FRAMES, 0)
    write_stack(data / "s1.stack", frames(7))
    (data / "s2.stack").write_bytes(b"STACK1 and no more")
    third = ingest_images(StackSource(data), get("pixels"), filled, 1)
    assert (third.stored, third.skipped) == (FRAMES, 2 * FRAMES)


def test_ingest__thumbnails_are_drawn_as_people_see_it(data, tmp_path):
    place = open_place(tmp_path / "thumbnails", BASE)
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        ingest_images(StackSource(data), encoder, collection, 1, place=place)
        (point,) = [p for page in collection.scroll() for p in page if p.payload["filepath"] == "s1.stack#2"]
    with Image.open(place.path(point.id)) as drawn:
        difference = np.asarray(drawn, int) - np.asarray(thumbnail(shown(1, 2).convert("RGB")), int)
    assert np.abs(difference).mean() < 3


def test_thumbnails__of_a_collection_that_exists(filled, data, tmp_path):
    report = set_thumbnails(filled, data, open_place(tmp_path / "thumbnails", BASE), workers=1)
    assert (report.set, report.failures) == (FILES * FRAMES, [])
    assert all(item["thumbnail_url"].startswith(BASE) for item in payloads(filled).values())


def test_search__a_frame_finds_itself_and_its_file_has_no_copies_of_it(filled, data):
    asset = Asset(data / "s2.stack", frame=3)
    with Searcher(filled) as searcher:
        (answer,) = searcher.ask(asset, Options(k=3, exclude_same_patient=False))
        assert (answer.hits[0].payload["filepath"], answer.hits[0].score) == ("s2.stack#3", pytest.approx(1, abs=1e-5))
        assert answer.stored is not None
        assert answer.stored.payload["filepath"] == "s2.stack#3"
        (others,) = searcher.ask(asset, Options(k=99, exclude_self=True, exclude_same_patient=False))
        assert len(others.hits) == FILES * FRAMES - 1
        assert searcher.like("s2.stack#3", Options(k=1)).hits[0].payload["filepath"] != "s2.stack#3"
        with pytest.raises(ImageError, match=r"s2\.stack holds 3 frames; name one"):
            searcher.ask(data / "s2.stack")
        with pytest.raises(ImageError, match=r"s2\.stack frame 4 holds 3 frames, none with number 4"):
            searcher.ask(Asset(data / "s2.stack", frame=4))


def test_sheet__queries_and_hits(filled, data, tmp_path):
    with Searcher(filled) as searcher:
        answers = searcher.ask([Asset(data / "s0.stack", frame=1), Asset(data / "s3.stack", frame=2)], Options(k=2))
    drawn = draw_sheet(answers, Shelf(filled), SheetTerms(path=tmp_path / "a.png"))
    assert (drawn.rows, drawn.missing) == (2, {})
    picture = Shelf(filled, data).draw({"filepath": "s1.stack#2", "dataset": "stacks"})
    assert np.array_equal(np.asarray(picture.convert("L")), np.asarray(shown(1, 2)))
    Shelf(filled, data).check()


def test_report__has_the_pictures(filled, data, tmp_path):
    protocol = RetrievalProtocol(measures=("precision",), k=(1,), searches=("exact",), draws=0)
    with open_store(tmp_path / "store") as store:
        report = make_report(store, ["pixels"], ReportTerms(protocol=protocol, root=data, pictures=1))
    assert report.missing == 0
    assert report.pictures > 2


def test_doctor__names_it():
    (files,) = [check for check in check_program() if check.name == "files"]
    assert files.state == "ok"
    assert ".png" in files.text
    assert ".stack" in files.text


def test_prune_and_reindex__find_its_files(filled, data):
    assert prune(filled, data).gone == ()
    items = list(StoredSource(filled, data))
    assert {item.asset for item in items} == {
        Asset(data / f"s{file}.stack", frame=frame) for file in range(FILES) for frame in range(1, FRAMES + 1)
    }
    (data / "s0.stack").unlink()
    assert sorted(path for _, path in prune(filled, data).gone) == [f"s0.stack#{frame}" for frame in (1, 2, 3)]


def test_table__rows_name_frames(data, tmp_path):
    (data / "table.csv").write_text("filepath,patient_id\ns1.stack#2,p\n./s0.stack#1,q\ns0.stack#9,q\ns1.stack,p\n")
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        report = ingest_images(open_source(data / "table.csv"), encoder, collection, 1)
        assert sorted(payloads(collection)) == ["s0.stack#1", "s1.stack#2"]
    assert [item.filepath for item in report.failures] == ["s0.stack#9", "s1.stack"]


def test_folder__files_of_the_kind_are_looked_at(data):
    assert [item.asset.path.name for item in open_source(data)] == [f"s{file}.stack" for file in range(FILES)]


def test_split_key__only_kinds_with_frames():
    assert split_key("x/a.stack#12") == ("x/a.stack", 12)
    for name in ("a.png#1", "a#1.png", "a.stack", "a.stack#0", "a.stack#", "a.stack#x", "#1", "a#1"):
        assert split_key(name) == (name, None)
    assert stored_asset(Root(Path("/data/x")), "a.png#1") == Asset("/data/x/a.png#1")


def test_content__a_kind_that_breaks_its_promise_is_one_line(data):
    asset = data / "s0.stack"
    grey = lambda file, options: Decoded(Image.new("L", (3, 3)))  # noqa: E731
    for decode, said in ((grey, "of stack came a Image"), (lambda file, options: 1 / 0, "division by zero")):
        register(replace(KIND, decode=decode))
        with pytest.raises(ImageError, match=said):
            Asset(asset, frame=1).content()


def test_frame__of_a_kind_without_frames(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"has no frame 2: picture files are one image or volume each"):
        Asset(tmp_path / "a.png", frame=2).content()


def test_unregister__the_kind_is_gone(data):
    unregister(KIND.name)
    assert expected_kind("a.stack") == "image"
    with pytest.raises(ImageError, match="not in a picture format"):
        Asset(data / "s0.stack", frame=1).content()
    register(KIND)


def test_loader__a_kind_that_workers_cant_find_is_one_line(tmp_path):
    """Its functions are in the script itself, which workers don't run."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from cbmir.errors import WorkerError\nfrom cbmir.ingest.loader import Loader\n"
        "from cbmir.ingest.loading import Drawing\n"
        "from cbmir.media import FileKind, register\n"
        "def no(*_): return False\n"
        "register(FileKind(name='mine', holds='image', suffixes=('.mine',), recognises=no, decode=no))\n"
        "try:\n    Loader(Drawing(), 1)\nexcept WorkerError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment(), timeout=300, check=True
    )
    assert done.stdout.startswith("files of kind mine can't be decoded in other processes: its functions must be")
    assert done.stderr == ""
