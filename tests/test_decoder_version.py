"""The version of the decoder in the payload: what is embedded again after it has changed, and what is not."""

import numpy as np
import pytest
from builders import contents_of
from pictures import write_picture
from PIL import Image
from test_ingest_images import ingest

from cbmir.encoders import get
from cbmir.ingest.loading import Wanted, load_image
from cbmir.media import DECODER, Asset, Preprocessing, prepare, sha256
from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store import open_store

pytestmark = pytest.mark.slow

HOW = Preprocessing((32, 32), "squash", 32, "bilinear", (0.5,), (0.5,), channels=1)


@pytest.fixture
def encoder():
    return get("pixels")


def write_kinds(folder):
    """Plain images, and three that an earlier decoder read otherwise."""
    values = np.add.outer(np.linspace(0, 200, 64), np.linspace(0, 50, 96)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed in range(3):
        write_picture(folder / f"plain{seed}.png", seed)
    Image.fromarray(values).save(folder / "plain.jpg")
    Image.fromarray(values).save(folder / "white8.tif", tiffinfo={262: 0})
    turned = Image.fromarray(values).rotate(90, expand=True)
    turned.save(folder / "turned.png", exif=exif)
    turned.save(folder / "turned.jpg", exif=exif)
    turned.save(folder / "turned.tif", exif=exif)
    Image.fromarray(values.astype(np.uint16) * 200).save(folder / "white16.tif", tiffinfo={262: 0})
    return {"turned.png", "turned.jpg", "white16.tif"}


def forget_decoder(store, vector):
    """Make of the stored images what a cbmir without versions left: no version, and for a test another vector."""
    with open_store(store) as opened, opened.open("pixels") as collection:
        for point in next(collection.scroll(vectors=True)):
            payload = {name: value for name, value in point.payload.items() if name != "decoder"}
            record = ImageRecord.from_payload(payload)
            collection.upsert(EmbeddedBatch((record,), vector[np.newaxis], collection.card.fingerprint))


def test_ingest_images__only_what_an_earlier_decoder_read_otherwise_is_embedded_again(tmp_path, encoder):
    affected = write_kinds(tmp_path / "data")
    first = ingest(tmp_path / "data", tmp_path / "store", encoder)
    assert (first.stored, first.decoded_again) == (9, 0)
    assert first.notes == {"exif_orientation": 3, "white_is_zero": 2}
    present = contents_of(tmp_path / "store", "pixels")
    assert {payload["decoder"] for payload, _ in present.values()} == {DECODER}
    old = np.zeros(encoder.card.dim, np.float32)
    old[0] = 1.0
    forget_decoder(tmp_path / "store", old)

    again = ingest(tmp_path / "data", tmp_path / "store", encoder)
    assert (again.read, again.stored, again.skipped, again.failed) == (9, 3, 6, 0)
    assert (again.decoded_again, again.updated) == (3, 6)
    assert any("an earlier cbmir read them otherwise: 3 known files" in line for line in again.lines())
    after = contents_of(tmp_path / "store", "pixels")
    assert {payload["filepath"] for payload, vector in after.values() if vector != old.tobytes()} == affected
    assert all(after[id] == present[id] for id, (payload, _) in after.items() if payload["filepath"] in affected)
    assert {id: payload for id, (payload, _) in after.items()} == {id: payload for id, (payload, _) in present.items()}

    third = ingest(tmp_path / "data", tmp_path / "store", encoder)
    assert (third.stored, third.skipped, third.updated, third.decoded_again) == (0, 9, 0, 0)
    assert contents_of(tmp_path / "store", "pixels") == after


def test_ingest_images__turned_images_are_stored_with_their_shown_size(tmp_path, encoder):
    write_kinds(tmp_path / "data")
    ingest(tmp_path / "data", tmp_path / "store", encoder)
    stored = {payload["filepath"]: payload for payload, _ in contents_of(tmp_path / "store", "pixels").values()}
    turned = [stored[name] for name in ("turned.png", "turned.jpg", "turned.tif")]
    assert {(payload["width"], payload["height"]) for payload in turned} == {(96, 64)}


def test_load_image__a_known_file_is_not_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    known = sha256(b"no picture")
    assert load_image(Wanted(Asset(tmp_path / "a.png"), known), HOW).reason is None
    assert load_image(Wanted(Asset(tmp_path / "a.png"), known, known_decoder=DECODER + 1), HOW).reason is None
    assert "is not in a picture format" in str(
        load_image(Wanted(Asset(tmp_path / "a.png"), known, known_decoder=1), HOW).reason
    )


def test_ingest_images__a_later_version_of_the_decoder_is_left_alone(tmp_path, encoder):
    write_picture(tmp_path / "data/a.png", 1)
    ingest(tmp_path / "data", tmp_path / "store", encoder)
    with open_store(tmp_path / "store") as opened, opened.open("pixels") as collection:
        (point,) = next(collection.scroll())
        collection.set_payloads({point.id: {"decoder": DECODER + 1}})
    again = ingest(tmp_path / "data", tmp_path / "store", encoder)
    assert (again.stored, again.skipped, again.updated) == (0, 1, 0)


def test_command__the_report_counts_what_was_done_to_the_pixels(tmp_path, cbmir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_kinds(tmp_path / "data")
    frames = [Image.fromarray(np.full((9, 9), value, np.uint8)) for value in (50, 90)]
    grey = Image.linear_gradient("L")
    grey.save(tmp_path / "data/moving.gif", save_all=True, append_images=[grey.rotate(90)])
    frames[0].save(tmp_path / "data/pages.tif", save_all=True, append_images=frames[1:])
    done = cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", "store")
    assert done.returncode == 3
    assert "read 11 = stored 10 + skipped 0 + failed 1" in done.stderr
    assert "EXIF orientation says: 3" in done.stderr
    assert "tag says that zero is white: 2" in done.stderr
    assert "the first was taken: 1\n" in done.stderr
    found = cbmir("search", "image", *(tmp_path / "data" / name for name in ("moving.gif", "turned.png", "plain.jpg")),
                  "--store", "store")  # fmt: skip
    assert "queries: images turned or mirrored as their EXIF orientation says: 1" in found.stderr
    assert "queries: files with several frames (animations, MPO), of which the first was taken: 1" in found.stderr
    assert "inverted" not in found.stderr
    assert "holds 2 frames; save each as an image of its own" in (tmp_path / "failures-pixels.csv").read_text()


def test_prepare__a_query_gives_the_vector_that_ingest_stored(tmp_path, encoder):
    write_kinds(tmp_path / "data")
    ingest(tmp_path / "data", tmp_path / "store", encoder)
    stored = {payload["filepath"]: vector for payload, vector in contents_of(tmp_path / "store", "pixels").values()}
    for name, vector in stored.items():
        prepared = prepare(tmp_path / "data" / name, encoder.preprocessing)
        made = encoder.embed(prepared.pixels[np.newaxis])[0]
        assert np.dot(made, np.frombuffer(vector, np.float32)) == pytest.approx(1.0, abs=1e-6), name


@pytest.mark.parametrize(
    ("name", "fingerprint"), [("pixels", "9533775a7abc584e"), ("efficientnet-lite0", "68889d1528c05247")]
)
def test_fingerprint__is_not_moved_by_the_decoder(name, fingerprint):
    assert get(name).card.fingerprint == fingerprint
