"""Where the bytes of an asset may be, what its content says and not its name, and how often a file is opened."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import fsspec
import numpy as np
import pytest
from pictures import cbmir, environment, pixels, write_picture
from PIL import Image
from test_volumes import SQUASH, body, write_volume

from cbmir.encoders import get
from cbmir.encoders.encode import encode
from cbmir.encoders.pixels import PixelEncoder
from cbmir.errors import CollectionError, ImageError
from cbmir.fingerprint import EncoderCard
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.loader import Loader
from cbmir.ingest.loading import Wanted, load_image
from cbmir.ingest.sources import SourceImage
from cbmir.ingest.sources.base import make_record
from cbmir.ingest.thumbnails.existing import set_thumbnails
from cbmir.ingest.thumbnails.place import open_place
from cbmir.media import Asset, prepare
from cbmir.media.raster import KIND as RASTER
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.search import Options, Searcher
from cbmir.search.shelf import Shelf
from cbmir.store import open_store

PNG = get("pixels").preprocessing


def png(seed=1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def volumes_encoder():
    return PixelEncoder(EncoderCard("scans", int(np.prod(SQUASH.input_voxels)), "none", SQUASH.as_json()), SQUASH, 1)


def payloads(collection):
    return {point.payload["filepath"]: point.payload for page in collection.scroll() for point in page}


@pytest.fixture
def archive(tmp_path):
    """URLs of one picture: of a file, in an archive, in memory."""
    write_picture(tmp_path / "a b.png", 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("deep/a.png", (tmp_path / "a b.png").read_bytes())
        file.writestr("deep/v.nii.gz", write_volume(tmp_path / "v.nii.gz", body(0)).read_bytes())
    fsspec.filesystem("memory").pipe("/x/a.png", (tmp_path / "a b.png").read_bytes())
    yield {
        "file": f"file://{tmp_path}/a b.png",
        "member": f"zip://deep/a.png::file://{tmp_path}/all.zip",
        "memory": "memory://x/a.png",
    }
    fsspec.filesystem("memory").rm("/x", recursive=True)


# where bytes may be


@pytest.mark.parametrize("where", ["file", "member", "memory"])
def test_at__the_same_as_the_file(archive, tmp_path, where):
    local, there = Asset(tmp_path / "a b.png"), Asset.at(archive[where])
    assert there.name == ("a b.png" if where == "file" else "a.png")
    assert (there.kind, there.size, there.sha256) == ("image", (40, 48), local.sha256)
    assert np.array_equal(np.asarray(there.image), np.asarray(local.image))
    assert np.array_equal(prepare(there, PNG).pixels, prepare(local, PNG).pixels)
    with there.open() as file:
        assert file.read() == (tmp_path / "a b.png").read_bytes()
    assert pickle.loads(pickle.dumps(there)) == there


def test_at__a_volume_in_an_archive(archive, tmp_path):
    there = Asset.at(f"zip://deep/v.nii.gz::file://{tmp_path}/all.zip")
    assert there.sha256 == Asset(tmp_path / "v.nii.gz").sha256
    assert np.array_equal(there.volume.values, Asset(tmp_path / "v.nii.gz").volume.values)
    assert there.thumbnail().size == Asset(tmp_path / "v.nii.gz").thumbnail().size


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://a.png", "can't be opened: Protocol not known: nosuch"),
        ("zip://a.png::nosuch://b.zip", "can't be opened: Protocol not known: nosuch"),
        ("a.png", "is no URL: a.png has no protocol, as in s3://bucket/a.png"),
        ("zip://a.png::file:///nowhere/a.zip", "No such file or directory"),
        ("zip://none.png::file://TMP/all.zip", "No such file or directory"),
        ("zip://deep::file://TMP/all.zip", "is not a regular file"),
        ("zip://a.png::file://TMP/a b.png", "can't be opened: File is not a zip file"),
        ("file://TMP/none.png", "No such file or directory"),
        ("file://TMP", "is not a regular file"),
        ("file://TMP/empty.png", "is empty"),
        ("file://TMP/huge.png", f"is too large: {RASTER.most_bytes + 1:,} bytes, {RASTER.most_bytes:,} at most"),
        ("memory://none.png", "No such file or directory"),
    ],
)
def test_at__what_cant_be_read_is_one_line(archive, tmp_path, url, reason):
    (tmp_path / "empty.png").touch()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(RASTER.most_bytes + 1)
    asset = Asset.at(url.replace("TMP", str(tmp_path)))
    for use in (asset.open, asset.content, lambda: asset.kind, lambda: asset.sha256, asset.check):
        with pytest.raises(ImageError) as caught:
            use()
        assert str(caught.value) == reason


def test_at__keys_in_a_url_are_not_shown():
    asset = Asset.at("nosuch://user:secret@host/a.png?token=secret::file://me:secret@b/c.zip#secret")
    with pytest.raises(ImageError) as caught:
        asset.content()
    assert "secret" not in f"{caught.value} {asset} {asset!r} {asset.name}"
    assert str(asset) == "nosuch://host/a.png::file://b/c.zip"


def test_ingest_images__members_of_an_archive(archive, tmp_path):
    class Members:
        root, total, ignored = tmp_path, 1, {}

        def __iter__(self):
            yield SourceImage(make_record("all.zip/deep/a.png", "zipped", [], {}, {}), Asset.at(archive["member"]))

    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        assert ingest_images(Members(), encoder, collection, 1).stored == 1
        assert ingest_images(Members(), encoder, collection, 1).skipped == 1
        with Searcher(collection) as searcher:
            (answer,) = searcher.ask(Asset.at(archive["memory"]), Options(k=1, exclude_same_patient=False))
        assert (answer.query, answer.stored is not None) == ("memory://x/a.png", True)
        assert answer.hits[0].score == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        encode(encoder, [Asset.at(archive["member"])]), encode(encoder, [tmp_path / "a b.png"]), atol=1e-6
    )


def test_at__is_the_only_way_to_a_url(archive, tmp_path):
    """Whatever a table, a collection or a text names is not fetched: it may name what only this machine can reach."""
    for number, url in enumerate(archive.values()):
        (tmp_path / "t.csv").write_text(f"filepath\n{url}\n")
        items = list(open_source(tmp_path / "t.csv"))
        assert number == 0 or "is a URI, and cbmir reads files" in items[0].reason
        with pytest.raises(ImageError, match="No such file"):
            encode(get("pixels"), [url])
    encoder, url = get("pixels"), archive["memory"]
    vector = normalise(np.ones((1, encoder.card.dim), np.float32))
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        record = ImageRecord(filepath=url, dataset="x")
        collection.upsert(EmbeddedBatch((record,), vector, encoder.card.fingerprint))
        with pytest.raises(ImageError, match="No such file"):
            Shelf(collection, tmp_path).draw(record.payload())
        report = set_thumbnails(collection, tmp_path, open_place(tmp_path / "small", "https://images.example.org"))
        assert [item.reason for item in report.failures] == ["is a URI: thumbnails are made of files"]
        with Searcher(collection) as searcher, pytest.raises(CollectionError, match="there is no file"):
            searcher.ask("memory://x/b.png")


def test_pickle__nothing_that_was_read_goes_along(tmp_path):
    asset = Asset(write_picture(tmp_path / "a.png", 1), frame=2)
    before = pickle.dumps(asset)
    assert asset.sha256
    whole = Asset(asset.path)
    assert whole.image
    assert len(pickle.dumps(whole)) < 500
    again = pickle.loads(before)
    assert (again, again.path, again.frame) == (asset, asset.path, 2)
    assert again != whole
    assert len({asset, again, whole}) == 2
    data = pickle.loads(pickle.dumps(Asset(png())))
    assert data == Asset(png())
    assert data.size == (40, 48)


# content, not name


@pytest.fixture
def misnamed(tmp_path):
    """A picture, a volume, and one of each under a name of the other."""
    folder = tmp_path / "data"
    write_picture(folder / "picture.png", 1)
    write_volume(folder / "volume.nii.gz", body(0))
    write_volume(tmp_path / "x.nii", body(1))
    (folder / "volume.png").write_bytes((tmp_path / "x.nii").read_bytes())
    (folder / "packed.jpg").write_bytes(gzip.compress((tmp_path / "x.nii").read_bytes()))
    (folder / "picture.nii.gz").write_bytes(png(2))
    (folder / "no.nii.gz").write_bytes(b"nothing known")
    (folder / "packed.nii.gz").write_bytes(gzip.compress(png(3)))
    return folder


def test_kind__by_content(misnamed):
    assert {path.name: Asset(path).kind for path in misnamed.iterdir()} == {
        "picture.png": "image",
        "volume.nii.gz": "volume",
        "volume.png": "volume",
        "packed.jpg": "volume",
        "picture.nii.gz": "image",
        "no.nii.gz": "volume",
        "packed.nii.gz": "image",
    }
    assert Asset(png()).kind == "image"
    assert Asset((misnamed / "volume.nii.gz").read_bytes()).kind == "volume"
    assert "misnamed" in Asset(misnamed / "volume.png").notes
    assert Asset(misnamed / "volume.nii.gz").notes == ()
    with pytest.raises(ImageError, match="No such file"):
        _ = Asset(misnamed / "none.png").kind
    with pytest.raises(ImageError, match="is a volume, not an image"):
        _ = Asset(misnamed / "volume.png").image


def test_ingest_images__an_image_encoder_takes_what_is_an_image(misnamed, tmp_path):
    encoder = get("pixels")
    with open_store(tmp_path / "store") as store, store.create("pixels", encoder.card) as collection:
        report = ingest_images(open_source(misnamed), encoder, collection, 1)
        found = payloads(collection)
        assert sorted(found) == ["packed.nii.gz", "picture.nii.gz", "picture.png"]
        assert {(item["kind"], item["width"], item.get("depth")) for item in found.values()} == {("image", 40, None)}
        reasons = {item.filepath: item.reason.partition(". ")[0] for item in report.failures}
        takes = "is a volume; pixels takes images"
        assert reasons == dict.fromkeys(("volume.nii.gz", "volume.png", "packed.jpg", "no.nii.gz"), takes)
        assert report.notes == {"misnamed": 2}
        assert any(
            "files named as a volume that hold an image, or the reverse, taken as what they hold: 2" in line
            for line in report.lines()
        )
        again = ingest_images(open_source(misnamed), encoder, collection, 1)
        assert (again.stored, again.skipped, again.updated) == (0, 3, 0)
        assert payloads(collection) == found
        drawn = set_thumbnails(collection, misnamed, open_place(tmp_path / "small", "https://images.example.org"))
        assert (drawn.set, drawn.failures) == (3, [])


def test_ingest_images__a_volume_encoder_takes_what_is_a_volume(misnamed, tmp_path):
    encoder = volumes_encoder()
    with open_store(tmp_path / "store") as store, store.create("scans", encoder.card) as collection:
        report = ingest_images(open_source(misnamed), encoder, collection, 1)
        found = payloads(collection)
        assert sorted(found) == ["packed.jpg", "volume.nii.gz", "volume.png"]
        assert {(item["kind"], item["depth"]) for item in found.values()} == {("volume", body(0).shape[2])}
        reasons = {item.filepath: item.reason.partition(". ")[0] for item in report.failures}
        assert reasons.pop("no.nii.gz") == "is no NIfTI volume, nor one of MGH or NRRD"
        assert reasons == dict.fromkeys(
            ("picture.png", "picture.nii.gz", "packed.nii.gz"), "is an image; scans takes volumes"
        )
        again = ingest_images(open_source(misnamed), encoder, collection, 1)
        assert (again.stored, again.skipped, again.updated) == (0, 3, 0)
        with Searcher(collection, encoder=encoder) as searcher:
            (answer,) = searcher.ask(misnamed / "volume.png", Options(k=3, exclude_same_patient=False))
        assert answer.notes == ("misnamed",)
        assert {hit.payload["filepath"] for hit in answer.hits[:2]} == {"packed.jpg", "volume.png"}


def test_command__a_misnamed_file_is_said(misnamed, tmp_path):
    done = cbmir("ingest", "images", misnamed, "--encoder", "pixels", "--store", "store", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["notes"]["misnamed"] == 2
    found = cbmir("search", "image", misnamed / "picture.nii.gz", "--store", "store", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert (
        "queries: files named as a volume that hold an image, or the reverse, taken as what they hold: 1"
        in found.stderr
    )
    none = cbmir("search", "image", misnamed / "no.nii.gz", "--store", "store", cwd=tmp_path)
    assert (none.returncode, none.stdout) == (1, "")


def test_recognised__as_pillow_does():
    """What Pillow opens by the first bytes of a file, and nothing else, is a picture."""
    Image.init()
    formats = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
    samples = [
        *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+", b"BM"),
        *(
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WAVEfmt ",
            b"GIF87a",
            b"GIF89a",
            b"GIF88a",
            b"\xff\x4f\xff\x51",
            b"Pq",
        ),
        *(f"P{letter}".encode() for letter in "0123456789abcfFyz"),
        *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\1", b"NRRD0005", b"\x1f\x8b\x08", b"%!PS", b"", b"P", b"\x5c\x01\0\0"),
    ]
    for start in samples:
        head = start.ljust(540, b"\0") if len(start) > 1 else start
        accepted = any(bool(Image.OPEN[name][1](head[:16])) for name in formats if len(head) > 1)
        assert RASTER.recognises(head) == accepted, start


# no more than is needed


COUNTED = """
import sys
opened = []
sys.addaudithook(lambda name, arguments: opened.append(str(arguments[0])) if name == "open" else None)
from cbmir.encoders import get
from cbmir.ingest.loading import Wanted, load_image
from cbmir.media import Asset, VolumePreprocessing
sha = lambda path: Asset(path).sha256
pictures = get("pixels").preprocessing
volumes = VolumePreprocessing(input_voxels=(8, 8, 8), window_hu=(-1000.0, 1000.0), fit="squash")
for path, how, other in ((sys.argv[1], pictures, volumes), (sys.argv[2], volumes, pictures)):
    known = sha(path)
    for wanted in (Wanted(Asset(path), None), Wanted(Asset(path), known), Wanted(Asset(path), "changed")):
        opened.clear()
        loaded = load_image(wanted, how)
        assert loaded.reason is None, loaded.reason
        print(opened.count(path), end=" ")
    opened.clear()
    assert "takes" in load_image(Wanted(Asset(path), None), other).reason
    print(opened.count(path))
