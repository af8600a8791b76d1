"""Thumbnails: pictures, ids and URLs, with ingest and afterwards, and whether the Qdrant Web UI shows them."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
from browser import CHROMIUM, browser
from pictures import environment, read_volume, real_pictures, write_picture, write_table
from pictures import pixels as blobs
from PIL import Image, PngImagePlugin
from qdrant_client import QdrantClient

from cbmir.encoders import get
from cbmir.encoders.pixels import PixelEncoder
from cbmir.errors import FilterError, ThumbnailError
from cbmir.filters import parse
from cbmir.fingerprint import EncoderCard
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.thumbnails import existing
from cbmir.ingest.thumbnails.existing import set_thumbnails
from cbmir.ingest.thumbnails.place import open_place, write
from cbmir.media import LONGEST_PX, Volume, VolumePreprocessing, decode, slice_thumbnail, thumbnail
from cbmir.schema import NAMESPACE, EmbeddedBatch, ImageRecord
from cbmir.store.edge import EdgeStore
from cbmir.store.server import ServerStore

pytestmark = pytest.mark.slow

BASE = "https://images.example.org/thumbnails"
ID = "5b7a4a4e-6d0f-5e0c-9a52-0c6f3d1f2a10"
BASES = (
    BASE,
    f"{BASE}/",
    "http://127.0.0.1:8080",
    "http://[2001:db8::1]:8080/a",
    "HTTPS://Images.Example.ORG/Thumbnails.PNG/",
    "http://3f9ab2c4d1e0/bücher",
    "http://localhost:1/a@b/%20/..",
)
CT = VolumePreprocessing(input_voxels=(16, 16, 12), window_hu=(-1000, 200), fit="squash")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".svg")


def shown_by_the_web_ui(payload):
    """The fields that the Qdrant Web UI draws: top-level strings that are URLs with the path of a picture."""
    return {
        name
        for name, value in payload.items()
        if isinstance(value, str) and all(urlsplit(value)[:2]) and urlsplit(value).path.endswith(SUFFIXES)
    }


@pytest.fixture
def place(tmp_path):
    return open_place(tmp_path / "thumbnails", BASE)


@pytest.fixture
def encoder():
    return get("pixels")


@pytest.fixture
def pixels(edge, encoder):
    """An empty collection of the encoder `pixels`."""
    with edge.create("pixels", encoder.card) as collection:
        yield collection


def contents(collection):
    """File path -> (id, payload, vector) of all points."""
    points = (point for page in collection.scroll(vectors=True) for point in page)
    return {point.payload["filepath"]: (point.id, dict(point.payload), point.vector.tobytes()) for point in points}


def write_volume(path, values, spacing_mm):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.diag([*spacing_mm, 1])), path)
    return path


def files(place):
    """Content and time of all finished thumbnails; there must be nothing else."""
    found = {path.relative_to(place.folder): path for path in place.folder.rglob("*") if path.is_file()}
    return {name.as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for name, path in found.items()}


def alike(one, other):
    """Whether two pictures of one size are the same but for what JPEG takes away."""
    left, right = np.asarray(one, float), np.asarray(other, float)
    return abs(left - right).mean() < 5 and np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.98


def complete(collection, place):
    """Whether every image has its own thumbnail under its id, and nothing else is there."""
    ids = {id: payload for id, payload, _ in contents(collection).values()}
    for id, payload in ids.items():
        assert payload["thumbnail_url"] == f"{place.base}/{id[:2]}/{id}.jpg"
        assert shown_by_the_web_ui(payload) == {"thumbnail_url"}
    return files(place).keys() == {f"{id[:2]}/{id}.jpg" for id in ids}


# the place


def test_place__the_web_ui_shows_every_url(tmp_path):
    for base in BASES:
        url = open_place(tmp_path / "t", base).url(ID)
        assert url == f"{base.rstrip('/')}/5b/{ID}.jpg"
        assert shown_by_the_web_ui({"thumbnail_url": url, "list": [url], "object": {"a": url}}) == {"thumbnail_url"}
    assert not shown_by_the_web_ui({"a": "5b/x.jpg", "b": "http://h/x.PNG", "c": "data:image/png;base64,eA==", "d": 1})


@pytest.mark.skipif(not (shutil.which("node") or CHROMIUM), reason="neither node nor Chromium is installed")
def test_place__a_browser_reads_every_url(tmp_path):
    urls = [open_place(tmp_path / "t", base).url(ID) for base in BASES]
    script = f"JSON.stringify({json.dumps(urls)}.map(url => new URL(url).pathname))"
    if node := shutil.which("node"):
        said = subprocess.run([node, "-p", script], capture_output=True, text=True, check=True).stdout
    else:
        with browser(tmp_path / "profile") as page:
            said = page.value(script)
    assert [path.endswith(f"/5b/{ID}.jpg") for path in json.loads(said)] == [True] * len(BASES)


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("", "must be absolute"),
        ("thumbnails", "must be absolute"),
        ("//host/x", "must be absolute"),
        ("http:/host/x", "must be absolute"),
        ("file:///data", "must be absolute"),
        ("ftp://host/x", "must be absolute"),
        ("https://", "must be absolute"),
        ("https://me:secret@host/x", "a user or a password"),
        ("https://secret@host:99999/x", "Port out of range"),
        ("https://host/x?token=secret", "without ? and #"),
        ("https://host/x?", "without ? and #"),
        ("https://host/x#secret", "without ? and #"),
        ("https://host/a b", "a space"),
        ("https://host/x\n", "a space"),
        ("https://ho\\st/x", "a backslash"),
        ("https://[::1/x", "Invalid IPv6"),
        ("https://[fe80::1%eth0]/x", "is no host"),
        ("https://300.1.1.1/x", "is no host"),
        ("https://ho%20st/x", "is no host"),
        ("https://a|b/x", "is no host"),
    ],
)
def test_open_place__refuses_other_urls_before_it_makes_anything(tmp_path, base, why):
    with pytest.raises(ThumbnailError) as error:
        open_place(tmp_path / "t", base)
    assert why in str(error.value)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "t").exists()


def test_open_place__a_folder_that_takes_no_files(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ThumbnailError, match=r"can't write thumbnails to .*file/t: Not a directory"):
        open_place(tmp_path / "file/t", BASE)


def test_open_place__clears_what_killed_runs_left(place):
    old, young = place.folder / ".part/old", place.folder / ".part/young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    open_place(place.folder, BASE)
    assert (old.exists(), young.exists()) == (False, True)


# the pictures


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 384), (256, 192)), ((300, 1000), (77, 256)), ((256, 10), (256, 10)), ((64, 32), (64, 32)),
     ((3, 9000), (1, 256)), ((1, 1), (1, 1))],
)  # fmt: skip
def test_thumbnail__sizes(size, expected):
    assert thumbnail(Image.new("RGB", size)).size == expected


def test_thumbnail__looks_like_its_source(place):
    modes = []
    for number, source in enumerate(real_pictures()):
        for large in (source, source.resize((source.width * 4, source.height * 4), Image.Resampling.BICUBIC)):
            path = place.path(str(uuid.UUID(int=number)))
            write(thumbnail(large), path)
            with Image.open(path) as made:
                made.load()
            assert (made.format, max(made.size)) == ("JPEG", min(LONGEST_PX, max(large.size)))
            expected = source.resize(made.size, Image.Resampling.LANCZOS)
            assert alike(made.convert("RGB"), expected)
            modes.append(made.mode)
    assert modes == ["L", "L", "L", "L", "RGB", "RGB"]


def test_write__nothing_of_the_metadata_of_the_source(place):
    exif = Image.Exif()
    exif[0x010E] = "John Doe"
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", "John Doe")
    text.add_itxt("XML:com.adobe.xmp", "John Doe")
    profile = b"John Doe" * 20
    picture = real_pictures()[2]
    for form, options in {
        "JPEG": {"exif": exif, "comment": "John Doe", "icc_profile": profile, "xmp": b"John Doe", "dpi": (1, 2)},
        "PNG": {"exif": exif, "pnginfo": text, "icc_profile": profile, "dpi": (1, 2)},
        "TIFF": {"description": "John Doe", "icc_profile": profile, "exif": exif},
        "WEBP": {"exif": exif, "icc_profile": profile, "xmp": b"John Doe"},
    }.items():
        source = io.BytesIO()
        picture.save(source, form, **options)
        write(thumbnail(decode(source.getvalue())), place.path(ID))
        data = place.path(ID).read_bytes()
        assert b"John Doe" not in data
        with Image.open(io.BytesIO(data)) as made:
            assert set(made.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert made.info["jfif_density"] == (1, 1)
            assert not made.getexif()


def test_slice_thumbnail__the_middle_as_it_is_looked_at(tmp_path):
    values = np.full((40, 60, 5), -500, np.int16)
    values[30:, :, 2] = 0  # the patient's right
    values[:, 50:, 2] = 200  # the front
    values[0, 0, 4] = 3000  # another slice
    volume = read_volume(write_volume(tmp_path / "v.nii", values, (1, 1, 5)))
    picture = np.asarray(slice_thumbnail(volume, (-1000, 1000)))
    assert picture.shape == (60, 40)
    assert [picture[row, column] for row, column in ((5, 5), (40, 5), (40, 30))] == [153, 128, 64]
    own = np.asarray(slice_thumbnail(volume))
    assert [own[row, column] for row, column in ((5, 5), (40, 5), (40, 30))] == [255, 182, 0]


def test_slice_thumbnail__pixels_are_square_and_an_even_slice_is_black():
    values = np.zeros((50, 400, 3), np.float32)
    made = slice_thumbnail(Volume(values, (4.0, 1.0, 1.0)))
    assert (made.size, made.getextrema()) == ((128, 256), (0, 0))
    assert slice_thumbnail(Volume(values, (1e-6, 1.0, 1.0))).size == (1, 256)


# writing


def test_write__a_full_disk_leaves_the_old_file_and_no_half_one(place):
    write(Image.new("L", (8, 8)), place.path(ID))
    before = files(place)
    code = (
        "import os, resource, sys; from pathlib import Path; from PIL import Image\n"
        "from cbmir.ingest.thumbnails.place import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: write(Image.frombytes('L', (256, 256), os.urandom(65536)), Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    words = [sys.executable, "-c", code, str(place.path(ID))]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == (
        f"ThumbnailError can't write the thumbnail {place.path(ID)}: File too large; what was stored stays\n"
    )
    assert files(place) == before


# with ingest


def test_ingest_images__draws_beside_embedding_and_a_second_run_changes_nothing(tmp_path, pixels, encoder, place):
    source = open_source(write_table(tmp_path / "data", 40))
    (tmp_path / "data/images/00007.png").write_bytes(b"no picture")
    report = ingest_images(source, encoder, pixels, 2, place=place)
    assert (report.read, report.stored, report.failed) == (40, 39, 1)
    assert complete(pixels, place)
    id = contents(pixels)["images/00003.png"][0]
    assert id == str(uuid.uuid5(NAMESPACE, "made/images/00003.png"))
    with Image.open(place.path(id)) as made, Image.open(tmp_path / "data/images/00003.png") as drawn:
        assert alike(made, drawn)
    before = contents(pixels), files(place)
    again = ingest_images(source, encoder, pixels, 2, place=place)
    assert (again.stored, again.skipped, again.updated) == (0, 39, 0)
    assert (contents(pixels), files(place)) == before
    plain = ingest_images(source, encoder, pixels, 1)  # without the option nothing changes
    assert (plain.skipped, plain.updated) == (39, 0)
    assert (contents(pixels), files(place)) == before


def test_ingest_images__mends_what_is_missing_without_embedding(tmp_path, pixels, encoder, place):
    source = open_source(write_table(tmp_path / "data", 20))
    ingest_images(source, encoder, pixels, 1)
    vectors = {name: vector for name, (_, _, vector) in contents(pixels).items()}
    ids = {name: id for name, (id, _, _) in contents(pixels).items()}
    late = ingest_images(source, encoder, pixels, 1, place=place)
    assert (late.stored, late.skipped, late.updated, late.seconds["encode"]) == (0, 20, 20, 0.0)
    assert complete(pixels, place)
    before = contents(pixels), files(place)
    place.path(ids["images/00001.png"]).unlink()
    place.path(ids["images/00002.png"]).write_bytes(b"")
    pixels.set_payloads({ids["images/00003.png"]: {"thumbnail_url": "https://elsewhere/1.jpg"}})
    mended = ingest_images(source, encoder, pixels, 1, place=place)
    assert (mended.stored, mended.skipped, mended.updated) == (0, 20, 3)
    assert "(3 of the skipped updated)" in mended.lines()[0]
    assert contents(pixels) == before[0]
    assert {name: data for name, (data, _) in files(place).items()} == {k: data for k, (data, _) in before[1].items()}
    moved = open_place(place.folder, "http://new/")
    assert ingest_images(source, encoder, pixels, 1, place=moved).updated == 20
    assert complete(pixels, moved)
    assert {name: vector for name, (_, _, vector) in contents(pixels).items()} == vectors


def test_ingest_images__a_changed_image_gets_a_new_thumbnail(tmp_path, pixels, encoder, place):
    source = open_source(write_table(tmp_path / "data", 3))
    ingest_images(source, encoder, pixels, 1, place=place)
    before = files(place)
    for seed, option in ((500, place), (501, None)):
        write_picture(tmp_path / "data/images/00001.png", seed)
        assert ingest_images(source, encoder, pixels, 1, place=option).stored == 1
    id, payload, _ = contents(pixels)["images/00001.png"]
    assert "thumbnail_url" not in payload  # rather none than an old one
    name = f"{id[:2]}/{id}.jpg"
    seen = {before[name][0], files(place)[name][0]}
    assert ingest_images(source, encoder, pixels, 1, place=place).updated == 1
    assert complete(pixels, place)
    assert len(seen | {files(place)[name][0]}) == 3
    assert {k: v for k, v in files(place).items() if k != name} == {k: v for k, v in before.items() if k != name}


def test_ingest_images__the_tables_own_url_wins(tmp_path, pixels, encoder, place):
    for number in range(2):
        write_picture(tmp_path / f"data/{number}.png", number)
    table = tmp_path / "data/table.csv"
    table.write_text("filepath,thumbnail_url\n0.png,https://own/0.png\n1.png,\n")
    for _ in range(2):
        ingest_images(open_source(table), encoder, pixels, 1, place=place)
        urls = {name: payload["thumbnail_url"] for name, (_, payload, _) in contents(pixels).items()}
        id = contents(pixels)["1.png"][0]
        assert urls == {"0.png": "https://own/0.png", "1.png": place.url(id)}
        assert list(files(place)) == [f"{id[:2]}/{id}.jpg"]


def test_ingest_images__stops_where_a_thumbnail_can_not_be_written(tmp_path, pixels, encoder, place):
    source = open_source(write_table(tmp_path / "data", 200))
    obstacle = place.folder / str(uuid.uuid5(NAMESPACE, "made/images/00150.png"))[:2]
    obstacle.touch()
    with pytest.raises(ThumbnailError, match=f"can't write the thumbnail {obstacle}/.*; what was stored stays"):
        ingest_images(source, encoder, pixels, 1, place=place)
    for id, payload, _ in contents(pixels).values():
        assert payload["thumbnail_url"] == place.url(id)
        assert place.path(id).stat().st_size
    obstacle.unlink()
    rest = ingest_images(source, encoder, pixels, 1, place=place)
    assert (rest.stored + rest.skipped, rest.failed) == (200, 0)
    assert complete(pixels, place)


@pytest.fixture
def scans(edge):
    """An empty collection of volumes and its encoder."""
    encoder = PixelEncoder(EncoderCard("scans", int(np.prod(CT.input_voxels)), "none", CT.as_json()), CT, 1)
    with edge.create("scans", encoder.card) as collection:
        yield collection, encoder


def test_volumes__the_slice_in_the_window_of_the_encoder_both_ways(tmp_path, scans, place):
    collection, encoder = scans
    paths = []
    for number in range(2):
        body = np.stack([blobs(number * 100 + z, 40 + number, 36) * 6.0 - 1100 for z in range(20)], axis=-1)
        paths.append(write_volume(tmp_path / f"data/{number}.nii{'.gz' * number}", body, (1.2, 1.1, 2.5)))
    write_volume(tmp_path / "data/even.nii", np.zeros((20, 20, 20)), (1, 1, 1))
    source = open_source(tmp_path / "data")
    report = ingest_images(source, encoder, collection, 1, place=place)
    assert (report.stored, report.failed) == (2, 1)
    assert complete(collection, place)
    for path in paths:
        volume = read_volume(path)
        shown = np.clip((volume.values[::-1, ::-1, 10].T + 1000) / 1200, 0, 1) * 255  # CT's window
        with Image.open(place.path(contents(collection)[path.name][0])) as made:
            assert alike(made, Image.fromarray(shown.astype(np.uint8)).resize(made.size))
    again = ingest_images(source, encoder, collection, 1, place=place)
    assert (again.skipped, again.updated) == (2, 0)
    other = open_place(tmp_path / "other", "http://h")
    assert set_thumbnails(collection, tmp_path / "data", other, (), 1).set == 2
    assert [data for data, _ in files(other).values()] == [data for data, _ in files(place).values()]
    place.path(contents(collection)["0.nii"][0]).unlink()
    place = open_place(place.folder, "http://h")
    assert ingest_images(source, encoder, collection, 1, place=place).updated == 1
    assert complete(collection, place)


# afterwards


@pytest.fixture(params=["directory", "server"])
def stored(request, tmp_path, encoder):
    """A collection of 60 pictures of `tmp_path`/data, embedded without thumbnails."""
    over = EdgeStore(tmp_path / "other")
    if request.param == "server":
        over = ServerStore.over(QdrantClient(":memory:"), "memory")
    with over as store, store.create("pixels", encoder.card) as collection:
        ingest_images(open_source(write_table(tmp_path / "data", 60)), encoder, collection, 1)
        yield collection


def test_set_thumbnails__the_same_as_with_ingest(tmp_path, stored, place, pixels, encoder, monkeypatch):
    monkeypatch.setattr(existing, "BATCH", 40)  # three chunks of 16, and the rest
    report = set_thumbnails(stored, tmp_path / "data", place, (), 2)
    assert str(report) == "pixels: read 60 = set 60 + same already 0 + failed 0"
    assert complete(stored, place)
    before = contents(stored), files(place)
    again = set_thumbnails(stored, tmp_path / "data", place, (), 1)
    assert (again.read, again.set, again.same) == (60, 0, 60)
    assert (contents(stored), files(place)) == before
    ingest_images(open_source(tmp_path / "data/table.csv"), encoder, pixels, 2, place=place)
    payloads = ({name: point[:2] for name, point in contents(item).items()} for item in (pixels, stored))
    assert next(payloads) == next(payloads)
    assert {name: data for name, (data, _) in files(place).items()} == {k: data for k, (data, _) in before[1].items()}


def test_set_thumbnails__a_url_under_a_former_id_is_set_anew(tmp_path, pixels, encoder, place):
    ingest_images(open_source(write_table(tmp_path / "data", 3)), encoder, pixels, 1)
    ids = [id for id, _, _ in contents(pixels).values()]
    former, other = str(uuid.uuid4()), "https://elsewhere.example/thumbnails"
    urls = {ids[0]: place.url(former), ids[1]: f"{other}/{former[:2]}/{former}.jpg"}
    pixels.set_payloads({id: {"thumbnail_url": url} for id, url in urls.items()})
    report = set_thumbnails(pixels, tmp_path / "data", place, (), 1)
    assert (report.read, report.set, report.elsewhere) == (3, 2, 1)
    shown = {point.id: point.payload["thumbnail_url"] for point in pixels.get(ids)}
    assert shown == {ids[0]: place.url(ids[0]), ids[1]: urls[ids[1]], ids[2]: place.url(ids[2])}


def test_set_thumbnails__counts_each_image_once(tmp_path, pixels, encoder, place):
    ingest_images(open_source(write_table(tmp_path / "data", 12)), encoder, pixels, 1)
    ids = {Path(name).stem: id for name, (id, _, _) in contents(pixels).items()}
    (vector,) = pixels.get([ids["00000"]], vectors=True)
    remote = ImageRecord(filepath="s3://bucket/1.png", dataset="made", modality="XR")
    pixels.upsert(EmbeddedBatch((remote,), vector.vector[np.newaxis], encoder.card.fingerprint))
    pixels.set_payloads({
        ids["00000"]: {"thumbnail_url": "https://own/0.png"},
        ids["00001"]: {"thumbnail_url": f"http://old/t/{ids['00001'][:2]}/{ids['00001']}.jpg"},
    })  # fmt: skip
    (tmp_path / "data/images/00002.png").unlink()
    write_picture(tmp_path / "data/images/00003.png", 77)
    report = set_thumbnails(pixels, tmp_path / "data", place, (), 1)
    assert str(report) == "pixels: read 13 = set 9 + same already 0 + with a URL from elsewhere 1 + failed 3"
    assert {item.filepath: item.reason for item in report.failures} == {
        "images/00002.png": "No such file or directory",
        "images/00003.png": "has changed since it was embedded: run `cbmir ingest images` again",
        "s3://bucket/1.png": "is a URI: thumbnails are made of files",
    }
    urls = {payload["filepath"]: payload.get("thumbnail_url") for _, payload, _ in contents(pixels).values()}
    assert urls["images/00000.png"] == "https://own/0.png"
    assert urls["images/00001.png"] == place.url(ids["00001"])
    assert {name for name, url in urls.items() if url is None} == {item.filepath for item in report.failures}
    assert len(files(place)) == 9


def test_set_thumbnails__only_what_the_filter_leaves(tmp_path, pixels, encoder, place):
    ingest_images(open_source(write_table(tmp_path / "data", 8)), encoder, pixels, 1)
    report = set_thumbnails(pixels, tmp_path / "data", place, (parse("modality=CT"),), 1)
    assert (report.read, report.set) == (2, 2)
    shown = [payload["modality"] for _, payload, _ in contents(pixels).values() if "thumbnail_url" in payload]
    assert shown == ["CT"] * 2
    with pytest.raises(FilterError, match="modality"):
        set_thumbnails(pixels, tmp_path / "data", place, (parse("modality=XX"),), 1)


def test_set_thumbnails__ctrl_c_finishes_what_is_in_hand_and_the_next_run_the_rest(
    tmp_path, pixels, encoder, place, monkeypatch
):
    ingest_images(open_source(write_table(tmp_path / "data", 120)), encoder, pixels, 1)
    store = pixels.set_payloads

    def asked(changes):
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)
        store(changes)

    monkeypatch.setattr(existing, "BATCH", 1)
    monkeypatch.setattr(pixels, "set_payloads", asked)
    report = set_thumbnails(pixels, tmp_path / "data", place, (), 1)
    assert report.interrupted
    assert 16 <= report.read == report.set < 120
    assert sum("thumbnail_url" in payload for _, payload, _ in contents(pixels).values()) == report.set
    rest = set_thumbnails(pixels, tmp_path / "data", place, (), 1)
    assert (rest.set, rest.same, rest.interrupted) == (120 - report.set, report.set, False)
    assert complete(pixels, place)


def test_set_thumbnails__stops_where_one_can_not_be_written(tmp_path, pixels, encoder, place):
    ingest_images(open_source(write_table(tmp_path / "data", 5)), encoder, pixels, 1)
    id = contents(pixels)["images/00003.png"][0]
    place.path(id).mkdir(parents=True)
    with pytest.raises(ThumbnailError, match="Is a directory; what was stored stays"):
        set_thumbnails(pixels, tmp_path / "data", place, (), 1)
    assert not any("thumbnail_url" in payload for _, payload, _ in contents(pixels).values())


# the commands


def test_commands(tmp_path, cbmir):
    table, store, folder = write_table(tmp_path / "data", 6), tmp_path / "store", tmp_path / "t"
    given = ("--store", store, "--thumbnails", folder, "--thumbnail-url", f"{BASE}/")
    images = ("ingest", "images", table, "--encoder", "pixels", "--workers", 1)
    done = cbmir(*images, *given, "--json")
    assert (done.returncode, json.loads(done.stdout)["stored"]) == (0, 6), done.stderr
    assert len(list(folder.glob("*/*.jpg"))) == 6
    (tmp_path / "data/images/00005.png").unlink()
    later = ("ingest", "thumbnails", "pixels", "--root", tmp_path / "data", "--workers", 1)
    assert cbmir(*later, *given).stderr.endswith("pixels: read 6 = set 0 + same already 6 + failed 0\n")
    shutil.rmtree(folder)
    failures = tmp_path / "failed.csv"
    some = cbmir(*later, *given, "--json", "--failures", failures, "--split", "train", "--split", "val")
    report = json.loads(some.stdout)
    assert some.returncode == 3
    assert report["read"] == report["set"] + 1 == report["failed"] + len(list(folder.glob("*/*.jpg")))
    assert report["same"] == report["elsewhere"] == 0
    with failures.open(newline="") as stream:
        assert [row["filepath"] for row in csv.DictReader(stream)] == ["images/00005.png"]
    assert f"1 failed, with its reason in {failures}" in some.stderr


def test_commands__wrong_options_end_before_any_work(tmp_path, cbmir):
    store, folder = tmp_path / "store", tmp_path / "t"
    images = ("ingest", "images", tmp_path / "missing", "--encoder", "nothing", "--store", store)
    for half in (("--thumbnails", folder), ("--thumbnail-url", BASE)):
        done = cbmir(*images, *half)
        assert (done.returncode, "give --thumbnails DIR and --thumbnail-url BASE, or neither" in done.stderr) == (
            2,
            True,
        )
    refused = cbmir(*images, "--thumbnails", folder, "--thumbnail-url", "thumbnails")
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: 'thumbnails' can't be the URL of thumbnails: it must be absolute, "
        "as in https://images.example.org/thumbnails\n"
    )
    later = ("ingest", "thumbnails", "pixels", "--root", tmp_path, "--store", store)
    assert cbmir(*later, "--thumbnails", folder).returncode == 2
    (tmp_path / "file").touch()
    below = cbmir(*later, "--thumbnails", tmp_path / "file/t", "--thumbnail-url", BASE)
    assert (below.returncode, below.stderr.count("\n")) == (1, 1)
    assert not folder.exists()
    assert not store.exists()