"""


def test_load_image__a_local_file_is_opened_as_often_as_it_must_be(tmp_path):
    """A picture once; a volume once for its hash and once to decode it; a known one for its hash only."""
    files = [write_picture(tmp_path / "a.png", 1), write_volume(tmp_path / "v.nii.gz", body(0))]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, files)],
        capture_output=True, text=True, env=environment(), check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["1 1 1 1", "2 1 2 1"]


def test_loader__gives_back_what_an_asset_is_loaded_for(tmp_path):
    paths = [write_picture(tmp_path / f"{number}.png", number) for number in range(5)]
    local = lambda: None  # noqa: E731  it can't be pickled: it stays in this process
    with Loader(PNG, 2) as loader:
        both = [
            pair
            for chunk in loader.load([[((path, local), Wanted(Asset(path), None))] for path in paths])
            for pair in chunk
        ]
    assert [task for task, _ in both] == [(path, local) for path in paths]
    for (path, _), loaded in both:
        assert np.array_equal(loaded.pixels, load_image(Wanted(Asset(path), None), PNG).pixels)
        assert (loaded.kind, loaded.width) == ("image", 40)


def test_make_record__kind_of_a_name_until_it_is_read(tmp_path):
    assert make_record("a.nii", "x", [], {}, {}).kind == "volume"
    assert make_record("a.png", "x", [], {}, {}).kind == "image"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_kind__of_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(ImageError, match="is not a regular file"):
        _ = Asset(tmp_path / "pipe.nii").kind
